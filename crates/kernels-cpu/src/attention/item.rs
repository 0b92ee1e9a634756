//! The item of a run: queries that share a head of keys. Goes in: some tokens of one sequence. Comes out: their rows of
//! the result, or the sums of one span. Next: `attention/span.rs`.

use std::marker::PhantomData;
use std::ops::Range;

use super::span::{Span, score_and_sum};
use super::sums::{self, Sums, finish, merge};
use super::{Call, SPAN};
use crate::aligned::Aligned;
use crate::kv_cache::{BLOCK_KEYS, Stored};
use crate::lanes::{Body, Lanes, N_LANES};
use crate::pool::Block;

/// Memory of one thread.
pub(super) struct Scratch {
    /// Positions that each query sees.
    seen: Vec<Range<usize>>,
    queries: Aligned<f32>, // (n_rows, head_dim)
    scores: Aligned<f32>,  // (n_rows, SPAN)
    wide: Aligned<f32>,    // (BLOCK_KEYS, head_dim rounded up to 16)
    span: Aligned<f32>,
    total: Aligned<f32>,
}

impl Scratch {
    pub(super) fn new(max_rows: usize, head_dim: usize) -> Scratch {
        let stride = head_dim.next_multiple_of(N_LANES);
        let sums_len = sums::len(max_rows, stride);
        Scratch {
            seen: Vec::with_capacity(max_rows),
            queries: Aligned::zeroed(max_rows * head_dim),
            scores: Aligned::zeroed(max_rows * SPAN),
            wide: Aligned::zeroed(BLOCK_KEYS * stride),
            span: Aligned::zeroed(sums_len),
            total: Aligned::zeroed(sums_len),
        }
    }
}

/// What to do of an item.
pub(super) enum Task<'a> {
    /// The sums of one span.
    Span { span_idx: usize, sums: &'a mut [f32] },
    /// All of it, into rows (n_tokens, group * head_dim).
    All { block: Block<'a> },
    /// What is left where the sums of the item's spans are there, one after the other: all of it, into the same rows.
    Merge { block: Block<'a>, sums: &'a [f32], sums_len: usize },
}

/// An item and its task.
pub(super) struct Item<'a, S> {
    call: &'a Call<'a>,
    tokens: Range<usize>,
    kv_head: usize,
    scratch: &'a mut Scratch,
    task: Task<'a>,
    stored: PhantomData<S>,
}

impl<'a, S: Stored> Item<'a, S> {
    pub(super) fn new(
        call: &'a Call<'a>,
        tokens: Range<usize>,
        kv_head: usize,
        scratch: &'a mut Scratch,
        task: Task<'a>,
    ) -> Item<'a, S> {
        Item { call, tokens, kv_head, scratch, task, stored: PhantomData }
    }

    /// Copies the queries side by side, and notes what each sees.
    fn gather(&mut self) {
        let Call { group, head_dim, .. } = *self.call;
        self.scratch.seen.clear();
        let mut queries = self.scratch.queries.chunks_exact_mut(group * head_dim);
        for token in self.tokens.clone() {
            let columns = token * self.call.q.stride + self.kv_head * group * head_dim..;
            let Some(query) = queries.next() else { return };
            query.copy_from_slice(&self.call.q.data[columns][..group * head_dim]);
            let seen = self.call.seen(token);
            self.scratch.seen.extend(std::iter::repeat_n(seen, group));
        }
    }
}

impl<S: Stored> Body for Item<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, l: L) {
        self.gather();
        let Call { cache, layer, attend, places, group, head_dim, .. } = *self.call;
        let slot = places[self.tokens.start].slot;
        let stride = cache.value_stride();
        let n_rows = self.tokens.len() * group;
        let Scratch { seen, queries, scores, wide, span, total } = self.scratch;
        let mut head = Span::<S> {
            keys: cache.keys::<S>(slot, layer, self.kv_head),
            values: cache.values::<S>(slot, layer, self.kv_head),
            head_dim,
            stride,
            attend,
            seen,
            queries: &queries[..n_rows * head_dim],
            scores,
            wide,
        };
        let spans = self.call.spans(self.tokens.clone());
        let mut total = Sums::of(total, n_rows, stride);
        total.clear();
        let block = match self.task {
            Task::Span { span_idx, sums } => {
                return score_and_sum(l, &mut head, span_idx, &mut Sums::of(sums, n_rows, stride));
            }
            Task::All { block } => {
                for span_idx in spans {
                    score_and_sum(l, &mut head, span_idx, &mut Sums::of(span, n_rows, stride));
                    merge(l, &mut total, span);
                }
                block
            }
            Task::Merge { block, sums, sums_len } => {
                sums.chunks_exact(sums_len).take(spans.len()).for_each(|sums| merge(l, &mut total, sums));
                block
            }
        };
        write(l, &mut total, block, group, head_dim);
    }
}

/// Divides, and writes the rows of the result.
#[inline(always)]
fn write<L: Lanes>(l: L, total: &mut Sums, mut block: Block, group: usize, head_dim: usize) {
    for row in 0..total.greatest.len() {
        let out = &mut block.row(row / group)[row % group * head_dim..][..head_dim];
        finish(l, total, row, out);
    }
}
