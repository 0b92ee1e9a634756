//! Sums over experts.

/// `out[row] = sum over its entries of weights[entry] * x[entry]`, in the order of entries, product and sum rounded each.
/// Entry `i` belongs to row `rows[i]`.
pub fn combine_experts(x: &[&[f32]], rows: &[u32], weights: &[f32], n_rows: usize, width: usize) -> Vec<Vec<f32>> {
    let mut out = vec![vec![0f32; width]; n_rows];
    for ((x, &row), weight) in x.iter().zip(rows).zip(weights) {
        out[row as usize].iter_mut().zip(*x).for_each(|(out, x)| *out += weight * x);
    }
    out
}
