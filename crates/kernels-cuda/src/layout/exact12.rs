//! exact12, defined: of each bf16 weight the low byte as it is, the sign, and three bits that say which of the tile's
//! eight commonest values bits 14..8 have; any other is an escape, in a list of its slice's.
//!
//! A step of a tile is 96 vectors of four words: for each half step 32 of low bytes, one a lane (both products of the
//! half), and then 32 of codes (a word for each of four products).

use super::{LANE_WEIGHTS, LANES, N_SLICES, STEP_COLS, STEP_PRODUCTS, Shape, TILE_ROWS, position};

/// Vectors of a step.
pub(crate) const STEP_VECTORS: usize = 3 * LANES;

/// A matrix in exact12.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exact12 {
    /// Rows and columns.
    pub shape: Shape,
    /// (n_tiles) of eight bytes, code 0 lowest.
    pub palettes: Vec<[u32; 2]>,
    /// (n_tiles, n_steps, 96)
    pub weights: Vec<[u32; 4]>,
    /// By tile, slice, product, weight of a lane, and lane: product, counted from the slice's first, `<< 16 | lane << 11 |
    /// weight << 8 | high byte`.
    pub escapes: Vec<u32>,
    /// (n_tiles, slices) and one more: where each slice's escapes begin.
    pub escape_starts: Vec<u32>,
}

/// Bits 14..8.
fn upper(weight: u16) -> u8 {
    (weight >> 8 & 127) as u8
}

/// The eight commonest uppers, the lower first among equals.
fn choose_palette(weights: impl Iterator<Item = u16>) -> [u8; 8] {
    let mut counts = [0u64; 128];
    weights.for_each(|weight| counts[usize::from(upper(weight))] += 1);
    let mut uppers: Vec<u8> = (0..128).collect();
    uppers.sort_by_key(|&upper| std::cmp::Reverse(counts[usize::from(upper)])); // stable
    std::array::from_fn(|code| uppers[code])
}

/// Where the sign of weight `idx` stands in a code.
fn sign_shift(idx: usize) -> usize {
    if idx < 4 { 8 * idx + 7 } else { 8 * (idx - 4) + 3 }
}

impl Exact12 {
    /// Encodes bf16 `weights` (rows, cols).
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn encode(shape: Shape, weights: &[u16]) -> Exact12 {
        assert_eq!(weights.len(), shape.rows * shape.cols);
        let n_vectors = shape.n_tiles() * shape.n_steps() * STEP_VECTORS;
        let mut encoded = Exact12 {
            shape,
            palettes: Vec::new(),
            weights: vec![[0; 4]; n_vectors],
            escapes: Vec::new(),
            escape_starts: vec![0],
        };
        for (tile_idx, tile) in weights.chunks(TILE_ROWS * shape.cols).enumerate() {
            let palette = choose_palette(tile.iter().copied());
            encoded.palettes.push([0, 4].map(|at| u32::from_le_bytes(std::array::from_fn(|i| palette[at + i]))));
            for slice_idx in 0..N_SLICES {
                for step in shape.slice(slice_idx) {
                    let first_product = (step - shape.slice(slice_idx).start) * STEP_PRODUCTS;
                    encoded.encode_step(tile_idx, tile, step, first_product, &palette);
                }
                encoded.escape_starts.push(encoded.escapes.len() as u32);
            }
        }
        encoded
    }

    fn encode_step(&mut self, tile_idx: usize, tile: &[u16], step: usize, first_product: usize, palette: &[u8; 8]) {
        let Shape { cols, .. } = self.shape;
        let first_vector = (tile_idx * self.shape.n_steps() + step) * STEP_VECTORS;
        let vectors = &mut self.weights[first_vector..first_vector + STEP_VECTORS];
        for product in 0..STEP_PRODUCTS {
            for idx in 0..LANE_WEIGHTS {
                for lane in 0..LANES {
                    let (row, col) = position(product, lane, idx);
                    let col = step * STEP_COLS + col;
                    let weight = if col < cols { tile.get(row * cols + col).copied() } else { None };
                    let Some(weight) = weight else { continue }; // padding is all zero bits
                    let code = palette.iter().position(|&entry| entry == upper(weight));
                    if code.is_none() {
                        let place = (first_product + product) << 16 | lane << 11 | idx << 8;
                        self.escapes.push(place as u32 | u32::from(weight >> 8));
                    }
                    let low = &mut vectors[product / 2 * LANES + lane][product % 2 * 2 + idx / 4];
                    *low |= u32::from(weight & 255) << (idx % 4 * 8);
                    let sign = u32::from(weight >> 15) << sign_shift(idx);
                    vectors[2 * LANES + lane][product] |= (code.unwrap_or(0) as u32) << (4 * idx) | sign;
                }
            }
        }
    }

