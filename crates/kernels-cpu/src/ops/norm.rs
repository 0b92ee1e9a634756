//! RMSNorm (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>). Goes in: rows, or heads of rows. Comes out:
//! each divided by the root of its mean square, times a weight. Next: `ops/rope.rs`.

use super::{Heads, RowBody, Rows, RowsMut, for_rows, padded};
use crate::isa::Isa;
use crate::lanes::{Lanes, N_LANES, math};
use crate::pool::Pool;

/// `out[j] = x[j] * (1 / sqrt(sum(x^2) / width + eps)) * weight[j]` over columns `..width` of `n_rows` rows, multiplied
/// from left to right.
///
/// The sum has 16 lanes: column j goes into lane j % 16 by a fused multiply-add, columns ascending; then the lanes are
/// added by halving, i and i + 8 first.
///
/// # Panics
/// If the rows do not have these columns.
pub fn rms_norm(
    isa: Isa,
    pool: &Pool,
    x: Rows,
    n_rows: usize,
    weight: &[f32], // (width)
    eps: f32,
    out: RowsMut,
) {
    for_rows(isa, pool, out, n_rows, &RmsNorm { x, weight, eps });
}

/// [`rms_norm`] of each head on its own, in place.
///
/// # Panics
/// If the rows do not have the heads' columns, or `weight` is not as long as a head.
pub fn head_norm(
    isa: Isa,
    pool: &Pool,
    x: RowsMut,
    n_rows: usize,
    heads: Heads,
    weight: &[f32], // (head_dim)
    eps: f32,
) {
    assert_eq!(weight.len(), heads.head_dim, "a weight for each dimension of a head");
    for_rows(isa, pool, x, n_rows, &HeadNorm { heads, weight, eps });
}

struct RmsNorm<'a> {
    x: Rows<'a>,
    weight: &'a [f32],
    eps: f32,
}

impl RowBody for RmsNorm<'_> {
    #[inline(always)]
    fn row<L: Lanes>(&self, l: L, row_idx: usize, row: &mut [f32]) {
        let width = self.weight.len();
        let x = self.x.row(row_idx, width);
        let out = &mut row[..width];
        let factor = factor(l, x, self.eps);
        let (xs, x_rest) = x.as_chunks::<N_LANES>();
        let (weights, weight_rest) = self.weight.as_chunks::<N_LANES>();
        let (outs, out_rest) = out.as_chunks_mut::<N_LANES>();
        for ((x, weight), out) in xs.iter().zip(weights).zip(outs) {
            l.store(l.mul(l.mul(l.load(x), l.splat(factor)), l.load(weight)), out);
        }
        for ((x, weight), out) in x_rest.iter().zip(weight_rest).zip(out_rest) {
            *out = x * factor * weight;
        }
    }
}

struct HeadNorm<'a> {
    heads: Heads,
    weight: &'a [f32],
    eps: f32,
}

impl RowBody for HeadNorm<'_> {
    #[inline(always)]
    fn row<L: Lanes>(&self, l: L, _: usize, row: &mut [f32]) {
        let (weights, weight_rest) = self.weight.as_chunks::<N_LANES>();
        for head in row[self.heads.columns()].chunks_exact_mut(self.heads.head_dim) {
            let factor = factor(l, head, self.eps);
            let (outs, out_rest) = head.as_chunks_mut::<N_LANES>();
            for (out, weight) in outs.iter_mut().zip(weights) {
                l.store(l.mul(l.mul(l.load(out), l.splat(factor)), l.load(weight)), out);
            }
            for (out, weight) in out_rest.iter_mut().zip(weight_rest) {
                *out = *out * factor * weight;
            }
        }
    }
}

/// `1 / sqrt(mean(x^2) + eps)`
#[inline(always)]
fn factor<L: Lanes>(l: L, x: &[f32], eps: f32) -> f32 {
    let (xs, rest) = x.as_chunks::<N_LANES>();
    let mut sum = l.splat(0.0);
    for x in xs {
        let x = l.load(x);
        sum = l.fma(x, x, sum);
    }
    if !rest.is_empty() {
        let x = l.load(&padded(rest));
        sum = l.fma(x, x, sum);
    }
    1.0 / (math::sum(l, sum) / x.len() as f32 + eps).sqrt()
}
