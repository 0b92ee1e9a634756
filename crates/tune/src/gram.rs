//! Second moments of what enters a linear layer. Goes in: rows of activations. Comes out: the sum of `x x^T` over them.
//! Next in the flow: hessian.rs.
//!
//! The error that a changed matrix makes at its output, summed over tokens, is `tr(E G E^T)` with `E` the change of the
//! weights and `G` this matrix: all that a quantiser needs to know of the text.

use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};
use rayon::prelude::*;

use crate::part::part;

/// Columns of a block: blocks of the upper triangle are summed on all cores.
const BLOCK: usize = 256;
/// Rows that are gathered before they are multiplied.
const ROWS_AT_ONCE: usize = 512;

/// The sum of `x x^T` over rows `x`.
#[derive(Clone, Debug)]
pub struct Gram {
    cols: usize,
    n_rows: usize,
    pending: Vec<f32>,                        // (up to ROWS_AT_ONCE, cols)
    blocks: Vec<(usize, usize, Array2<f32>)>, // upper triangle: block row, block column
}

impl Gram {
    /// Of no rows yet.
    pub fn new(cols: usize) -> Gram {
        let n_blocks = cols.div_ceil(BLOCK);
        let len = |block: usize| BLOCK.min(cols - block * BLOCK);
        let pairs = (0..n_blocks).flat_map(|row| (row..n_blocks).map(move |col| (row, col)));
        let blocks = pairs.map(|(row, col)| (row, col, Array2::zeros((len(row), len(col))))).collect();
        Gram { cols, n_rows: 0, pending: Vec::new(), blocks }
    }

    /// Columns of a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Rows so far.
    pub fn n_rows(&self) -> usize {
        self.n_rows
    }

    /// Adds a row of `cols` finite values.
    ///
    /// # Panics
    /// Where it has another length.
    pub fn push(&mut self, row: &[f32]) {
        assert_eq!(row.len(), self.cols, "columns of a row");
        self.pending.extend_from_slice(row);
        self.n_rows += 1;
        if self.pending.len() == ROWS_AT_ONCE * self.cols {
            self.flush();
        }
    }

    /// Multiplies what is pending.
    pub fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let shape = (self.pending.len() / self.cols, self.cols);
        let x = ArrayView2::from_shape(shape, &self.pending).expect("whole rows");
        let cols = self.cols;
        self.blocks.par_iter_mut().for_each(|(row, col, block)| {
            let columns = |block: usize| part(x, 0..shape.0, block * BLOCK..cols.min((block + 1) * BLOCK));
            general_mat_mul(1.0, &columns(*row).t(), &columns(*col), 1.0, block);
        });
        self.pending.clear();
    }

    /// The mean of `x x^T`, whole and symmetric; zeros where there were no rows.
    pub fn mean(&mut self) -> Array2<f64> {
        self.flush();
        let mut mean = Array2::zeros((self.cols, self.cols));
        let factor = 1.0 / self.n_rows.max(1) as f64;
        for (row, col, block) in &self.blocks {
            for ((i, j), value) in block.indexed_iter() {
                let (i, j, value) = (row * BLOCK + i, col * BLOCK + j, f64::from(*value) * factor);
                mean[[i, j]] = value;
                mean[[j, i]] = value;
            }
        }
        mean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_products() {
        for cols in [1, 7, 256, 300] {
            let mut gram = Gram::new(cols);
            let value = |row: usize, col: usize| ((row * 31 + col * 17) % 23) as f32 / 8.0 - 1.0;
            for row in 0..600 {
                gram.push(&(0..cols).map(|col| value(row, col)).collect::<Vec<_>>());
            }
            let mean = gram.mean();
            assert_eq!(gram.n_rows(), 600);
            for (i, j) in [(0, 0), (cols - 1, 0), (cols / 2, cols - 1), (cols - 1, cols - 1)] {
                let expected: f64 = (0..600).map(|row| f64::from(value(row, i) * value(row, j))).sum::<f64>() / 600.0;
                assert!((mean[[i, j]] - expected).abs() < 1e-5, "{cols} {i} {j}: {} {expected}", mean[[i, j]]);
            }
        }
    }
}
