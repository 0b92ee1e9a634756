//! The cell: 16 rows by 32 columns of weights, and the order of its weights. Every layout is a sequence of cells.
//! Goes in: rows as a checkpoint has them. Next in the flow: plain.rs and exact.rs, which lay one cell out.

/// Rows of a tile.
pub const TILE_ROWS: usize = 16;
/// Columns of a cell.
pub const CELL_COLS: usize = 32;
/// Weights of a cell.
pub(crate) const CELL_WEIGHTS: usize = TILE_ROWS * CELL_COLS;
/// Blocks of an exact cell, four columns each.
pub(crate) const CELL_BLOCKS: usize = 8;
/// Weights of a block.
pub(crate) const BLOCK_WEIGHTS: usize = 64;
/// Bytes of the largest cell as it stands in the source.
const MAX_CELL_SOURCE_BYTES: usize = CELL_WEIGHTS * 4;

/// (row, column) within a cell of weight `idx` of block `block_idx`. The order makes byte-unpack-low of 64 low and 64
/// high bytes, in lanes of 128 bits, the 16 rows of the block's first pair of columns, and unpack-high those of its
/// second pair.
pub(crate) const fn block_position(block_idx: usize, idx: usize) -> (usize, usize) {
    let (lane, half, row, odd) = (idx >> 4, (idx >> 3) & 1, (idx >> 1) & 3, idx & 1);
    (4 * lane + row, 4 * block_idx + 2 * half + odd)
}

/// Whole cells of one tile, as rows in memory: element `col` of row `row` is `element_bytes` bytes at
/// `row * stride_bytes + col * element_bytes`.
#[derive(Clone, Copy)]
pub(crate) struct TileRows<'a> {
    bytes: &'a [u8],
    stride_bytes: usize,
    cell_row_bytes: usize,
    n_cells: usize,
}

impl<'a> TileRows<'a> {
    /// `n_cells` cells from the start of `bytes`, of which each has `cell_row_bytes` bytes in each of 16 rows.
    ///
    /// # Panics
    /// Where the cells do not lie inside `bytes`.
    pub(crate) fn new(bytes: &'a [u8], stride_bytes: usize, cell_row_bytes: usize, n_cells: usize) -> TileRows<'a> {
        assert!(n_cells == 0 || (TILE_ROWS - 1) * stride_bytes + n_cells * cell_row_bytes <= bytes.len());
        TileRows { bytes, stride_bytes, cell_row_bytes, n_cells }
    }

    /// Number of cells.
    pub(crate) fn n_cells(self) -> usize {
        self.n_cells
    }

    /// Bytes from a row to the next.
    pub(crate) fn stride_bytes(self) -> usize {
        self.stride_bytes
    }

    /// The bytes from a cell's first weight on. Row `row` of the cell, `cell_row_bytes` bytes, begins at
    /// `row * stride_bytes`; all 16 rows are inside, which [`TileRows::new`] has checked.
    pub(crate) fn cell(self, cell_idx: usize) -> &'a [u8] {
        assert!(cell_idx < self.n_cells);
        &self.bytes[cell_idx * self.cell_row_bytes..]
    }

    /// Bytes of a row of a cell.
    pub(crate) fn cell_row_bytes(self) -> usize {
        self.cell_row_bytes
    }

    /// One row of a cell as `N` bytes.
    pub(crate) fn row<const N: usize>(self, cell_idx: usize, row: usize) -> &'a [u8; N] {
        self.cell(cell_idx)[row * self.stride_bytes..].first_chunk().expect("checked when made")
    }
}

/// One cell padded with zero weights, for the edges of a matrix; also where a decoded cell is put before its rows go
/// where they belong.
pub(crate) struct PaddedCell {
    bytes: [u8; MAX_CELL_SOURCE_BYTES],
    cell_row_bytes: usize,
}

impl PaddedCell {
    /// All zero.
    pub(crate) fn new(cell_row_bytes: usize) -> PaddedCell {
        PaddedCell { bytes: [0; MAX_CELL_SOURCE_BYTES], cell_row_bytes }
    }

    /// Takes what there is of cell `cell_idx` of rows of `row_bytes` bytes; `src` ends with the tile's last row.
    pub(crate) fn load(&mut self, src: &[u8], row_bytes: usize, cell_idx: usize) -> TileRows<'_> {
        self.bytes.fill(0);
        let begin = cell_idx * self.cell_row_bytes;
        let len = self.cell_row_bytes.min(row_bytes - begin);
        for (row, out) in src.chunks_exact(row_bytes).zip(self.bytes.chunks_exact_mut(self.cell_row_bytes)) {
            out[..len].copy_from_slice(&row[begin..begin + len]);
        }
        TileRows::new(&self.bytes, self.cell_row_bytes, self.cell_row_bytes, 1)
    }

    /// The reverse of [`PaddedCell::load`]: padding is dropped.
    pub(crate) fn store(&self, dst: &mut [u8], row_bytes: usize, cell_idx: usize) {
        let begin = cell_idx * self.cell_row_bytes;
        let len = self.cell_row_bytes.min(row_bytes - begin);
        for (row, from) in dst.chunks_exact_mut(row_bytes).zip(self.bytes.chunks_exact(self.cell_row_bytes)) {
            row[begin..begin + len].copy_from_slice(&from[..len]);
        }
    }

    /// Rows one after the other, without gaps.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..TILE_ROWS * self.cell_row_bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_cover_a_cell_once() {
        let mut seen = [[false; CELL_COLS]; TILE_ROWS];
        for block_idx in 0..CELL_BLOCKS {
            for idx in 0..BLOCK_WEIGHTS {
                let (row, col) = block_position(block_idx, idx);
                assert!(!std::mem::replace(&mut seen[row][col], true));
            }
        }
        assert!(seen.iter().flatten().all(|&seen| seen));
        assert_eq!(block_position(3, 2 * 16 + 8 + 2 + 1), (9, 15));
    }

    /// Byte-unpack of a block's bytes gives pairs in the order of bf16 cells: 32-bit lane `row` is even | odd << 16.
    #[test]
    fn unpacked_blocks_are_pairs() {
        for idx in 0..BLOCK_WEIGHTS {
            let (row, col) = block_position(0, idx);
            // In lane idx / 16, byte idx % 8 of a half becomes 16-bit element idx % 8 of the unpacked register.
            let (register, element) = ((idx >> 3) & 1, (idx >> 4) * 8 + (idx & 7));
            assert_eq!((register, element), (col / 2, row * 2 + col % 2));
        }
    }
}
