//! The inner loops of attention. Goes in: up to 64 queries, and a span of keys and values. Comes out: the sums of the
//! span. Next: `attention/scores.rs`, `attention/means.rs`, `attention/sums.rs`.
//!
//! ```text
//! for each block of 32 keys:            two tiles; widened to f32 once, if many queries read them
//!     for each few queries:             their sums stay in registers over all dimensions
//!         score[query][key] = scale * (even + odd), softcap
//! for each query: greatest, weights, their sum
//! for each block of 32 values:          widened once, if many queries read them
//!     for each few queries, few vectors of dimensions:
//!         mean[query][d] = fma(weight[query][key], value[key][d], mean[query][d]) over keys
//! ```
//!
//! Where few queries read the cache's own memory, each block asks for the lines of the next while it is computed: decoding
//! waits for memory, and hardware foresees no jump between keys and values, nor into another page.
//!
//! How many queries and vectors are "few" is a matter of registers, and changes no bit: every score and every mean is
//! one chain, whatever stands beside it.

use std::ops::Range;

use super::means::Means;
use super::scores::{Scores, soften};
use super::sums::Sums;
use super::{Attend, SPAN};
use crate::kv_cache::{BLOCK_KEYS, Stored, StoredF32};
use crate::lanes::{Lanes, N_LANES};

/// A head's keys and values, the queries, and room for their scores.
pub(super) struct Span<'a, S: Stored> {
    pub(super) keys: &'a [S::Word],   // (tiles, head_dim, 16)
    pub(super) values: &'a [S::Word], // (positions, stride)
    pub(super) head_dim: usize,
    pub(super) stride: usize,
    pub(super) attend: &'a Attend,
    pub(super) seen: &'a [Range<usize>], // (n_rows)
    pub(super) queries: &'a [f32],       // (n_rows, head_dim)
    pub(super) scores: &'a mut [f32],    // (n_rows, SPAN)
    pub(super) wide: &'a mut [f32],      // (BLOCK_KEYS, stride)
}

/// Up to how many queries read keys and values as they are stored, so that widening them twice is no loss.
const FEW_ROWS: usize = 4;

/// Sums of span `span_idx`, for all queries.
#[inline(always)]
pub(super) fn score_and_sum<L: Lanes, S: Stored>(l: L, head: &mut Span<S>, span_idx: usize, out: &mut Sums) {
    out.clear();
    let start = span_idx * SPAN;
    let local = |seen: &Range<usize>| {
        seen.start.clamp(start, start + SPAN) - start..seen.end.clamp(start, start + SPAN) - start
    };
    let seen = head.seen.iter().map(local).filter(|keys| !keys.is_empty());
    let Some(keys) = seen.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)) else { return };
    let blocks = keys.start / BLOCK_KEYS..keys.end.div_ceil(BLOCK_KEYS);

    for block in blocks.clone() {
        score_block(l, head, start, block * BLOCK_KEYS);
    }
    for (row, seen) in head.seen.iter().enumerate() {
        let scores = &mut head.scores[row * SPAN..][..SPAN];
        let keys = local(seen);
        if !keys.is_empty() {
            (out.greatest[row], out.weight[row]) = soften(l, scores, keys);
        }
    }
    for block in blocks {
        weigh_block(l, head, start, block * BLOCK_KEYS, out);
    }
}

/// Scores of 32 keys, the first at `start + first`, for all queries.
#[inline(always)]
fn score_block<L: Lanes, S: Stored>(l: L, head: &mut Span<S>, start: usize, first: usize) {
    let n_rows = head.seen.len();
    let words = &head.keys[(start + first) * head.head_dim..][..BLOCK_KEYS * head.head_dim];
    let scores =
        Scores { queries: head.queries, head_dim: head.head_dim, attend: head.attend, first, scores: head.scores };
    if n_rows > FEW_ROWS && S::NEEDS_WIDENING {
        let wide = &mut head.wide[..words.len()];
        widen::<L, S>(l, words, wide);
        scores.all_rows::<L, StoredF32, false>(l, wide, n_rows);
    } else if n_rows > FEW_ROWS {
        scores.all_rows::<L, S, false>(l, words, n_rows);
    } else {
        scores.all_rows::<L, S, true>(l, words, n_rows);
    }
}

#[inline(always)]
fn widen<L: Lanes, S: Stored>(l: L, words: &[S::Word], wide: &mut [f32]) {
    let chunks = words.as_chunks::<N_LANES>().0.iter().zip(wide.as_chunks_mut::<N_LANES>().0);
    for (words, wide) in chunks {
        l.store(S::widen(l, words), wide);
    }
}

/// Adds the weighted values of 32 keys, the first at `start + first`, for all queries.
#[inline(always)]
fn weigh_block<L: Lanes, S: Stored>(l: L, head: &mut Span<S>, start: usize, first: usize, out: &mut Sums) {
    let n_rows = head.seen.len();
    let words = &head.values[(start + first) * head.stride..][..BLOCK_KEYS * head.stride];
    let begin = start + first;
    let weigh = Means { scores: head.scores, seen: head.seen, begin, first, means: out.means };
    if n_rows > FEW_ROWS && S::NEEDS_WIDENING {
        widen::<L, S>(l, words, head.wide);
        weigh.all_rows::<L, StoredF32, false>(l, head.wide);
    } else if n_rows > FEW_ROWS {
        weigh.all_rows::<L, S, false>(l, words);
    } else {
        weigh.all_rows::<L, S, true>(l, words);
    }
}
