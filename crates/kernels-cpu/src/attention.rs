//! Attention over the cache. Goes in: queries of new tokens, and the keys and values of all tokens so far. Comes out:
//! for each token and query head, the mean of the values, weighted by softmax over the keys that it sees.
//!
//! The definition, for one query at position `p`, dimensions `d`, keys `k` with values `v`:
//!
//! ```text
//! it sees          k in max(0, p + 1 - window) ..= p
//! score[k]         = scale * (even + odd)    even = chain of fma(query[d], key[k][d], even) over even d ascending, from
//!                                            +0, odd over odd d; then cap * tanh(score / cap) if there is a softcap
//! for each span of 256 positions, at multiples of 256, in which it sees a key:
//!     greatest     = max score[k]
//!     weight[k]    = exp(score[k] - greatest), 0 where that is below e^-87
//!     sum          = 16 lanes, lane k % 16 adds weight[k] ascending; lanes added by halving (i and i + 8 first)
//!     mean[d]      = chain of fma(weight[k], v[k][d], mean[d]) over k ascending, from +0
//! the spans so far, and the next one, with m = the greater of both greatest and f(g) = exp(g - m), f' of the next:
//!     sum          = fma(sum, f, sum' * f')
//!     mean[d]      = fma(mean[d], f, mean'[d] * f')
//! out[d]           = mean[d] * (1 / sum)
//! ```
//!
//! Keys that it does not see take no part, not even with weight 0. So a query's result depends on its position and
//! what it sees, and neither on the queries computed with it, nor on threads, nor on the instruction set.
//!
//! For speed, query heads that share a head of keys are computed together with as many tokens as make 64 queries; keys
//! and values are taken in blocks of 32 that stay in the first cache; and where there are few heads and many keys,
//! threads share the spans of one query. Next: `attention/span.rs`.

use std::ops::Range;
use std::sync::Mutex;

use crate::aligned::Aligned;
use crate::error::{Error, Result};
use crate::isa::Isa;
use crate::kv_cache::{KvCache, KvType, MAX_HEAD_DIM, Place, StoredBf16, StoredF16, StoredF32};
use crate::lanes::N_LANES;
use crate::ops::{Rows, RowsMut};
use crate::pool::{Pool, lock};

mod item;
mod means;
mod scores;
mod span;
mod sums;

use item::{Item, Scratch, Task};

/// Positions of a span.
pub(crate) const SPAN: usize = 256;
/// Queries that are computed together, but for heads that more queries share.
const MAX_ROWS: usize = 64;
/// Items for each thread from which on threads do not share the spans of an item.
const ITEMS_PER_THREAD: usize = 4;

/// Heads of a model's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads: a multiple of `n_kv_heads`. Heads `i * n_heads / n_kv_heads..` share head `i` of keys and values.
    pub n_heads: usize,
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Dimensions of a head, at most [`MAX_HEAD_DIM`].
    pub head_dim: usize,
}

/// How a layer attends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend {
    /// What the product of query and key is multiplied with.
    pub scale: f32,
    /// Positions that a token sees, its own among them; all up to its own for `None`. 0 counts as 1.
    pub window: Option<usize>,
    /// `cap` of `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Memory of attention, allocated once for a model.
pub struct Attention {
    shape: AttentionShape,
    max_tokens: usize,
    scratch: Vec<Mutex<Scratch>>, // (n_threads)
    /// Sums of spans that threads share: (items, spans, sums).
    partials: Aligned<f32>,
    /// Where the tokens of each item begin, and the end.
    starts: Vec<usize>,
}

impl Attention {
    /// Memory for up to `max_tokens` new tokens at a time in sequences of up to `max_positions`, on a pool of
    /// `n_threads`.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] if the heads do not fit each other, or are longer than [`MAX_HEAD_DIM`].
    pub fn new(shape: AttentionShape, max_tokens: usize, max_positions: usize, n_threads: usize) -> Result<Attention> {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = shape;
        if n_kv_heads == 0 || n_heads == 0 || n_heads % n_kv_heads != 0 {
            return Err(Error::InvalidArgument("query heads are not a multiple of the heads of keys"));
        }
        if head_dim == 0 || head_dim > MAX_HEAD_DIM {
            return Err(Error::InvalidArgument("heads are empty or too long"));
        }
        let group = n_heads / n_kv_heads;
        let max_rows = MAX_ROWS.max(group);
        let n_sums = if n_threads > 1 { ITEMS_PER_THREAD * n_threads * max_positions.div_ceil(SPAN) } else { 0 };
        Ok(Attention {
            shape,
            max_tokens,
            scratch: (0..n_threads.max(1)).map(|_| Mutex::new(Scratch::new(max_rows, head_dim))).collect(),
            partials: Aligned::zeroed(n_sums * sums::len(group, head_dim.next_multiple_of(N_LANES))),
            starts: Vec::with_capacity(max_tokens + 1),
        })
    }

