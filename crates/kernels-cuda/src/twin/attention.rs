//! Attention of one query. The definition, for a query at position `p`, keys `k` with values `v`, where `r` rounds to
//! the cache's type:
//!
//! ```text
//! it sees        k in max(0, p + 1 - window) ..= p
//! score[k]       = scale * r(query) . r(key[k]), 16 dimensions at a time; then cap * tanh(score / cap) with a softcap
//! for each span of 256 positions, at multiples of 256, in which it sees a key, from nothing:
//!     for each page of 64 in which it sees a key, ascending:
//!         greatest   = the greatest score of the span so far; f = e^(the one before - greatest)
//!         weight[k]  = r(e^(score[k] - greatest)), 0 below e^-87 and for keys of the page that it does not see, and
//!                      e^score[k] where greatest is -infinity
//!         sum        = fma(sum, f, (s[0] + s[1]) + (s[2] + s[3])), s[t] the ascending sum over k / 8 % 4 = t
//!         mean[d]    = mean[d] * f, then + weight . r(value[..][d]), 16 keys at a time
//! the spans so far and the next, with m the greater of both greatest, f(g) = e^(g - m), f' of the next:
//!     sum            = fma(sum, f, sum' * f')
//!     mean[d]        = fma(mean[d], f, mean'[d] * f')
//! out[d]         = mean[d] * (1 / sum)
//! ```
//!
//! "16 at a time" is a product of fragments: exact products, and their sum with the sum so far rounded once; a GPU cuts
//! the sum's last bits in its own way. For f32 it is a chain of fused multiply-adds. Which 16 is the cache's layout: see `steps`. A value that is not finite, of a key
//! that a query does not see, may still reach it where another query of the same launch sees that key.

use half::{bf16, f16};

use super::math;
use crate::kv_cache::{KvType, PAGE_POSITIONS};
use crate::launch::{Attend, SPAN_POSITIONS};

/// A query, and what is known of its sequence.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// The query.
    pub values: &'a [f32], // (head_dim)
    /// Its position: it sees keys up to there.
    pub position: usize,
    /// Keys of its head.
    pub keys: &'a [Vec<f32>], // (positions), each (head_dim)
    /// Values of its head.
    pub head_values: &'a [Vec<f32>], // (positions), each (head_dim)
}

/// What spans have in common with what is merged of them.
struct Sums {
    greatest: f32,
    sum: f32,
    means: Vec<f32>, // (head_dim)
}

/// A number as the cache keeps it.
pub fn rounded(kv_type: KvType, value: f32) -> f32 {
    match kv_type {
        KvType::F32 => value,
        KvType::F16 => f16::from_f32(value).to_f32(),
        KvType::Bf16 => bf16::from_f32(value).to_f32(),
    }
}

/// The mean of the values that a query sees.
pub fn attend(query: &Query, attend: &Attend, kv_type: KvType) -> Vec<f32> {
    let end = query.position + 1;
    let first = end.saturating_sub(attend.window.unwrap_or(usize::MAX).max(1));
    let nothing = || Sums { greatest: f32::NEG_INFINITY, sum: 0.0, means: vec![0.0; query.values.len()] };
    let mut total = nothing();
    for span in first / SPAN_POSITIONS..end.div_ceil(SPAN_POSITIONS) {
        let mut next = nothing();
        let pages = SPAN_POSITIONS / PAGE_POSITIONS;
        for page in (span * pages).max(first / PAGE_POSITIONS)..((span + 1) * pages).min(end.div_ceil(PAGE_POSITIONS)) {
            add_page(query, attend, kv_type, page, first..end, &mut next);
        }
        let greatest = greater(total.greatest, next.greatest);
        let (old, new) = (factor(total.greatest, greatest), factor(next.greatest, greatest));
        let merged = |a: f32, b: f32| a.mul_add(old, b * new);
        total.sum = merged(total.sum, next.sum);
        total.means.iter_mut().zip(&next.means).for_each(|(mean, next)| *mean = merged(*mean, *next));
        total.greatest = greatest;
    }
    let inverse = 1.0 / total.sum;
    total.means.iter().map(|mean| mean * inverse).collect()
}

