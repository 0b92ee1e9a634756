//! How weights lie in a GPU's memory: tiles of 16 rows, steps of 64 columns, in the order of tensor cores' fragments.
//! Scalar code that defines it. Next in the flow: exact12.rs; `load` has GPUs do the same.

mod exact11;
mod exact12;

pub use exact11::Exact11;
pub use exact12::Exact12;

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a step: four products on tensor cores.
pub const STEP_COLS: usize = 64;
/// Products of a step, 16 columns each.
pub const STEP_PRODUCTS: usize = 4;
/// Parts that the columns are cut into, each summed on its own.
pub const N_SLICES: usize = 8;
/// Lanes of a warp.
pub(crate) const LANES: usize = 32;
/// Weights that a lane has of one product.
pub(crate) const LANE_WEIGHTS: usize = 8;

/// A resident layout on the GPU, of bf16 weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// bf16 as it is, row after row, padded to whole tiles and steps.
    Rows,
    /// 12 bits and escapes: for few tokens on cards whose memory is fast.
    Exact12,
    /// About 10.8 bits, by two codes of different length: where memory is slow, or small.
    Exact11,
}

impl Layout {
    /// All, the uncompressed one first.
    pub const ALL: [Layout; 3] = [Layout::Rows, Layout::Exact12, Layout::Exact11];

    /// Words of four bytes that a matrix's weights take, palettes, escapes and what else varies apart.
    pub(crate) fn n_words(self, shape: Shape) -> usize {
        match self {
            Layout::Rows => shape.padded_len() / 2,
            Layout::Exact12 => shape.padded_len() / 8 * 3,
            Layout::Exact11 => shape.n_tiles() * exact11::tile_vectors(shape.n_steps()) * 4,
        }
    }

    /// Pairs of words that a tile's palette takes.
    pub(crate) fn n_palettes(self) -> usize {
        match self {
            Layout::Rows => 0,
            Layout::Exact12 => 1,
            Layout::Exact11 => 2,
        }
    }

    /// Bytes that a matrix is likely to take: of exact12's weights a tenth of a percent are escapes; of exact11's two
    /// tenths, and a quarter has a second code of three bits.
    pub fn likely_bytes(self, shape: Shape) -> usize {
        let n_weights = shape.rows * shape.cols;
        let tiles = shape.n_tiles() * (8 * self.n_palettes() + 4 * N_SLICES);
        let varying = match self {
            Layout::Rows => 0,
            Layout::Exact12 => 4 * n_weights / 1000 + tiles,
            Layout::Exact11 => n_weights / 8 * 9 / 10 + tiles,
        };
        4 * self.n_words(shape) + varying
    }

    /// As people write it.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Rows => "bf16",
            Layout::Exact12 => "exact12",
            Layout::Exact11 => "exact11",
        }
    }
}

/// The cuts of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows: outputs of the linear layer.
    pub rows: usize,
    /// Columns: its inputs.
    pub cols: usize,
}

impl Shape {
    /// Tiles, the last of which may be cut short.
    pub fn n_tiles(self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Steps, the last of which may be cut short.
    pub fn n_steps(self) -> usize {
        self.cols.div_ceil(STEP_COLS)
    }

    /// Steps of a slice.
    pub fn slice(self, slice_idx: usize) -> std::ops::Range<usize> {
        self.n_steps() * slice_idx / N_SLICES..self.n_steps() * (slice_idx + 1) / N_SLICES
    }

    /// Elements of the rows and columns that tiles and steps cover.
    pub fn padded_len(self) -> usize {
        self.n_tiles() * TILE_ROWS * self.n_steps() * STEP_COLS
    }
}

/// (row of the tile, column of the step) of weight `idx` of a lane in product `product` of a step: lane `4 g + t` has
/// rows `g` and `g + 8`, and eight columns side by side in each half step, four for each of its two products.
pub fn position(product: usize, lane: usize, idx: usize) -> (usize, usize) {
    let (g, t) = (lane / 4, lane % 4);
    (g + 8 * (idx / 2 % 2), 32 * (product / 2) + 8 * t + 4 * (product % 2) + 2 * (idx / 4) + idx % 2)
}

/// The column of a step that input `k` (of 16) of a product multiplies.
pub fn product_col(product: usize, k: usize) -> usize {
    32 * (product / 2) + 8 * (k % 8 / 2) + 4 * (product % 2) + 2 * (k / 8) + k % 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_cover_a_step_once() {
        let mut seen = [[0; STEP_COLS]; TILE_ROWS];
        for product in 0..STEP_PRODUCTS {
            for lane in 0..LANES {
                for idx in 0..LANE_WEIGHTS {
                    let (row, col) = position(product, lane, idx);
                    seen[row][col] += 1;
                    assert!((0..16).any(|k| product_col(product, k) == col));
                }
            }
        }
        assert!(seen.iter().flatten().all(|&n| n == 1));
    }

    #[test]
    fn slices_cover_all_steps() {
        for cols in [1, 64, 65, 896, 4096, 14336] {
            let shape = Shape { rows: 1, cols };
            let steps: Vec<usize> = (0..N_SLICES).flat_map(|slice_idx| shape.slice(slice_idx)).collect();
            assert_eq!(steps, (0..shape.n_steps()).collect::<Vec<usize>>());
        }
    }
}
