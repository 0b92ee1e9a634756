//! RMSNorm (Zhang and Sennrich, 2019).

use super::sums::{block_sum, warp_sum};

/// Threads of a block.
const THREADS: usize = 1024;
/// Columns that a thread takes at once.
const QUAD: usize = 4;

/// `out = x / sqrt(mean(x^2) + eps) * weight`. Thread `i` of 1024 sums the squares of columns `4 i..4 i + 4`, then those
/// 4096 further and so on, ascending, with one rounding each.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut sums = [0f32; THREADS];
    for (quad_idx, quad) in x.chunks(QUAD).enumerate() {
        let sum = &mut sums[quad_idx % THREADS];
        *sum = quad.iter().fold(*sum, |sum, x| x.mul_add(*x, sum));
    }
    scaled(x, weight, block_sum(&sums), eps)
}

/// [`rms_norm`] of one head, whose squares a warp sums: lane `i` those of dimensions `i`, `i + 32`, ... ascending.
pub fn head_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let mut sums = [0f32; 32];
    for (dim, x) in x.iter().enumerate() {
        sums[dim % 32] = x.mul_add(*x, sums[dim % 32]);
    }
    scaled(x, weight, warp_sum(sums), eps)
}

fn scaled(x: &[f32], weight: &[f32], sum_of_squares: f32, eps: f32) -> Vec<f32> {
    let scale = 1.0 / (sum_of_squares / x.len() as f32 + eps).sqrt();
    x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect()
}
