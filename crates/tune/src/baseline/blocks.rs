//! Block formats with one scale and no minimum: Q8_0 of llama.cpp, NF4 of QLoRA.

use ndarray::ArrayView2;

use super::{Dequantized, as_f16, by_block};

/// Q8_0: blocks of 32, `d = max|w| / 127` as f16, indices of 8 bits rounded half away from zero: 8.5 bits.
pub fn q8_0(weights: ArrayView2<'_, f32>) -> Dequantized {
    by_block(weights, 32, 32.0 * 8.0 + 16.0, |block| {
        let most = block.iter().fold(0f32, |most, weight| most.max(weight.abs()));
        let (scale, stored) = (most / 127.0, as_f16(most / 127.0));
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        block.iter_mut().for_each(|weight| *weight = (*weight * inverse).round() * stored);
    })
}

/// Levels of NF4: quantiles of a normal distribution scaled to -1..=1, with an exact 0 (Dettmers et al. 2023,
/// appendix E).
pub const NF4_LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// NF4: blocks of 64 with their largest magnitude as f32: 4.5 bits. (Quantising those in turn would take 4.127 bits.)
pub fn nf4(weights: ArrayView2<'_, f32>) -> Dequantized {
    by_block(weights, 64, 64.0 * 4.0 + 32.0, |block| {
        let most = block.iter().fold(0f32, |most, weight| most.max(weight.abs()));
        let inverse = if most > 0.0 { 1.0 / most } else { 0.0 };
        for weight in block {
            let value = *weight * inverse;
            let above = NF4_LEVELS.partition_point(|&level| level < value).min(15);
            let below = above.saturating_sub(1);
            let is_below_nearer = value - NF4_LEVELS[below] < NF4_LEVELS[above] - value;
            *weight = most * NF4_LEVELS[if is_below_nearer { below } else { above }];
        }
    })
}
