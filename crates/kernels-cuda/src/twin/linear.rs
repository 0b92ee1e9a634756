//! Linear layers.

use half::bf16;

use crate::layout::{N_SLICES, STEP_COLS, STEP_PRODUCTS, Shape, product_col};

/// `out[row] = sum over col of w[row][col] * x[col] (+ bias)` for bf16 `weights` (rows, cols) and one token `x`, rounded to
/// bf16 already. Columns are cut into eight slices of whole steps; a slice is summed product by product, 16 columns each,
/// with one rounding to f32 after each product (which is where GPUs may differ in the last bits); slices are added in
/// order, then the bias.
pub fn linear(shape: Shape, weights: &[u16], bias: Option<&[f32]>, x: &[u16]) -> Vec<f32> {
    let widen = |bits: u16| f64::from(bf16::from_bits(bits).to_f32());
    let row = |row_idx: usize| {
        let row = &weights[row_idx * shape.cols..(row_idx + 1) * shape.cols];
        let slice = |slice_idx: usize| {
            let mut sum = 0f32;
            for product in shape.slice(slice_idx).flat_map(|step| (0..STEP_PRODUCTS).map(move |m| (step, m))) {
                let cols = (0..16).map(|k| product.0 * STEP_COLS + product_col(product.1, k));
                let of = |values: &[u16], col: usize| values.get(col).copied().map_or(0.0, widen);
                sum = cols.fold(f64::from(sum), |sum, col| sum + of(row, col) * of(x, col)) as f32;
            }
            sum
        };
        let sum = (1..N_SLICES).fold(slice(0), |sum, slice_idx| sum + slice(slice_idx));
        bias.map_or(sum, |bias| sum + bias[row_idx])
    };
    (0..shape.rows).map(row).collect()
}
