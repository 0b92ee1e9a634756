//! Quantisers that others use, spelt out so that grids are compared with them in the same harness. Goes in: a matrix,
//! and what feeds it. Comes out: the weights that a model would run with, and the bits that a file would need.
//!
//! Block formats are those of llama.cpp, without an importance matrix. Rows whose length is no multiple of a block are
//! padded with zeros, and the padding is paid for.

mod affine;
mod blocks;
mod k_quants;

use ndarray::{Array2, ArrayView2};

use crate::hessian::Feedback;

/// A matrix as another quantiser leaves it.
#[derive(Clone, Debug)]
pub struct Dequantized {
    /// What a model runs with.
    pub weights: Array2<f32>, // (rows, cols)
    /// Bits of indices, scales and minima.
    pub bits: f64,
}

/// One of the quantisers.
#[derive(Clone, Copy)]
pub struct Baseline {
    /// What it is called.
    pub name: &'static str,
    /// Whether it looks at what feeds the matrix.
    pub is_calibrated: bool,
    run: fn(ArrayView2<'_, f32>, &Feedback) -> Dequantized,
}

impl std::fmt::Debug for Baseline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Baseline({})", self.name)
    }
}

/// All of them, coarse ones first.
pub static BASELINES: [Baseline; 8] = [
    Baseline { name: "rtn-int4-g128", is_calibrated: false, run: |weights, _| affine::nearest(weights, 4, 128) },
    Baseline {
        name: "gptq-int4-g128",
        is_calibrated: true,
        run: |weights, feedback| affine::gptq(weights, feedback, 4, 128),
    },
    Baseline { name: "hqq-int4-g128", is_calibrated: false, run: |weights, _| affine::half_quadratic(weights, 4, 128) },
    Baseline { name: "nf4-64", is_calibrated: false, run: |weights, _| blocks::nf4(weights) },
    Baseline { name: "q4_k", is_calibrated: false, run: |weights, _| k_quants::affine_k(weights, 4) },
    Baseline { name: "q5_k", is_calibrated: false, run: |weights, _| k_quants::affine_k(weights, 5) },
    Baseline { name: "q6_k", is_calibrated: false, run: |weights, _| k_quants::q6_k(weights) },
    Baseline { name: "q8_0", is_calibrated: false, run: |weights, _| blocks::q8_0(weights) },
];

impl Baseline {
    /// The quantiser of that name.
    pub fn from_name(name: &str) -> Option<&'static Baseline> {
        BASELINES.iter().find(|baseline| baseline.name == name)
    }

    /// Quantises `weights`, (rows, cols), whose input has the factor `feedback`.
    ///
    /// # Panics
    /// Where the shapes do not fit each other.
    pub fn run(&self, weights: ArrayView2<'_, f32>, feedback: &Feedback) -> Dequantized {
        assert_eq!(weights.ncols(), feedback.order.len());
        (self.run)(weights, feedback)
    }
}

/// Quantises blocks of `block` weights of a row one by one; `bits` are those of a block.
fn by_block(weights: ArrayView2<'_, f32>, block: usize, bits: f64, quantize: impl Fn(&mut [f32])) -> Dequantized {
    let (rows, cols) = weights.dim();
    let n_blocks = cols.div_ceil(block);
    let mut padded = vec![0.0; n_blocks * block];
    let mut found = Array2::zeros((rows, cols));
    for (row, mut out) in weights.rows().into_iter().zip(found.rows_mut()) {
        padded.fill(0.0);
        padded.iter_mut().zip(row).for_each(|(to, from)| *to = *from);
        padded.chunks_exact_mut(block).for_each(&quantize);
        out.iter_mut().zip(&padded).for_each(|(to, from)| *to = *from);
    }
    Dequantized { weights: found, bits: bits * (rows * n_blocks) as f64 }
}

/// The nearest f16, as formats keep scales.
fn as_f16(value: f32) -> f32 {
    half::f16::from_f32(value).to_f32()
}

#[cfg(test)]
mod tests;
