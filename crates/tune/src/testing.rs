//! Matrices for tests.

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::hessian::{Feedback, Order};

/// Normal values: sums of twelve even ones.
pub(crate) fn normal(rows: usize, cols: usize, seed: u64) -> Array2<f32> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    Array2::from_shape_simple_fn((rows, cols), || (0..12).map(|_| random.random::<f32>()).sum::<f32>() - 6.0)
}

/// The factor of an input whose columns are independent and equal.
pub(crate) fn identity(cols: usize) -> Feedback {
    Feedback::new(&Array2::eye(cols), 0.01, Order::Given).expect("a factor")
}

/// Second moments of an input whose columns depend on each other and differ in size.
pub(crate) fn inputs(cols: usize, seed: u64) -> Array2<f64> {
    let (x, mix) = (normal(4 * cols, cols, seed), normal(cols, cols, seed + 1));
    let scale = Array2::from_shape_fn((cols, cols), |(i, j)| {
        let decay = 0.9f32.powi((i as i32 - j as i32).abs());
        mix[[i, j]] * decay * (1.0 + (j % 7) as f32)
    });
    let x = x.dot(&scale).mapv(f64::from);
    x.t().dot(&x) / (4 * cols) as f64
}

pub(crate) fn squared_error(a: &Array2<f32>, b: &Array2<f32>) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum()
}

/// `tr(E H E^T)`.
pub(crate) fn output_error(a: &Array2<f32>, b: &Array2<f32>, mean: &Array2<f64>) -> f64 {
    let error = (a - b).mapv(f64::from);
    (error.dot(mean) * &error).sum()
}
