//! How an error in one column is made good in those after it. Goes in: the second moments of a layer's input. Comes
//! out: [`Feedback`], the triangular factor that error feedback (GPTQ, LDLQ) works with.
//!
//! With `H` the damped mean of `x x^T`, `H = R R^T` with `R` upper triangular, and `U = R^-1`, so that `H^-1 = U^T U`.
//! Quantising columns in order, an error `e = (w_j - q_j) / U_jj` of column `j` costs `e^2`, once the columns after it
//! are changed by `-e U_jk`: Frantar et al. 2022, section 3. So `U_jj` is how coarse column `j` may be.
//! Next in the flow: quantize.rs.

use ndarray::{Array2, ArrayViewMut2, Axis, linalg::general_mat_mul};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::part::{part, part_mut};

/// Columns of a block of the factorisation.
const BLOCK: usize = 96;
/// Rows that a thread updates at once.
const ROWS_AT_ONCE: usize = 128;

/// In which order columns are quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they stand.
    Given,
    /// Those with the most input first: what they leave, the others take up.
    Largest,
}

/// The factor of one layer's input.
#[derive(Clone, Debug)]
pub struct Feedback {
    /// The columns, in the order in which they are quantised.
    pub order: Vec<usize>, // (cols)
    /// `U`, upper triangular, of columns in that order.
    pub upper: Array2<f32>, // (cols, cols)
}

impl Feedback {
    /// Factors the mean of `x x^T`, after adding `damping` times its mean diagonal to the diagonal.
    ///
    /// # Errors
    /// `InvalidArgument` where it is not finite, or damping is not above 0.
    pub fn new(mean: &Array2<f64>, damping: f64, order: Order) -> Result<Feedback> {
        let cols = mean.nrows();
        let diagonal = mean.diag().to_vec();
        let middle = diagonal.iter().sum::<f64>() / cols.max(1) as f64;
        if !middle.is_finite() || damping <= 0.0 || !damping.is_finite() {
            return Err(Error::invalid(format!("moments of mean {middle} with a damping of {damping}")));
        }
        let extra = damping * if middle > 0.0 { middle } else { 1.0 };
        let mut columns: Vec<usize> = (0..cols).collect();
        if order == Order::Largest {
            columns.sort_by(|a, b| diagonal[*b].total_cmp(&diagonal[*a]).then(a.cmp(b)));
        }
        // Reversed in both directions, R becomes the lower factor of Cholesky.
        let flipped: Vec<usize> = columns.iter().rev().copied().collect();
        let mut lower = Array2::from_shape_fn((cols, cols), |(i, j)| {
            mean[[flipped[i], flipped[j]]] + if i == j { extra } else { 0.0 }
        });
        cholesky(&mut lower)?;
        invert_lower(&mut lower);
        let last = cols.saturating_sub(1);
        let upper =
            Array2::from_shape_fn((cols, cols), |(i, j)| if i <= j { lower[[last - i, last - j]] as f32 } else { 0.0 });
        Ok(Feedback { order: columns, upper })
    }

    /// `U_jj` of each column where it stands in the matrix.
    pub fn coarseness(&self) -> Vec<f32> {
        let mut found = vec![0.0; self.order.len()];
        self.order.iter().zip(self.upper.diag()).for_each(|(&col, &value)| found[col] = value);
        found
    }
}

/// Replaces a symmetric positive matrix by its lower Cholesky factor; what is above the diagonal becomes 0.
fn cholesky(matrix: &mut Array2<f64>) -> Result<()> {
    let n = matrix.nrows();
    for begin in (0..n).step_by(BLOCK) {
        let end = (begin + BLOCK).min(n);
        factor_block(part_mut(matrix.view_mut(), begin..end, begin..end))?;
        let (top, mut below) = matrix.view_mut().split_at(Axis(0), end);
        let diagonal = part(top.view(), begin..end, begin..end);
        let mut panel = part_mut(below.view_mut(), 0..n - end, begin..end);
        panel.axis_iter_mut(Axis(0)).into_par_iter().with_min_len(16).for_each(|mut row| {
            for j in 0..row.len() {
                let known: f64 = (0..j).map(|k| row[k] * diagonal[[j, k]]).sum();
                row[j] = (row[j] - known) / diagonal[[j, j]];
            }
        });
        let panel = panel.to_owned();
        let mut rest = part_mut(below.view_mut(), 0..n - end, end..n);
        rest.axis_chunks_iter_mut(Axis(0), ROWS_AT_ONCE).into_par_iter().enumerate().for_each(|(idx, mut rows)| {
            let first = idx * ROWS_AT_ONCE;
            let n_cols = (first + rows.nrows()).min(panel.nrows()); // up to the diagonal
            let n_rows = rows.nrows();
            let left = part(panel.view(), first..first + n_rows, 0..panel.ncols());
            let right = part(panel.view(), 0..n_cols, 0..panel.ncols());
            general_mat_mul(-1.0, &left, &right.t(), 1.0, &mut part_mut(rows.view_mut(), 0..n_rows, 0..n_cols));
        });
    }
    for i in 0..n {
        part_mut(matrix.view_mut(), i..i + 1, i + 1..n).fill(0.0);
    }
    Ok(())
}