    /// The weights again (rows, cols).
    pub fn decode(&self) -> Vec<u16> {
        let Shape { rows, cols } = self.shape;
        let mut weights = vec![0; rows * cols];
        for tile_idx in 0..self.shape.n_tiles() {
            let palette: [u8; 8] = bytemuck::cast(self.palettes[tile_idx].map(u32::to_le));
            for slice_idx in 0..N_SLICES {
                let starts = &self.escape_starts[tile_idx * N_SLICES + slice_idx..];
                let escapes = &self.escapes[starts[0] as usize..starts[1] as usize];
                let steps = self.shape.slice(slice_idx);
                for at in 0..steps.len() * STEP_PRODUCTS * LANE_WEIGHTS * LANES {
                    let (lane, idx) = (at % LANES, at / LANES % LANE_WEIGHTS);
                    let product = at / (LANES * LANE_WEIGHTS);
                    let (row, col) = position(product % STEP_PRODUCTS, lane, idx);
                    let step = steps.start + product / STEP_PRODUCTS;
                    let (row, col) = (tile_idx * TILE_ROWS + row, step * STEP_COLS + col);
                    if row < rows && col < cols {
                        weights[row * cols + col] =
                            self.weight(tile_idx, step, [product % STEP_PRODUCTS, lane, idx], &palette);
                    }
                }
                for &escape in escapes {
                    let [product, lane, idx] = [escape >> 16, escape >> 11 & 31, escape >> 8 & 7].map(|of| of as usize);
                    let (row, col) = position(product % STEP_PRODUCTS, lane, idx);
                    let col = (steps.start + product / STEP_PRODUCTS) * STEP_COLS + col;
                    let weight = &mut weights[(tile_idx * TILE_ROWS + row) * cols + col];
                    *weight = *weight & 255 | (escape as u16 & 255) << 8;
                }
            }
        }
        weights
    }

    /// A weight, escapes apart.
    fn weight(&self, tile_idx: usize, step: usize, [product, lane, idx]: [usize; 3], palette: &[u8; 8]) -> u16 {
        let vectors = &self.weights[(tile_idx * self.shape.n_steps() + step) * STEP_VECTORS..];
        let low = vectors[product / 2 * LANES + lane][product % 2 * 2 + idx / 4] >> (idx % 4 * 8) & 255;
        let code = vectors[2 * LANES + lane][product];
        let (index, sign) = (code >> (4 * idx) & 7, code >> sign_shift(idx) & 1);
        (sign << 15) as u16 | u16::from(palette[index as usize]) << 8 | low as u16
    }

    /// Bytes on the GPU.
    pub fn len_bytes(&self) -> usize {
        16 * self.weights.len() + 4 * (self.escapes.len() + self.escape_starts.len()) + 8 * self.palettes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(rows: usize, cols: usize, weights: &[u16]) -> Exact12 {
        let encoded = Exact12::encode(Shape { rows, cols }, weights);
        assert!(encoded.decode() == weights, "{rows} x {cols}");
        encoded
    }

    #[test]
    fn all_bit_patterns() {
        let all: Vec<u16> = (0..=u16::MAX).collect();
        round_trip(16, 4096, &all);
        round_trip(4096, 16, &all);
        round_trip(1, 65536, &all);
    }

    #[test]
    fn odd_shapes() {
        for (rows, cols) in [(1, 1), (15, 63), (17, 65), (33, 200)] {
            let weights: Vec<u16> = (0..rows * cols).map(|idx| (idx as u32 * 40503) as u16).collect();
            round_trip(rows, cols, &weights);
        }
    }

    /// Sixteen exponents have no escapes, and a matrix takes 12 bits a weight and 8 bytes and 8 starts a tile.
    #[test]
    fn twelve_bits() {
        let weights: Vec<u16> =
            (0..64 * 1024u32).map(|idx| ((100 + idx as u16 % 16) << 7) | (idx as u16 % 128)).collect();
        let encoded = round_trip(64, 1024, &weights);
        assert!(encoded.escapes.is_empty());
        assert_eq!(encoded.len_bytes(), 64 * 1024 * 12 / 8 + 4 * (8 + 8 * 4) + 4);
    }
}
