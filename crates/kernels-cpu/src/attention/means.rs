//! The second product of attention. Goes in: weights and a block of values. Comes out: weighted sums of the values. Next:
//! `attention/sums.rs`.

// One index names a query in several arrays of registers and slices.
#![allow(clippy::needless_range_loop)]

use std::ops::Range;

use super::SPAN;
use crate::kv_cache::{BLOCK_KEYS, Stored};
use crate::lanes::{Lanes, N_LANES};

/// Queries with one block of values.
pub(super) struct Means<'a> {
    pub(super) scores: &'a [f32],        // (n_rows, SPAN), weights by now
    pub(super) seen: &'a [Range<usize>], // (n_rows)
    /// Position of the first value, and where its weight stands in a row of scores.
    pub(super) begin: usize,
    pub(super) first: usize,
    pub(super) means: &'a mut [[f32; N_LANES]], // (n_rows, vectors of a value)
}

impl Means<'_> {
    /// The block's values: (32, stride). `STREAMED`: they come from memory, and the next block stands behind them.
    #[inline(always)]
    pub(super) fn all_rows<L: Lanes, S: Stored, const STREAMED: bool>(mut self, l: L, words: &[S::Word]) {
        let n_rows = self.seen.len();
        let words = words.as_chunks::<N_LANES>().0;
        let mut row = 0;
        if L::N_REGISTERS >= 32 {
            while row + 4 <= n_rows {
                self.rows::<L, S, STREAMED, 4>(l, words, row);
                row += 4;
            }
        }
        while row + 2 <= n_rows {
            self.rows::<L, S, STREAMED, 2>(l, words, row);
            row += 2;
        }
        if row < n_rows {
            self.rows::<L, S, STREAMED, 1>(l, words, row);
        }
    }

    /// Keys of the block that a query sees, counted from the block's first.
    #[inline(always)]
    fn local(&self, row: usize) -> Range<usize> {
        let seen = &self.seen[row];
        let clamp = |position: usize| position.clamp(self.begin, self.begin + BLOCK_KEYS) - self.begin;
        clamp(seen.start)..clamp(seen.end)
    }

    /// `N_ROWS` queries from `row` on: the keys that all of them see together, the others one query at a time.
    #[inline(always)]
    fn rows<L: Lanes, S: Stored, const STREAMED: bool, const N_ROWS: usize>(
        &mut self,
        l: L,
        words: &[[S::Word; N_LANES]],
        row: usize,
    ) {
        let mut common = self.local(row);
        for idx in 1..N_ROWS {
            let keys = self.local(row + idx);
            common = common.start.max(keys.start)..common.end.min(keys.end);
        }
        if common.is_empty() {
            common = BLOCK_KEYS..BLOCK_KEYS;
        }
        for idx in 0..N_ROWS {
            let keys = self.local(row + idx);
            self.keys::<L, S, STREAMED, 1>(l, words, row + idx, keys.start..keys.end.min(common.start));
        }
        self.keys::<L, S, STREAMED, N_ROWS>(l, words, row, common.clone());
        for idx in 0..N_ROWS {
            let keys = self.local(row + idx);
            self.keys::<L, S, STREAMED, 1>(l, words, row + idx, keys.start.max(common.end)..keys.end);
        }
    }

    /// Adds the values of some keys, ascending, to the means of `N_ROWS` queries.
    #[inline(always)]
    fn keys<L: Lanes, S: Stored, const STREAMED: bool, const N_ROWS: usize>(
        &mut self,
        l: L,
        words: &[[S::Word; N_LANES]], // (BLOCK_KEYS, vectors of a value)
        row: usize,
        keys: Range<usize>,
    ) {
        if keys.is_empty() {
            return;
        }
        let n_vectors = words.len() / BLOCK_KEYS;
        let words = &words[keys.start * n_vectors..keys.end * n_vectors];
        let weights =
            std::array::from_fn(|idx| &self.scores[(row + idx) * SPAN + self.first + keys.start..][..keys.len()]);
        let mut vector = 0;
        if L::N_REGISTERS >= 32 {
            while N_ROWS == 1 && vector + 8 <= n_vectors {
                self.vectors::<L, S, STREAMED, N_ROWS, 8>(l, words, weights, row, (vector, n_vectors));
                vector += 8;
            }
            while vector + 4 <= n_vectors {
                self.vectors::<L, S, STREAMED, N_ROWS, 4>(l, words, weights, row, (vector, n_vectors));
                vector += 4;
            }
        }
        while vector + 2 <= n_vectors {
            self.vectors::<L, S, STREAMED, N_ROWS, 2>(l, words, weights, row, (vector, n_vectors));
            vector += 2;
        }
        if vector < n_vectors {
            self.vectors::<L, S, STREAMED, N_ROWS, 1>(l, words, weights, row, (vector, n_vectors));
        }
    }

    /// `N` vectors of dimensions from `vector` on: the sums stay in registers over all keys.
    #[inline(always)]
    fn vectors<L: Lanes, S: Stored, const STREAMED: bool, const N_ROWS: usize, const N: usize>(
        &mut self,
        l: L,
        words: &[[S::Word; N_LANES]], // (n_keys, n_vectors)
        weights: [&[f32]; N_ROWS],    // (n_keys) each
        row: usize,
        (vector, n_vectors): (usize, usize),
    ) {
        let mut sums = [[l.splat(0.0); N]; N_ROWS];
        for idx in 0..N_ROWS {
            let means = &self.means[(row + idx) * n_vectors + vector..][..N];
            for n in 0..N {
                sums[idx][n] = l.load(&means[n]);
            }
        }
        for (key, words) in words.chunks_exact(n_vectors).enumerate() {
            let words = &words[vector..vector + N];
            for n in 0..N {
                if STREAMED && (n % 2 == 0 || size_of::<S::Word>() > 2) {
                    l.prefetch(words[n].as_ptr().wrapping_add(BLOCK_KEYS * n_vectors * N_LANES));
                }
                let values = S::widen(l, &words[n]);
                for idx in 0..N_ROWS {
                    sums[idx][n] = l.fma(l.splat(weights[idx][key]), values, sums[idx][n]);
                }
            }
        }
        for idx in 0..N_ROWS {
            let means = &mut self.means[(row + idx) * n_vectors + vector..][..N];
            for n in 0..N {
                l.store(sums[idx][n], &mut means[n]);
            }
        }
    }
}
