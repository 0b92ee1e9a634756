//! Groups of a row with a scale and a zero point, both of f16: round-to-nearest, GPTQ, HQQ.

use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;

use super::{Dequantized, as_f16, by_block};
use crate::hessian::Feedback;

/// `weight = (index - zero) * scale`, with indices from 0 to `most`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    scale: f32,
    zero: f32,
    most: f32,
}

impl Affine {
    /// From the least to the largest weight, 0 among them, with a zero point that is an index.
    fn spanning(weights: impl Iterator<Item = f32>, n_bits: u32) -> Affine {
        let (least, largest) = weights.fold((0f32, 0f32), |(least, largest), w| (least.min(w), largest.max(w)));
        let most = ((1 << n_bits) - 1) as f32;
        let scale = as_f16(if largest > least { (largest - least) / most } else { 1.0 });
        let scale = if scale > 0.0 { scale } else { 1.0 };
        Affine { scale, zero: (-least / scale).round().clamp(0.0, most), most }
    }

    fn round(&self, weight: f32) -> f32 {
        ((weight / self.scale + self.zero).round().clamp(0.0, self.most) - self.zero) * self.scale
    }
}

/// A scale of 16 bits and a zero point of as many bits as an index, for each group.
fn group_bits(n_bits: u32, group: usize) -> f64 {
    f64::from(n_bits) * (group + 1) as f64 + 16.0
}

/// Round-to-nearest.
pub fn nearest(weights: ArrayView2<'_, f32>, n_bits: u32, group: usize) -> Dequantized {
    by_block(weights, group, group_bits(n_bits, group), |block| {
        let affine = Affine::spanning(block.iter().copied(), n_bits);
        block.iter_mut().for_each(|weight| *weight = affine.round(*weight));
    })
}

/// GPTQ (Frantar et al. 2022), asymmetric. Where columns are reordered, groups stay those of neighbours and their scales
/// are found beforehand; else a group's scale is found when its first column is reached.
pub fn gptq(weights: ArrayView2<'_, f32>, feedback: &Feedback, n_bits: u32, group: usize) -> Dequantized {
    let (rows, cols) = weights.dim();
    let is_reordered = feedback.order.windows(2).any(|pair| pair[0] > pair[1]);
    let n_groups = cols.div_ceil(group);
    let mut found = Array2::zeros((rows, cols));
    found.outer_iter_mut().into_par_iter().zip(weights.outer_iter()).for_each(|(mut out, row)| {
        let span = |values: &[f32], idx: usize| {
            let range = idx * group..cols.min((idx + 1) * group);
            Affine::spanning(values[range].iter().copied(), n_bits)
        };
        let mut left = row.to_vec();
        let mut affines: Vec<Affine> = (0..n_groups).map(|idx| span(&left, idx)).collect();
        for (at, &col) in feedback.order.iter().enumerate() {
            if !is_reordered && col % group == 0 {
                affines[col / group] = span(&left, col / group);
            }
            out[col] = affines[col / group].round(left[col]);
            let factors = feedback.upper.row(at);
            let error = (left[col] - out[col]) / factors[at];
            feedback.order[at + 1..].iter().zip(factors.iter().skip(at + 1)).for_each(|(&to, u)| left[to] -= error * u);
        }
    });
    Dequantized { weights: found, bits: group_bits(n_bits, group) * (rows * n_groups) as f64 }
}

/// HQQ (Badri and Shaji 2023): round-to-nearest, then the zero point, of f16, is fitted by half-quadratic splitting of
/// the 0.7-norm of the error: at most 20 steps, `beta` from 10 growing by 1.01, as long as the error shrinks.
pub fn half_quadratic(weights: ArrayView2<'_, f32>, n_bits: u32, group: usize) -> Dequantized {
    const NORM: f32 = 0.7;
    let bits = group_bits(n_bits, group) + 16.0 - f64::from(n_bits);
    by_block(weights, group, bits, |block| {
        let mut affine = Affine::spanning(block.iter().copied(), n_bits);
        let (mut beta, mut best, mut best_error) = (10.0, affine, f32::INFINITY);
        for _ in 0..20 {
            let mut zero = 0.0;
            let mut error = 0.0;
            for &weight in block.iter() {
                let index = (weight / affine.scale + affine.zero).round().clamp(0.0, affine.most);
                let rest = weight - (index - affine.zero) * affine.scale;
                error += rest.abs();
                // The proximal operator of |e|^p: generalised soft thresholding.
                let threshold = rest.abs().max(1e-12).powf(NORM - 1.0) / beta;
                let outlier = rest.signum() * (rest.abs() - threshold).max(0.0);
                zero += index - (weight - outlier) / affine.scale;
            }
            if error >= best_error {
                break;
            }
            (best, best_error) = (affine, error);
            affine.zero = as_f16(zero / block.len() as f32);
            beta *= 1.01;
        }
        block.iter_mut().for_each(|weight| *weight = best.round(*weight));
    })
}
