//! The first product of attention, and softmax. Goes in: queries and a block of keys. Comes out: scores, then weights.
//! Next: `attention/means.rs`.

// One index names a query in several arrays of registers and slices.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::{Attend, SPAN};
use crate::kv_cache::{BLOCK_KEYS, Stored, TILE_KEYS};
use crate::lanes::{Lanes, N_LANES, math};

/// Queries against one block of keys.
pub(super) struct Scores<'a> {
    pub(super) queries: &'a [f32], // (n_rows, head_dim)
    pub(super) head_dim: usize,
    pub(super) attend: &'a Attend,
    /// Where the block's first key stands in a row of scores.
    pub(super) first: usize,
    pub(super) scores: &'a mut [f32], // (n_rows, SPAN)
}

impl Scores<'_> {
    /// The block's keys: (2 tiles, head_dim, 16). `STREAMED`: they come from memory, and the next block stands behind them.
    #[inline(always)]
    pub(super) fn all_rows<L: Lanes, S: Stored, const STREAMED: bool>(
        mut self,
        l: L,
        words: &[S::Word],
        n_rows: usize,
    ) {
        let (low, high) = words.as_chunks::<N_LANES>().0.split_at(self.head_dim);
        let mut row = 0;
        if L::N_REGISTERS >= 32 {
            while row + 4 <= n_rows {
                self.rows::<L, S, STREAMED, 4, 2>(l, [low, high], row, self.first);
                row += 4;
            }
        }
        while row + 2 <= n_rows {
            if L::N_REGISTERS >= 32 {
                self.rows::<L, S, STREAMED, 2, 2>(l, [low, high], row, self.first);
            } else {
                self.rows::<L, S, STREAMED, 2, 1>(l, [low], row, self.first);
                self.rows::<L, S, STREAMED, 2, 1>(l, [high], row, self.first + TILE_KEYS);
            }
            row += 2;
        }
        if row < n_rows {
            self.rows::<L, S, STREAMED, 1, 2>(l, [low, high], row, self.first);
        }
    }

    /// `N_ROWS` queries from `row` on against `N_TILES` tiles of keys, the first of which stands at `first`.
    #[inline(always)]
    fn rows<L: Lanes, S: Stored, const STREAMED: bool, const N_ROWS: usize, const N_TILES: usize>(
        &mut self,
        l: L,
        tiles: [&[[S::Word; N_LANES]]; N_TILES], // (head_dim, 16) each
        row: usize,
        first: usize,
    ) {
        let n_pairs = self.head_dim / 2;
        let mut even = [[l.splat(0.0); N_TILES]; N_ROWS];
        let mut odd = even;
        let mut queries = [[].as_slice(); N_ROWS];
        let mut pairs = [[].as_slice(); N_ROWS];
        let mut keys = [[].as_slice(); N_TILES];
        for idx in 0..N_ROWS {
            queries[idx] = &self.queries[(row + idx) * self.head_dim..][..self.head_dim];
            pairs[idx] = &queries[idx].as_chunks::<2>().0[..n_pairs];
        }
        for idx in 0..N_TILES {
            keys[idx] = &tiles[idx].as_chunks::<2>().0[..n_pairs];
        }
        for pair in 0..n_pairs {
            chain::<L, S, N_ROWS, N_TILES>(l, &mut even, &keys, &pairs, (pair, 0));
            chain::<L, S, N_ROWS, N_TILES>(l, &mut odd, &keys, &pairs, (pair, 1));
            if STREAMED {
                ask_for_next::<L, S, N_TILES>(l, &keys, pair, BLOCK_KEYS * self.head_dim);
            }
        }
        if self.head_dim % 2 == 1 {
            for tile in 0..N_TILES {
                let keys = S::widen(l, &tiles[tile][self.head_dim - 1]);
                for idx in 0..N_ROWS {
                    even[idx][tile] = l.fma(l.splat(queries[idx][self.head_dim - 1]), keys, even[idx][tile]);
                }
            }
        }
        for idx in 0..N_ROWS {
            let scores = self.scores[(row + idx) * SPAN + first..].as_chunks_mut::<N_LANES>().0;
            for tile in 0..N_TILES {
                let mut score = l.mul(l.splat(self.attend.scale), l.add(even[idx][tile], odd[idx][tile]));
                if let Some(cap) = self.attend.softcap {
                    score = l.mul(l.splat(cap), math::tanh(l, l.div(score, l.splat(cap))));
                }
                l.store(score, &mut scores[tile]);
            }
        }
    }
}

/// One link of the chains: dimension `half` of a pair.
#[inline(always)]
fn chain<L: Lanes, S: Stored, const N_ROWS: usize, const N_TILES: usize>(
    l: L,
    sums: &mut [[L::F; N_TILES]; N_ROWS],
    keys: &[&[[[S::Word; N_LANES]; 2]]; N_TILES], // (n_pairs, 2, 16) each
    queries: &[&[[f32; 2]]; N_ROWS],              // (n_pairs, 2) each
    (pair, half): (usize, usize),
) {
    for tile in 0..N_TILES {
        let keys = S::widen(l, &keys[tile][pair][half]);
        for idx in 0..N_ROWS {
            sums[idx][tile] = l.fma(l.splat(queries[idx][pair][half]), keys, sums[idx][tile]);
        }
    }
}

/// Asks for the line, or the two, in which the same pair of the next block stands.
#[inline(always)]
fn ask_for_next<L: Lanes, S: Stored, const N_TILES: usize>(
    l: L,
    keys: &[&[[[S::Word; N_LANES]; 2]]; N_TILES], // (n_pairs, 2, 16) each
    pair: usize,
    n_words: usize,
) {
    for tile in 0..N_TILES {
        let [even, odd] = &keys[tile][pair];
        l.prefetch(even.as_ptr().wrapping_add(n_words));
        if size_of::<S::Word>() > 2 {
            l.prefetch(odd.as_ptr().wrapping_add(n_words));
        }
    }
}

/// Turns the scores of one query into weights; returns the greatest score and the sum of the weights.
#[inline(always)]
pub(super) fn soften<L: Lanes>(l: L, scores: &mut [f32] /* (SPAN) */, keys: Range<usize>) -> (f32, f32) {
    let tiles = keys.start / TILE_KEYS..keys.end.div_ceil(TILE_KEYS);
    scores[tiles.start * TILE_KEYS..keys.start].fill(f32::NEG_INFINITY);
    scores[keys.end..tiles.end * TILE_KEYS].fill(f32::NEG_INFINITY);
    let scores = &mut scores.as_chunks_mut::<N_LANES>().0[tiles];
    let mut greatest = l.splat(f32::NEG_INFINITY);
    for scores in scores.iter() {
        greatest = l.max(greatest, l.load(scores));
    }
    let greatest = math::max(l, greatest);
    let mut sum = l.splat(0.0);
    for scores in scores {
        let weight = math::softmax_exp(l, l.sub(l.load(scores), l.splat(greatest)));
        sum = l.add(sum, weight);
        l.store(weight, scores);
    }
    (greatest, math::sum(l, sum))
}