    /// Attends: for tokens at `places`, with queries `q`, to what `cache` holds of `layer`; their own keys and values
    /// must have been appended. Tokens of one sequence that stand together are computed together.
    ///
    /// # Panics
    /// If there are more tokens than room was made for, a place is beyond the cache, the cache has other heads, the
    /// pool more threads, or a row is short.
    #[allow(clippy::too_many_arguments)] // Every one is a different thing, and all change from call to call.
    pub fn run(
        &mut self,
        isa: Isa,
        pool: &Pool,
        cache: &KvCache,
        layer: usize,
        attend: &Attend,
        places: &[Place], // (n_tokens)
        q: Rows,          // (n_tokens, n_heads * head_dim)
        out: RowsMut,     // (n_tokens, n_heads * head_dim)
    ) {
        assert!(places.len() <= self.max_tokens && pool.n_threads() <= self.scratch.len(), "room was made for less");
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let kept = cache.shape();
        assert!(kept.n_kv_heads == n_kv_heads && kept.head_dim == head_dim, "the cache has other heads");
        assert!(places.iter().all(|place| place.position < kept.max_positions), "a position beyond the cache");
        let group = n_heads / n_kv_heads;
        let max_len = self.cut(places, group);
        let call = Call { isa, cache, layer, attend, places, q, group, head_dim };

        let n_items = (self.starts.len() - 1) * n_kv_heads;
        let n_spans = self.starts.windows(2).map(|tokens| call.spans(tokens[0]..tokens[1]).len()).max().unwrap_or(0);
        let sums_len = sums::len(max_len * group, head_dim.next_multiple_of(N_LANES));
        let is_shared = n_items < ITEMS_PER_THREAD * pool.n_threads() && n_spans > 1 && pool.n_threads() > 1;
        let n_sums = n_items * n_spans * sums_len;
        let shared = if is_shared && n_sums <= self.partials.len() { &mut self.partials[..n_sums] } else { &mut [] };

        let (starts, scratch) = (&self.starts, &self.scratch);
        if !shared.is_empty() {
            pool.run_rows(shared, sums_len, 1, &|first, sums, worker| {
                let (item, span_idx) = (first / n_spans, first % n_spans);
                let tokens = starts[item / n_kv_heads]..starts[item / n_kv_heads + 1];
                let spans = call.spans(tokens.clone());
                if span_idx < spans.len() {
                    let task = Task::Span { span_idx: spans.start + span_idx, sums };
                    call.run(tokens, item % n_kv_heads, &mut lock(&scratch[worker]), task);
                }
            });
        }
        let shared = &*shared;
        pool.run_blocks(out.data, out.stride, starts, (n_kv_heads, group * head_dim), &|block, idx| {
            let item = idx.rows * n_kv_heads + idx.columns;
            let tokens = starts[idx.rows]..starts[idx.rows + 1];
            let task = match shared {
                [] => Task::All { block },
                _ => Task::Merge { block, sums: &shared[item * n_spans * sums_len..], sums_len },
            };
            call.run(tokens, idx.columns, &mut lock(&scratch[idx.worker]), task);
        });
    }

    /// Cuts the tokens into items: of one sequence, and no more than make [`MAX_ROWS`] queries. Returns the length of
    /// the longest.
    fn cut(&mut self, places: &[Place], group: usize) -> usize {
        let max_len = (MAX_ROWS / group).max(1);
        self.starts.clear();
        self.starts.push(0);
        let mut start = 0;
        let mut longest = 0;
        for end in 1..=places.len() {
            if end == places.len() || end - start == max_len || places[end].slot != places[start].slot {
                self.starts.push(end);
                longest = longest.max(end - start);
                start = end;
            }
        }
        longest
    }
}

/// What all items of a call share.
#[derive(Clone, Copy)]
struct Call<'a> {
    isa: Isa,
    cache: &'a KvCache,
    layer: usize,
    attend: &'a Attend,
    places: &'a [Place],
    q: Rows<'a>,
    group: usize,
    head_dim: usize,
}

impl Call<'_> {
    /// Positions that a token sees.
    fn seen(&self, token: usize) -> Range<usize> {
        let end = self.places[token].position + 1;
        let window = self.attend.window.unwrap_or(end).max(1);
        end.saturating_sub(window)..end
    }

    /// Spans in which any of these tokens sees a position.
    fn spans(&self, tokens: Range<usize>) -> Range<usize> {
        let start = tokens.clone().map(|token| self.seen(token).start).min().unwrap_or(0);
        let end = tokens.map(|token| self.seen(token).end).max().unwrap_or(0);
        start / SPAN..end.div_ceil(SPAN)
    }

    /// Does a task of an item: some tokens, and the queries that share `kv_head`.
    fn run(&self, tokens: Range<usize>, kv_head: usize, scratch: &mut Scratch, task: Task) {
        match self.cache.shape().kv_type {
            KvType::F32 => self.isa.dispatch(Item::<StoredF32>::new(self, tokens, kv_head, scratch, task)),
            KvType::F16 => self.isa.dispatch(Item::<StoredF16>::new(self, tokens, kv_head, scratch, task)),
            KvType::Bf16 => self.isa.dispatch(Item::<StoredBf16>::new(self, tokens, kv_head, scratch, task)),
        }
    }
}

#[cfg(test)]
mod tests;