fn factor_block(mut block: ArrayViewMut2<f64>) -> Result<()> {
    for j in 0..block.nrows() {
        let pivot = block[[j, j]] - (0..j).map(|k| block[[j, k]] * block[[j, k]]).sum::<f64>();
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(Error::invalid("the moments of a layer's input are not positive: use more damping"));
        }
        block[[j, j]] = pivot.sqrt();
        for i in j + 1..block.nrows() {
            let known: f64 = (0..j).map(|k| block[[i, k]] * block[[j, k]]).sum();
            block[[i, j]] = (block[[i, j]] - known) / block[[j, j]];
        }
    }
    Ok(())
}

/// Replaces a lower triangular matrix by its inverse, block row by block row: rows `b` of the inverse are
/// `-L_bb^-1 L_b,before inverse(before)` and `L_bb^-1` on the diagonal.
fn invert_lower(matrix: &mut Array2<f64>) {
    let n = matrix.nrows();
    for begin in (0..n).step_by(BLOCK) {
        let end = (begin + BLOCK).min(n);
        let own = invert_block(&part(matrix.view(), begin..end, begin..end).to_owned());
        let left = own.dot(&part(matrix.view(), begin..end, 0..begin));
        let (before, mut below) = matrix.view_mut().split_at(Axis(0), begin);
        let mut rows = part_mut(below.view_mut(), 0..end - begin, 0..begin);
        rows.axis_chunks_iter_mut(Axis(1), ROWS_AT_ONCE).into_par_iter().enumerate().for_each(|(idx, mut columns)| {
            let first = idx * ROWS_AT_ONCE;
            let right = part(before.view(), first..begin, first..first + columns.ncols());
            general_mat_mul(-1.0, &part(left.view(), 0..left.nrows(), first..begin), &right, 0.0, &mut columns);
        });
        part_mut(below, 0..end - begin, begin..end).assign(&own);
    }
}

fn invert_block(block: &Array2<f64>) -> Array2<f64> {
    let n = block.nrows();
    let mut inverse = Array2::zeros((n, n));
    for j in 0..n {
        inverse[[j, j]] = 1.0 / block[[j, j]];
        for i in j + 1..n {
            let known: f64 = (j..i).map(|k| block[[i, k]] * inverse[[k, j]]).sum();
            inverse[[i, j]] = -known / block[[i, i]];
        }
    }
    inverse
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(n: usize) -> Array2<f64> {
        let x = Array2::from_shape_fn((2 * n, n), |(i, j)| {
            (((i * 7 + j * 13 + i * j) % 31) as f64 / 15.0 - 1.0) * (1.0 + j as f64 / 9.0)
        });
        x.t().dot(&x) / (2 * n) as f64
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        for n in [1, 5, 96, 97, 250, 300] {
            for order in [Order::Given, Order::Largest] {
                let mut mean = moments(n);
                let feedback = Feedback::new(&mean, 0.01, order).unwrap();
                let extra = 0.01 * mean.diag().mean().unwrap();
                mean.diag_mut().mapv_inplace(|value| value + extra);
                let upper = feedback.upper.mapv(f64::from);
                let inverse = upper.t().dot(&upper);
                let ordered = Array2::from_shape_fn((n, n), |(i, j)| mean[[feedback.order[i], feedback.order[j]]]);
                let product = inverse.dot(&ordered);
                let error = (&product - &Array2::<f64>::eye(n)).mapv(f64::abs).fold(0.0, |a: f64, b| a.max(*b));
                assert!(error < 1e-3, "{n} {order:?}: {error}");
                assert!((0..n).all(|i| (0..i).all(|j| upper[[i, j]] == 0.0)));
            }
        }
    }

    #[test]
    fn largest_columns_come_first() {
        let mean = moments(40);
        let feedback = Feedback::new(&mean, 0.01, Order::Largest).unwrap();
        assert!(feedback.order.windows(2).all(|pair| mean[[pair[0], pair[0]]] >= mean[[pair[1], pair[1]]]));
        let coarseness = feedback.coarseness();
        assert_eq!(coarseness[feedback.order[3]], feedback.upper[[3, 3]]);
    }

    #[test]
    fn bad_moments_are_refused() {
        assert!(Feedback::new(&Array2::from_elem((3, 3), f64::NAN), 0.01, Order::Given).is_err());
        assert!(Feedback::new(&moments(3), 0.0, Order::Given).is_err());
        assert!(Feedback::new(&Array2::zeros((3, 3)), 0.01, Order::Given).is_ok(), "a layer that nothing enters");
    }
}
