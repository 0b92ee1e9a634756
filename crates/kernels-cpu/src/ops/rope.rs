//! Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>), with the halves of a head as the
//! pairs, as Llama has them. Goes in: rows with heads, and a table of cosines and sines. Comes out: the same rows, each
//! head rotated. Next: `kv_cache.rs`.

use super::{Heads, RowBody, RowsMut, for_rows};
use crate::isa::Isa;
use crate::lanes::{Lanes, N_LANES};
use crate::pool::Pool;

/// Rotates each head of row `i` by row `table_rows[i]` of the table, which has `rotary_dim / 2` cosines `c`, then as
/// many sines `s`: with `h = rotary_dim / 2`, for `j < h`,
/// `x[j], x[j + h] = x[j] c[j] - x[j + h] s[j], x[j + h] c[j] + x[j] s[j]`, every operation rounded. Dimensions from
/// `rotary_dim` on stay.
///
/// # Panics
/// If the rows do not have the heads' columns, the table not the rows, or `rotary_dim` is odd or more than a head has.
pub fn rope(
    isa: Isa,
    pool: &Pool,
    x: RowsMut,
    heads: Heads,
    rotary_dim: usize,
    table: &[f32],      // (table rows, rotary_dim)
    table_rows: &[u32], // (n_rows)
) {
    assert!(rotary_dim <= heads.head_dim && rotary_dim.is_multiple_of(2), "pairs of a head's dimensions");
    for_rows(isa, pool, x, table_rows.len(), &Rope { heads, rotary_dim, table, table_rows });
}

struct Rope<'a> {
    heads: Heads,
    rotary_dim: usize,
    table: &'a [f32],
    table_rows: &'a [u32],
}

impl RowBody for Rope<'_> {
    #[inline(always)]
    fn row<L: Lanes>(&self, l: L, row_idx: usize, row: &mut [f32]) {
        let n_pairs = self.rotary_dim / 2;
        let angles = &self.table[self.table_rows[row_idx] as usize * self.rotary_dim..][..self.rotary_dim];
        let (cosines, sines) = angles.split_at(n_pairs);
        for head in row[self.heads.columns()].chunks_exact_mut(self.heads.head_dim) {
            let (first, second) = head[..self.rotary_dim].split_at_mut(n_pairs);
            rotate(l, first, second, cosines, sines);
        }
    }
}

/// All four have one element for each pair.
#[inline(always)]
fn rotate<L: Lanes>(l: L, first: &mut [f32], second: &mut [f32], cosines: &[f32], sines: &[f32]) {
    let (firsts, first_rest) = first.as_chunks_mut::<N_LANES>();
    let (seconds, second_rest) = second.as_chunks_mut::<N_LANES>();
    let (all_cosines, cosine_rest) = cosines.as_chunks::<N_LANES>();
    let (all_sines, sine_rest) = sines.as_chunks::<N_LANES>();
    for (((first, second), cosine), sine) in firsts.iter_mut().zip(seconds).zip(all_cosines).zip(all_sines) {
        let (a, b, cosine, sine) = (l.load(first), l.load(second), l.load(cosine), l.load(sine));
        l.store(l.sub(l.mul(a, cosine), l.mul(b, sine)), first);
        l.store(l.add(l.mul(b, cosine), l.mul(a, sine)), second);
    }
    for (((first, second), cosine), sine) in first_rest.iter_mut().zip(second_rest).zip(cosine_rest).zip(sine_rest) {
        let (a, b) = (*first, *second);
        *first = a * cosine - b * sine;
        *second = b * cosine + a * sine;
    }
}
