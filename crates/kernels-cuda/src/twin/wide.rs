//! Linear layers over unrounded activations.

use super::sums::warp_sum;

/// `out[row] = sum over col of w[row][col] * x[col] (+ bias)` for widened `weights` (rows, cols) and one token: lane `i` of a
/// warp sums columns `i`, `i + 32`, ... ascending, with one rounding each, then the lanes.
pub fn wide_linear(weights: &[f32], bias: Option<&[f32]>, x: &[f32]) -> Vec<f32> {
    let row = |(row_idx, row): (usize, &[f32])| {
        let mut lanes = [0f32; 32];
        for (col, (weight, x)) in row.iter().zip(x).enumerate() {
            lanes[col % 32] = weight.mul_add(*x, lanes[col % 32]);
        }
        let sum = warp_sum(lanes);
        bias.map_or(sum, |bias| sum + bias[row_idx])
    };
    weights.chunks_exact(x.len()).enumerate().map(row).collect()
}
