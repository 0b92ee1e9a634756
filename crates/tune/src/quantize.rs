//! The quantiser: goes in a matrix, what feeds it, and how coarse it may be. Comes out a [`Grid`] with small entropy.
//!
//! Columns are quantised in order, and the error of each is made good in those after it (see hessian.rs). Between an
//! index and its neighbour towards zero, error plus price decides: `e^2 + lambda * bits`. Rows do not depend on each
//! other, so they are cut into strips, one to a thread; the result does not depend on how many there are.
//! Next in the flow: allocate.rs.

use ndarray::{Array2, ArrayView2, linalg::general_mat_mul};
use netweight_tensor::{Grid, MAX_STEP, MIN_STEP};
use rayon::prelude::*;

use crate::hessian::Feedback;
use crate::part::{part, part_mut};
use crate::rate::{Counts, coded_bits, symbol};

/// Columns after which those to the right are brought up to date.
const BLOCK: usize = 128;
/// Rows of a strip.
const STRIP: usize = 64;
/// Slope of distortion over bits that an ideal fine quantiser has, in units of the squared step:
/// `D = step^2 / 12` and `dD / dR = -2 ln 2 D`.
const SLOPE: f32 = 2.0 * std::f32::consts::LN_2 / 12.0;
/// The largest index.
const MAX_INDEX: f32 = 127.0;
/// The index of a column's largest weight where steps are finest; feedback may still make it larger.
const FULL: f32 = 112.0;

/// How a matrix is to be quantised.
#[derive(Clone, Debug, PartialEq)]
pub struct Coarseness {
    /// A column's step, in units of what the column can bear (`U_jj` of [`Feedback`]): the error that a weight makes at
    /// the output is about `step^2 / 12`.
    pub step: f32,
    /// Steps go with `U_jj` to this power: 1 makes all columns' errors equal, 0 all steps.
    pub power: f32,
    /// How much bits count against error: 0 rounds to nearest, 1 trades as an ideal quantiser would.
    pub thrift: f32,
    /// Factors of the rows' steps, of geometric mean 1; none: all 1.
    pub rows: Option<Vec<f32>>, // (rows)
    /// Times that prices are taken from the indices of the time before.
    pub n_passes: usize,
}

impl Coarseness {
    /// With that step, and what measured best for the rest.
    pub fn of_step(step: f32) -> Coarseness {
        Coarseness { step, power: 1.0, thrift: 1.0, rows: None, n_passes: 2 }
    }
}

/// A quantised matrix, and what it costs.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// The matrix.
    pub grid: Grid,
    /// Squared error at the output, summed over rows, mean over tokens.
    pub loss: f64,
    /// Bits of the indices and the steps.
    pub bits: f64,
    /// Rows that share a table of frequencies where bits are counted.
    pub rows_per_chunk: usize,
}

impl Quantized {
    /// Bits for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        self.bits / self.grid.indices.len() as f64
    }
}

/// Quantises `weights`, (rows, cols), whose input has the factor `feedback`.
///
/// # Panics
/// Where the shapes do not fit each other, or the matrix is empty.
pub fn quantize(weights: ArrayView2<'_, f32>, feedback: &Feedback, how: &Coarseness) -> Quantized {
    let (rows, cols) = weights.dim();
    assert!(rows > 0 && feedback.order.len() == cols, "({rows}, {cols}) weights, {} inputs", feedback.order.len());
    let row_steps = match &how.rows {
        Some(factors) => factors.iter().map(|&factor| as_step(factor)).collect(),
        None => vec![1.0; rows],
    };
    assert_eq!(row_steps.len(), rows);
    let plan = Plan::new(weights, feedback, how, row_steps);
    let mut counts = plan.first_counts(weights);
    let mut indices = vec![0; rows * cols];
    let mut loss = 0.0;
    for _ in 0..how.n_passes.max(1) {
        let prices = counts.prices();
        let strips = indices.par_chunks_mut(STRIP * cols).enumerate();
        let losses: Vec<f64> = strips
            .map(|(idx, indices)| {
                let rows = idx * STRIP..(idx * STRIP + STRIP).min(rows);
                plan.strip(part(weights, rows.clone(), 0..cols), rows.start, &prices, indices)
            })
            .collect();
        loss = losses.iter().sum();
        counts = Counts::of(&indices);
    }
    let mut col_steps = vec![0.0; cols];
    feedback.order.iter().zip(&plan.steps).for_each(|(&col, &step)| col_steps[col] = step);
    let (index_bits, rows_per_chunk) = coded_bits(&indices, cols);
    let step_bits = 16.0 * (if how.rows.is_some() { rows } else { 0 } + cols) as f64;
    let bits = index_bits + step_bits;
    Quantized { grid: Grid { rows, cols, indices, row_steps: plan.row_steps, col_steps }, loss, bits, rows_per_chunk }
}

