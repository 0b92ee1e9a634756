//! What a span, or the spans so far, come to. Goes in: the sums of the next span. Comes out: those of both, and in the
//! end the means. Next: `kv_cache.rs`, if not read yet.

use crate::lanes::{Lanes, N_LANES, math};

/// Sums of some queries: views of one slice, so that threads can hand them on.
pub(super) struct Sums<'a> {
    /// Weighted sums of the values, not divided yet.
    pub(super) means: &'a mut [[f32; N_LANES]], // (n_rows, head_dim / 16 rounded up)
    /// Greatest score; minus infinity where nothing was seen.
    pub(super) greatest: &'a mut [f32], // (n_rows)
    /// Sum of the weights; 0 where nothing was seen.
    pub(super) weight: &'a mut [f32], // (n_rows)
}

/// Floats that the sums of `n_rows` queries take, with values of `stride` (a multiple of 16).
pub(super) fn len(n_rows: usize, stride: usize) -> usize {
    (n_rows * (stride + 2)).next_multiple_of(N_LANES)
}

impl<'a> Sums<'a> {
    /// The views into a slice of at least [`len`] floats.
    #[inline(always)]
    pub(super) fn of(floats: &'a mut [f32], n_rows: usize, stride: usize) -> Sums<'a> {
        let (means, rest) = floats.split_at_mut(n_rows * stride);
        let (greatest, rest) = rest.split_at_mut(n_rows);
        Sums { means: means.as_chunks_mut().0, greatest, weight: &mut rest[..n_rows] }
    }

    /// Sums of nothing.
    #[inline(always)]
    pub(super) fn clear(&mut self) {
        self.means.fill([0.0; N_LANES]);
        self.greatest.fill(f32::NEG_INFINITY);
        self.weight.fill(0.0);
    }
}

/// Adds the sums of the next span, kept in a slice, to those of the spans before it.
#[inline(always)]
pub(super) fn merge<L: Lanes>(l: L, total: &mut Sums, next: &[f32]) {
    let n_rows = total.greatest.len();
    let stride = total.means.len() / n_rows * N_LANES;
    let (means, rest) = next.split_at(n_rows * stride);
    let rows = total.means.chunks_exact_mut(stride / N_LANES).zip(means.as_chunks().0.chunks_exact(stride / N_LANES));
    for (row, (mean, next_mean)) in rows.enumerate() {
        let (greatest, weight) = (rest[row], rest[n_rows + row]);
        if weight == 0.0 {
            continue;
        }
        if total.weight[row] == 0.0 {
            mean.copy_from_slice(next_mean);
            (total.greatest[row], total.weight[row]) = (greatest, weight);
            continue;
        }
        let both = if total.greatest[row] > greatest { total.greatest[row] } else { greatest };
        let factor = math::softmax_exp_of_one(l, total.greatest[row] - both);
        let next_factor = math::softmax_exp_of_one(l, greatest - both);
        let scaled = l.mul(l.splat(weight), l.splat(next_factor));
        let mut sum = [0.0; N_LANES];
        l.store(l.fma(l.splat(total.weight[row]), l.splat(factor), scaled), &mut sum);
        (total.greatest[row], total.weight[row]) = (both, sum[0]);
        for (mean, next_mean) in mean.iter_mut().zip(next_mean) {
            let scaled = l.mul(l.load(next_mean), l.splat(next_factor));
            l.store(l.fma(l.load(mean), l.splat(factor), scaled), mean);
        }
    }
}

/// The mean of one query: its sums divided by its weight.
#[inline(always)]
pub(super) fn finish<L: Lanes>(l: L, total: &mut Sums, row: usize, out: &mut [f32] /* (head_dim) */) {
    let n_vectors = total.means.len() / total.greatest.len();
    let factor = l.splat(1.0 / total.weight[row]);
    for (mean, out) in total.means[row * n_vectors..].iter().zip(out.chunks_mut(N_LANES)) {
        let mut lanes = [0.0; N_LANES];
        l.store(l.mul(l.load(mean), factor), &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}
