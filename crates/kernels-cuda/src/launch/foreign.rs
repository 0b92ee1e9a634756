//! Decoding matrices that lie in memory of somebody else's, PyTorch's for one, on a stream of theirs. Nothing is checked
//! that cannot be: lengths are the caller's promise.

use std::ops::Range;

use super::decode::{decode_tiles, embed_rows};
use super::linear::linear_at;
use crate::device::Device;
use crate::error::Result;
use crate::layout::TILE_ROWS;
use crate::matrix::Packed;
use crate::runtime::Stream;

/// Writes rows of bf16 from row `16 tiles.start` to `16 tiles.end`, each as long as whole steps of 64 columns, to `out`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the matrix has no such tiles.
///
/// # Safety
/// Until `stream`, which is one of `device`'s, is there: `words` is the GPU's address of `packed`'s words as
/// [`Matrix::pack`](crate::Matrix::pack) gave them, aligned to 16 bytes, and `out` has room for all of those rows, aligned to
/// 16 bytes too.
pub unsafe fn decode_foreign(
    device: &Device,
    stream: u64,
    (packed, words): (&Packed, u64),
    tiles: Range<usize>,
    out: u64,
) -> Result<()> {
    assert!(tiles.start < tiles.end && tiles.end <= packed.shape().n_tiles(), "no tiles {tiles:?}");
    // SAFETY: the caller's promise.
    unsafe { decode_tiles(device, Stream::Foreign(stream), packed.view(words, 0), tiles, out) }
}

/// Writes row `tokens[i]` as bf16 to `out[i]`, and as f32 to `wide[i]`, for `i < n_tokens`; a token past the last row takes
/// that.
///
/// # Errors
/// The driver's.
///
/// # Safety
/// As [`decode_foreign`]; `tokens` are as many u32, and `out` (n_tokens, cols) and `wide` (n_tokens, cols) have room.
pub unsafe fn embed_foreign(
    device: &Device,
    stream: u64,
    (packed, words): (&Packed, u64),
    (tokens, n_tokens): (u64, usize),
    (out, wide): (u64, u64),
) -> Result<()> {
    let cols = packed.shape().cols;
    // SAFETY: the caller's promise.
    unsafe {
        embed_rows(
            device,
            Stream::Foreign(stream),
            packed.view(words, 0),
            (tokens, n_tokens),
            ((out, cols), (wide, cols)),
        )
    }
}

/// `out[i] = W x[i]` for `i < n_tokens`, decoded inside the multiplication: `x` (n_tokens, cols) of bf16, rows `x_stride`
/// elements apart, `out` (n_tokens, rows) of f32. Sums are in an order of their own, not in that of the vendor's library.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where `x_stride` is no multiple of 8, or less than a row.
///
/// # Safety
/// As [`decode_foreign`]; `x` is there, aligned to 16 bytes, and `out` has room.
pub unsafe fn linear_foreign(
    device: &Device,
    stream: u64,
    (packed, words): (&Packed, u64),
    (x, x_stride, n_tokens): (u64, usize, usize),
    out: u64,
) -> Result<()> {
    assert!(x_stride.is_multiple_of(8) && x_stride >= packed.shape().cols, "rows {x_stride} apart");
    // SAFETY: the caller's promise.
    unsafe { linear_at((device, Stream::Foreign(stream)), packed.view(words, 0), (x, x_stride, n_tokens), out) }
}

/// Elements of `out` that [`decode_foreign`] writes for so many tiles.
pub fn foreign_len(packed: &Packed, n_tiles: usize) -> usize {
    n_tiles * TILE_ROWS * crate::matrix::padded_cols(packed.shape())
}