/// The step of bf16 precision that is nearest.
pub(crate) fn as_step(step: f32) -> f32 {
    half::bf16::from_f32(step.clamp(MIN_STEP, MAX_STEP)).to_f32()
}

/// What all strips share; columns in the order of the feedback.
struct Plan<'a> {
    feedback: &'a Feedback,
    steps: Vec<f32>,     // (cols)
    inverse_u: Vec<f32>, // (cols)
    row_steps: Vec<f32>, // (rows)
    /// What a bit costs, in units of error.
    lambda: f32,
}

impl<'a> Plan<'a> {
    fn new(weights: ArrayView2<'_, f32>, feedback: &'a Feedback, how: &Coarseness, row_steps: Vec<f32>) -> Plan<'a> {
        let diagonal = feedback.upper.diag();
        // An index has 8 bits: no column's step may be so fine that its largest weight has none.
        let mut least = vec![0f32; weights.ncols()];
        for (row, row_step) in weights.rows().into_iter().zip(&row_steps) {
            least.iter_mut().zip(row).for_each(|(least, weight)| *least = least.max(weight.abs() / (row_step * FULL)));
        }
        let mean_ln = diagonal.iter().map(|u| u.ln()).sum::<f32>() / diagonal.len().max(1) as f32;
        let wanted = |u: &f32| how.step * ((u.ln() - mean_ln) * how.power + mean_ln).exp();
        let lambda = how.thrift * SLOPE * how.step * how.step;
        let steps = diagonal.iter().zip(&feedback.order).map(|(u, &col)| as_step(wanted(u).max(least[col]))).collect();
        Plan { feedback, steps, inverse_u: diagonal.iter().map(|u| 1.0 / u).collect(), row_steps, lambda }
    }

    /// Of the nearest indices, without feedback.
    fn first_counts(&self, weights: ArrayView2<'_, f32>) -> Counts {
        let mut indices = Vec::with_capacity(weights.len());
        for (row, row_step) in weights.rows().into_iter().zip(&self.row_steps) {
            let columns = self.feedback.order.iter().zip(&self.steps);
            indices.extend(columns.map(|(&col, step)| nearest(row[col] / (row_step * step)) as i8));
        }
        Counts::of(&indices)
    }

    /// Quantises the rows of a strip; gives the loss.
    fn strip(&self, weights: ArrayView2<'_, f32>, first_row: usize, prices: &[f32], indices: &mut [i8]) -> f64 {
        let (rows, cols) = weights.dim();
        let order = &self.feedback.order;
        let mut left = Array2::from_shape_fn((rows, cols), |(row, col)| weights[[row, order[col]]]);
        let mut errors = Array2::zeros((rows, BLOCK));
        let mut loss = 0.0;
        for begin in (0..cols).step_by(BLOCK) {
            let end = (begin + BLOCK).min(cols);
            for row in 0..rows {
                let own = &mut left.row_mut(row).into_slice().expect("rows are contiguous")[begin..end];
                let errors = &mut errors.row_mut(row).into_slice().expect("rows are contiguous")[..end - begin];
                let indices = &mut indices[row * cols..(row + 1) * cols];
                loss += self.block(own, begin, self.row_steps[first_row + row], prices, indices, errors);
            }
            let errors = part(errors.view(), 0..rows, 0..end - begin);
            let factor = part(self.feedback.upper.view(), begin..end, end..cols);
            general_mat_mul(-1.0, &errors, &factor, 1.0, &mut part_mut(left.view_mut(), 0..rows, end..cols));
        }
        loss
    }

    /// Quantises one row's columns `begin..begin + left.len()`.
    fn block(
        &self,
        left: &mut [f32],
        begin: usize,
        row_step: f32,
        prices: &[f32],
        indices: &mut [i8],
        errors: &mut [f32],
    ) -> f64 {
        let mut loss = 0.0;
        for at in 0..left.len() {
            let col = begin + at;
            let (step, inverse_u, weight) = (row_step * self.steps[col], self.inverse_u[col], left[at]);
            // An error counts in units of the row's own step.
            let index = self.choose(weight / step, self.steps[col] * inverse_u, prices);
            let error = (weight - step * index) * inverse_u;
            indices[self.feedback.order[col]] = index as i8;
            errors[at] = error;
            loss += f64::from(error * error);
            let factor = self.feedback.upper.row(col);
            let factor = &factor.to_slice().expect("rows are contiguous")[col + 1..begin + left.len()];
            left[at + 1..].iter_mut().zip(factor).for_each(|(left, factor)| *left -= error * factor);
        }
        loss
    }

    /// The nearest index, or the next one towards zero where its price makes up for the error.
    #[inline]
    fn choose(&self, value: f32, scale: f32, prices: &[f32]) -> f32 {
        let index = nearest(value);
        if index == 0.0 {
            return index;
        }
        let smaller = index - index.signum();
        let cost = |index: f32| {
            let error = (value - index) * scale;
            error * error + self.lambda * prices[symbol(index as i8)]
        };
        if cost(smaller) < cost(index) { smaller } else { index }
    }
}

