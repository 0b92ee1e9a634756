//! RMSNorm.

use super::sums::block_sum;

/// Threads of a block.
const THREADS: usize = 256;

/// `out = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich, 2019). Thread `i` of 256 sums the squares of columns
/// `i`, `i + 256`, ... ascending, with one rounding each.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut sums = [0f32; THREADS];
    for (idx, &value) in x.iter().enumerate() {
        sums[idx % THREADS] = value.mul_add(value, sums[idx % THREADS]);
    }
    let mean = block_sum(&sums) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect()
}
