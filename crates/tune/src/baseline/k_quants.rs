//! Q4_K, Q5_K and Q6_K of llama.cpp (ggml-quants.c, without importance): superblocks of 256.

use ndarray::ArrayView2;

use super::{Dequantized, as_f16, by_block};

/// Weights of a superblock.
const SUPER: usize = 256;

/// Q4_K and Q5_K: blocks of 32 with a scale and a minimum of 6 bits, and two f16 for all of them: 4.5 and 5.5 bits.
pub fn affine_k(weights: ArrayView2<'_, f32>, n_bits: u32) -> Dequantized {
    let bits = f64::from(n_bits) * SUPER as f64 + 8.0 * 12.0 + 32.0;
    by_block(weights, SUPER, bits, |block| affine_superblock(block, n_bits))
}

fn affine_superblock(block: &mut [f32], n_bits: u32) {
    let most = (1 << n_bits) - 1;
    // rmin, rdelta and the number of steps of make_qkx2_quants.
    let search = if n_bits == 4 { (-1.0, 0.1, 20) } else { (-0.5, 0.1, 15) };
    let fits: Vec<(f32, f32)> = block.chunks_exact(32).map(|part| scale_and_min(part, most, search)).collect();
    let most_scale = fits.iter().fold(0f32, |most, fit| most.max(fit.0));
    let most_min = fits.iter().fold(0f32, |most, fit| most.max(fit.1));
    let code = |value: f32, most: f32| if most > 0.0 { (63.0 / most * value).round_ties_even().min(63.0) } else { 0.0 };
    let (scale, min) = (as_f16(most_scale / 63.0), as_f16(most_min / 63.0));
    for (part, fit) in block.chunks_exact_mut(32).zip(&fits) {
        let (scale, min) = (scale * code(fit.0, most_scale), min * code(fit.1, most_min));
        for weight in part {
            let index = if scale == 0.0 { 0.0 } else { ((*weight + min) / scale).round_ties_even() };
            *weight = scale * index.clamp(0.0, most as f32) - min;
        }
    }
}

/// make_qkx2_quants: scale and minimum (to be subtracted, not negative) of `w = scale * index - min` that make the
/// weighted squared error least among those that a line of candidates gives.
fn scale_and_min(part: &[f32], most: i32, (first, delta, n_steps): (f32, f32, usize)) -> (f32, f32) {
    let mean_square = part.iter().map(|w| w * w).sum::<f32>() / part.len() as f32;
    let weight_of = |w: f32| mean_square.sqrt() + w.abs();
    let most = most as f32;
    let min = part.iter().fold(0f32, |min, w| min.min(*w));
    let max = part.iter().fold(f32::NEG_INFINITY, |max, w| max.max(*w));
    if max <= min {
        return (0.0, -min);
    }
    let error = |scale: f32, min: f32, inverse: f32, from: f32| {
        let index = |w: f32| (inverse * (w - from)).round_ties_even().clamp(0.0, most);
        part.iter().map(|&w| weight_of(w) * (scale * index(w) + min - w).powi(2)).sum::<f32>()
    };
    let start = (max - min) / most;
    let mut best = (start, min, error(start, min, 1.0 / start, min));
    for step in 0..=n_steps {
        let inverse = (first + delta * step as f32 + most) / (max - min);
        let (mut sum_w, mut sum_x, mut sum_l, mut sum_l2, mut sum_xl) = (0f32, 0f32, 0f32, 0f32, 0f32);
        for &x in part {
            let (index, weight) = ((inverse * (x - min)).round_ties_even().clamp(0.0, most), weight_of(x));
            sum_w += weight;
            sum_x += weight * x;
            sum_l += weight * index;
            sum_l2 += weight * index * index;
            sum_xl += weight * index * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut offset = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if offset > 0.0 {
                (scale, offset) = (sum_xl / sum_l2, 0.0);
            }
            let found = error(scale, offset, inverse, min);
            if found < best.2 {
                best = (scale, offset, found);
            }
        }
    }
    (best.0, -best.1)
}

/// Q6_K: blocks of 16 with a signed scale of 8 bits, and one f16 for all of them: 6.5625 bits.
pub fn q6_k(weights: ArrayView2<'_, f32>) -> Dequantized {
    by_block(weights, SUPER, 6.0 * SUPER as f64 + 16.0 * 8.0 + 16.0, |block| {
        let scales: Vec<f32> = block.chunks_exact(16).map(symmetric_scale).collect();
        let largest = scales.iter().fold(0f32, |largest, s| if s.abs() > largest.abs() { *s } else { largest });
        if largest.abs() < 1e-15 {
            block.fill(0.0);
            return;
        }
        let inverse = -128.0 / largest;
        let stored = as_f16(1.0 / inverse);
        for (part, scale) in block.chunks_exact_mut(16).zip(&scales) {
            let scale = stored * (inverse * scale).round_ties_even().min(127.0);
            for weight in part {
                let index = if scale == 0.0 { 0.0 } else { (*weight / scale).round_ties_even().clamp(-32.0, 31.0) };
                *weight = scale * index;
            }
        }
    })
}

/// make_qx_quants with squared weights: the scale of indices -32 to 31 that makes the weighted error least among 19
/// candidates.
fn symmetric_scale(part: &[f32]) -> f32 {
    let largest = part.iter().fold(0f32, |largest, w| if w.abs() > largest.abs() { *w } else { largest });
    if largest.abs() < 1e-15 {
        return 0.0;
    }
    let sums = |inverse: f32| {
        part.iter().fold((0f32, 0f32), |(sum_lx, sum_l2), &x| {
            let (index, weight) = ((inverse * x).round_ties_even().clamp(-32.0, 31.0), x * x);
            (sum_lx + weight * x * index, sum_l2 + weight * index * index)
        })
    };
    let (sum_lx, sum_l2) = sums(-32.0 / largest);
    let mut scale = if sum_l2 > 0.0 { sum_lx / sum_l2 } else { 0.0 };
    let mut best = scale * sum_lx;
    for step in (-9..=9).filter(|step| *step != 0) {
        let (sum_lx, sum_l2) = sums(-(32.0 + 0.1 * step as f32) / largest);
        if sum_l2 > 0.0 && sum_lx * sum_lx > best * sum_l2 {
            scale = sum_lx / sum_l2;
            best = scale * sum_lx;
        }
    }
    scale
}