fn add_page(
    query: &Query,
    attend: &Attend,
    kv_type: KvType,
    page: usize,
    seen: std::ops::Range<usize>,
    sums: &mut Sums,
) {
    let first_key = page * PAGE_POSITIONS;
    let scores: Vec<Option<f32>> = (first_key..first_key + PAGE_POSITIONS)
        .map(|key| seen.contains(&key).then(|| score(query.values, &query.keys[key], attend, kv_type)))
        .collect();
    let greatest = scores.iter().flatten().fold(sums.greatest, |greatest, score| greater(greatest, *score));
    let factor = factor(sums.greatest, greatest);
    let base = if greatest == f32::NEG_INFINITY { 0.0 } else { greatest };
    let weight = |score: &Option<f32>| score.map_or(0.0, |score| rounded(kv_type, math::softmax_exp(score - base)));
    let weights: Vec<f32> = scores.iter().map(weight).collect();
    let mut of_lanes = [0f32; 4];
    for (key, weight) in weights.iter().enumerate() {
        of_lanes[key / 8 % 4] += weight;
    }
    sums.sum = sums.sum.mul_add(factor, (of_lanes[0] + of_lanes[1]) + (of_lanes[2] + of_lanes[3]));
    for (dim, mean) in sums.means.iter_mut().enumerate() {
        // Keys that the sequence does not have yet count as 0.
        let value = |key: usize| {
            let values = query.head_values.get(first_key + key).filter(|_| first_key + key < seen.end);
            values.map_or(0.0, |values| rounded(kv_type, values[dim]))
        };
        *mean = steps(PAGE_POSITIONS)
            .iter()
            .fold(*mean * factor, |mean, keys| multiply(kv_type, mean, keys.map(|key| (weights[key], value(key)))));
    }
    sums.greatest = greatest;
}

fn score(query: &[f32], key: &[f32], attend: &Attend, kv_type: KvType) -> f32 {
    let at = |values: &[f32], dim: usize| values.get(dim).map_or(0.0, |value| rounded(kv_type, *value));
    let product = steps(query.len().next_multiple_of(16))
        .iter()
        .fold(0.0, |product, dims| multiply(kv_type, product, dims.map(|dim| (at(query, dim), at(key, dim)))));
    let score = product * attend.scale;
    attend.softcap.map_or(score, |cap| cap * math::tanh(score / cap))
}

/// Indices `..n`, 16 at a time, in the order in which they stand in a fragment: a lane has 8 in a row, for two steps,
/// or 4 for the last of an odd number of steps.
fn steps(n: usize) -> Vec<[usize; 16]> {
    let n_steps = n / 16;
    let first = |step: usize, lane: usize| match (step | 1) < n_steps {
        true => step / 2 * 32 + 8 * lane + step % 2 * 4,
        false => step * 16 + 4 * lane,
    };
    let index = |step: usize, k: usize| first(step, k % 8 / 2) + k / 8 * 2 + k % 2;
    (0..n_steps).map(|step| std::array::from_fn(|k| index(step, k))).collect()
}

/// `sum` and 16 products, rounded once; of f32 a chain of multiply-adds, rounded each.
fn multiply(kv_type: KvType, sum: f32, pairs: [(f32, f32); 16]) -> f32 {
    if kv_type == KvType::F32 {
        let of_lanes = (0..4).flat_map(|lane| [2 * lane, 2 * lane + 1, 2 * lane + 8, 2 * lane + 9]);
        return of_lanes.fold(sum, |sum, k: usize| pairs[k].0.mul_add(pairs[k].1, sum));
    }
    pairs.iter().fold(f64::from(sum), |sum, (a, b)| sum + f64::from(*a) * f64::from(*b)) as f32
}

/// The greater of two; the first where the second is a NaN.
fn greater(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// What sums so far are multiplied with when the greatest score becomes `now`.
fn factor(before: f32, now: f32) -> f32 {
    if before == now { 1.0 } else { math::softmax_exp(before - now) }
}
