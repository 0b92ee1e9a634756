//! What stands between the linear layers. Goes in: rows of f32, one for each token. Comes out: rows, each of which
//! depends on its own row alone, with the same bits on every machine. Next: `ops/pointwise.rs`, `ops/norm.rs`,
//! `ops/rope.rs`, then `kv_cache.rs`.

use std::ops::Range;

use crate::isa::Isa;
use crate::lanes::{Body, Lanes, N_LANES};
use crate::pool::Pool;

mod norm;
mod pointwise;
mod rope;

pub use norm::{head_norm, rms_norm};
pub use pointwise::{Activation, add, gate, scale, scatter_add, softcap};
pub use rope::rope;

/// Floats that a thread takes at least, so that waking it pays.
const MIN_FLOATS: usize = 1 << 13;

/// Rows to read.
#[derive(Clone, Copy)]
pub struct Rows<'a> {
    /// (at least n_rows, stride); the last row may end after the columns that are read.
    pub data: &'a [f32],
    /// From the start of a row to that of the next.
    pub stride: usize,
}

/// Rows to write.
pub struct RowsMut<'a> {
    /// (at least n_rows, stride)
    pub data: &'a mut [f32],
    /// From the start of a row to that of the next.
    pub stride: usize,
}

/// Heads side by side in a row: columns `col..col + n_heads * head_dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// First column.
    pub col: usize,
    /// Heads.
    pub n_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

impl Rows<'_> {
    /// The first `width` columns of a row.
    #[inline(always)]
    fn row(&self, row_idx: usize, width: usize) -> &[f32] {
        &self.data[row_idx * self.stride..][..width]
    }
}

impl RowsMut<'_> {
    /// To read what will be overwritten.
    pub fn as_rows(&self) -> Rows<'_> {
        Rows { data: self.data, stride: self.stride }
    }
}

impl Heads {
    /// All columns of the heads.
    pub fn columns(self) -> Range<usize> {
        self.col..self.col + self.n_heads * self.head_dim
    }
}

/// What happens to one row.
trait RowBody: Sync {
    fn row<L: Lanes>(&self, l: L, row_idx: usize, row: &mut [f32] /* (stride) */);
}

/// Does `body` to rows `0..n_rows` of `out`, on the pool's threads where there is enough to do.
fn for_rows<B: RowBody>(isa: Isa, pool: &Pool, out: RowsMut, n_rows: usize, body: &B) {
    let RowsMut { data, stride } = out;
    let data = &mut data[..n_rows * stride];
    if data.len() < 2 * MIN_FLOATS || n_rows < 2 {
        return isa.dispatch(Each { body, first: 0, data, stride });
    }
    let run_len = MIN_FLOATS.div_ceil(stride);
    pool.run_rows(data, stride, run_len, &|first, data, _| isa.dispatch(Each { body, first, data, stride }));
}

struct Each<'a, B> {
    body: &'a B,
    first: usize,
    data: &'a mut [f32], // (n_rows, stride)
    stride: usize,
}

impl<B: RowBody> Body for Each<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        for (idx, row) in self.data.chunks_exact_mut(self.stride.max(1)).enumerate() {
            self.body.row(l, self.first + idx, row);
        }
    }
}

/// Up to 16 floats, filled up with zeros.
#[inline(always)]
fn padded(x: &[f32]) -> [f32; N_LANES] {
    let mut lanes = [0.0; N_LANES];
    lanes[..x.len()].copy_from_slice(x);
    lanes
}

#[cfg(test)]
mod tests;
