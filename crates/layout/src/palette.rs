//! Which high bytes get a code. Goes in: bf16 weights. Comes out: how often each high byte occurs, and from that the
//! palettes of a group and what an exact layout would cost. Next in the flow: exact.rs.

use crate::Layout;
use crate::cell::{CELL_COLS, TILE_ROWS};

/// From as many padded weights on, only one in [`SAMPLE_STRIDE`] is counted.
const SAMPLE_FROM: usize = 1 << 18;
/// Of every so many cells of a row one is counted, another one in each row.
const SAMPLE_STRIDE: usize = 8;

/// How often each high byte (sign and upper seven bits of the exponent) occurs among bf16 weights, or each index among
/// those of a grid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    counts: [u64; 256],
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: [0; 256] }
    }
}

impl Histogram {
    /// Counts weights, `src` (n_rows, cols) little-endian bf16, and the zeros that pad them to tiles; a fixed eighth
    /// of them where they are many. Cut into groups or not, the counts differ by which eighth that is.
    ///
    /// # Panics
    /// Where `src` does not have `2 * n_rows * cols` bytes.
    pub fn count(&mut self, cols: usize, n_rows: usize, src: &[u8]) {
        assert_eq!(src.len(), 2 * n_rows * cols);
        let n_padded = n_rows.next_multiple_of(TILE_ROWS) * cols.next_multiple_of(CELL_COLS);
        let stride = if n_padded < SAMPLE_FROM { 1 } else { SAMPLE_STRIDE };
        self.counts[0] += ((n_padded - n_rows * cols) / stride) as u64;
        // Neighbours are often equal, and a counter that was just written is slow to read: hence four tables.
        let mut tables = [[0u32; 256]; 4];
        for (row_idx, row) in src.chunks_exact(2 * cols.max(1)).enumerate() {
            for cell in row.chunks(2 * CELL_COLS).skip((stride - row_idx % stride) % stride).step_by(stride) {
                let (quads, rest) = cell.as_chunks::<8>();
                for quad in quads {
                    tables[0][usize::from(quad[1])] += 1;
                    tables[1][usize::from(quad[3])] += 1;
                    tables[2][usize::from(quad[5])] += 1;
                    tables[3][usize::from(quad[7])] += 1;
                }
                rest.as_chunks::<2>().0.iter().for_each(|weight| tables[0][usize::from(weight[1])] += 1);
            }
        }
        for table in &tables {
            self.counts.iter_mut().zip(table).for_each(|(sum, &count)| *sum += u64::from(count));
        }
    }

    /// Counts indices, `src` (n_rows, cols) i8, and the zeros that pad them to tiles, as [`Histogram::count`] does.
    ///
    /// # Panics
    /// Where `src` does not have `n_rows * cols` bytes.
    pub fn count_indices(&mut self, cols: usize, n_rows: usize, src: &[u8]) {
        assert_eq!(src.len(), n_rows * cols);
        let n_padded = n_rows.next_multiple_of(TILE_ROWS) * cols.next_multiple_of(CELL_COLS);
        let stride = if n_padded < SAMPLE_FROM { 1 } else { SAMPLE_STRIDE };
        self.counts[0] += ((n_padded - n_rows * cols) / stride) as u64;
        let mut tables = [[0u32; 256]; 4];
        for (row_idx, row) in src.chunks_exact(cols.max(1)).enumerate() {
            for cell in row.chunks(CELL_COLS).skip((stride - row_idx % stride) % stride).step_by(stride) {
                for (idx, &index) in cell.iter().enumerate() {
                    tables[idx % 4][usize::from(index)] += 1;
                }
            }
        }
        for table in &tables {
            self.counts.iter_mut().zip(table).for_each(|(sum, &count)| *sum += u64::from(count));
        }
    }

    /// Adds the counts of another part of the same matrix.
    pub fn add(&mut self, other: &Histogram) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(sum, count)| *sum += count);
    }

    /// Bits that a weight takes in `layout`, escapes included, headers and tables not: 16 or 32 in a layout without
    /// palettes, else from 11 (12) up to about 23 (20). A caller takes bf16 where this is above 16.
    pub fn bits_per_weight(&self, layout: Layout) -> f64 {
        let base = (layout.cell_bytes() * 8) as f64 / crate::cell::CELL_WEIGHTS as f64;
        if !layout.has_palette() {
            return base;
        }
        let ranked = self.ranked();
        let total = self.counts.iter().sum::<u64>().max(1) as f64;
        let beyond = |n: usize| ranked[n..].iter().map(|&high| self.counts[usize::from(high)]).sum::<u64>() as f64;
        let (n_palette, n_second) = (layout.n_palette(), layout.n_second_palette());
        let nibbles = if n_second == 0 { 0.0 } else { beyond(n_palette) };
        base + (4.0 * nibbles + 8.0 * beyond(n_palette + n_second)) / total
    }

    /// All 256 high bytes, the commonest first; of equally common ones the smaller first.
    pub(crate) fn ranked(&self) -> [u8; 256] {
        let mut ranked: [u8; 256] = std::array::from_fn(|high| high as u8);
        ranked.sort_by_key(|&high| std::cmp::Reverse(self.counts[usize::from(high)]));
        ranked
    }
}

/// High byte to code: `palette[code]` gets `code`, every other byte gets the escape, `palette.len()`.
pub(crate) fn code_table(palette: &[u8]) -> [u8; 256] {
    let mut codes = [palette.len() as u8; 256];
    for (code, &high) in palette.iter().enumerate() {
        codes[usize::from(high)] = code as u8;
    }
    codes
}