fn nearest(value: f32) -> f32 {
    value.round_ties_even().clamp(-MAX_INDEX, MAX_INDEX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hessian::Order;
    use crate::testing::{identity, inputs, normal, output_error};

    /// As an engine multiplies: not rounded to bf16.
    fn values(grid: &Grid) -> Array2<f32> {
        Array2::from_shape_fn((grid.rows, grid.cols), |(row, col)| {
            grid.row_steps[row] * (grid.col_steps[col] * f32::from(grid.indices[row * grid.cols + col]))
        })
    }

    /// The loss that is added up on the way is the error at the output, damping included.
    #[test]
    fn the_loss_is_the_error_at_the_output() {
        let (weights, mean) = (normal(70, 200, 1), inputs(200, 2));
        for order in [Order::Given, Order::Largest] {
            let feedback = Feedback::new(&mean, 0.01, order).expect("a factor");
            let damped = &mean + &(Array2::<f64>::eye(200) * 0.01 * mean.diag().mean().expect("columns"));
            for step in [0.5, 3.0] {
                let found = quantize(weights.view(), &feedback, &Coarseness::of_step(step));
                found.grid.check().expect("a grid");
                let expected = output_error(&weights, &values(&found.grid), &damped);
                assert!((found.loss / expected - 1.0).abs() < 0.02, "{order:?} {step}: {} {expected}", found.loss);
            }
        }
    }

    /// A fine grid on normal weights: error of a uniform quantiser, and the entropy that theory gives it.
    #[test]
    fn a_fine_grid_is_what_theory_says() {
        let weights = normal(256, 256, 3);
        let step = 0.2;
        let how = Coarseness { thrift: 0.0, ..Coarseness::of_step(step) };
        let found = quantize(weights.view(), &identity(256), &how);
        let per_weight = found.loss / weights.len() as f64;
        assert!((per_weight * 12.0 / f64::from(step * step) - 1.0).abs() < 0.02, "{per_weight}");
        // Entropy of a normal variable is log2 sqrt(2 pi e), of which the step takes log2.
        let expected = 2.0471 - f64::from(step).log2();
        let indices = Counts::of(&found.grid.indices).entropy_bits() / weights.len() as f64;
        assert!((indices - expected).abs() < 0.03, "{indices} {expected}");
        let bits = found.bits_per_weight();
        assert!(bits > indices + 16.0 / 256.0 && bits < indices + 0.09, "{bits} {indices}");
    }

    /// At equal bits, each of feedback, steps by column and thrift makes the error smaller.
    #[test]
    fn each_part_pays() {
        let (weights, mean) = (normal(256, 256, 4), inputs(256, 5));
        let feedback = Feedback::new(&mean, 0.01, Order::Given).expect("a factor");
        // Error at 3 bits, by bisection over the step.
        let error = |feedback: &Feedback, power: f32, thrift: f32| {
            let (mut least, mut most) = (1e-3f32, 1e3f32);
            let mut loss = 0.0;
            for _ in 0..24 {
                let step = (least * most).sqrt();
                let how = Coarseness { power, thrift, ..Coarseness::of_step(step) };
                let found = quantize(weights.view(), feedback, &how);
                loss = output_error(&weights, &values(&found.grid), &mean);
                if found.bits_per_weight() > 3.0 { least = step } else { most = step }
            }
            loss
        };
        let (alone, fed) = (error(&identity(256), 0.0, 0.0), error(&feedback, 0.0, 0.0));
        let (by_column, thrifty) = (error(&feedback, 1.0, 0.0), error(&feedback, 1.0, 1.0));
        assert!(fed < 0.8 * alone, "{fed} {alone}");
        assert!(by_column < fed, "{by_column} {fed}");
        assert!(thrifty < 0.99 * by_column, "{thrifty} {by_column}");
    }

    #[test]
    fn threads_do_not_matter() {
        let (weights, mean) = (normal(130, 150, 6), inputs(150, 7));
        let feedback = Feedback::new(&mean, 0.01, Order::Largest).expect("a factor");
        let run = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().expect("threads");
            pool.install(|| quantize(weights.view(), &feedback, &Coarseness::of_step(1.0)))
        };
        let (one, three) = (run(1), run(3));
        assert_eq!((one.grid, one.bits), (three.grid, three.bits));
        assert_eq!(one.loss.to_bits(), three.loss.to_bits());
    }

    #[test]
    fn rows_may_be_finer() {
        let weights = normal(64, 128, 8);
        let factors = (0..64).map(|row| if row < 32 { 0.5 } else { 2.0 }).collect();
        let how = Coarseness { rows: Some(factors), thrift: 0.0, ..Coarseness::of_step(0.3) };
        let found = quantize(weights.view(), &identity(128), &how);
        let error = (&weights - &values(&found.grid)).mapv(|error| f64::from(error * error));
        let half = |range| part(error.view(), range, 0..128).sum();
        let (fine, coarse) = (half(0..32), half(32..64));
        assert!((coarse / fine / 16.0 - 1.0).abs() < 0.05, "{coarse} {fine}");
    }

    #[test]
    fn columns_that_nothing_enters_cost_nothing() {
        let weights = normal(64, 64, 9);
        let mut mean = inputs(64, 10);
        part_mut(mean.view_mut(), 5..6, 0..64).fill(0.0);
        part_mut(mean.view_mut(), 0..64, 5..6).fill(0.0);
        let feedback = Feedback::new(&mean, 1e-6, Order::Given).expect("a factor");
        let found = quantize(weights.view(), &feedback, &Coarseness::of_step(1.0));
        assert!(found.grid.indices.iter().skip(5).step_by(64).all(|&index| index == 0));
        found.grid.check().expect("a grid");
    }
}
