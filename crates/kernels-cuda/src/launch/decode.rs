//! Weights back to bf16: tiles of a matrix, and single rows of an embedding.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Device, Memory};
use crate::error::Result;
use crate::layout::{LANES, Layout, N_SLICES, TILE_ROWS};
use crate::matrix::{MatrixArgs, View};
use crate::runtime::{Grid, Stream};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DecodeArgs {
    matrix: MatrixArgs,
    out: u64,
    n_steps: u32,
    first_tile: u32,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EmbedArgs {
    table: MatrixArgs,
    tokens: u64,
    out: u64,
    out_bf16: u64,
    cols: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    padding: u32,
}

/// Kernels over [`DecodeArgs`] and [`EmbedArgs`], by name.
macro_rules! kernels {
    ($($kernel:ident($args:ident) = $name:literal),+ $(,)?) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        struct $kernel($args);
        impl Args for $kernel {
            const KERNEL: &'static str = $name;
        }
    )+};
}

kernels!(
    DecodeRows(DecodeArgs) = "decode_rows",
    DecodeExact11(DecodeArgs) = "decode_exact11",
    DecodeExact12(DecodeArgs) = "decode_exact12",
    EmbedRows(EmbedArgs) = "embed_rows",
    EmbedExact11(EmbedArgs) = "embed_exact11",
    EmbedExact12(EmbedArgs) = "embed_exact12",
);

const THREADS: u32 = (N_SLICES * LANES) as u32;

/// Writes the tiles of rows from `first_tile` on, as many as fit, to `out`: bf16, two a word, each row as long as whole
/// steps, which is `Layout::Rows`. Returns how many rows of the matrix those are.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the matrix has no such tile.
pub fn decode(matrix: View<'_>, first_tile: usize, out: &mut Memory<u32>) -> Result<usize> {
    decode_on(Stream::Compute, matrix, first_tile, out)
}

/// The same on any stream.
pub(crate) fn decode_on(stream: Stream, matrix: View<'_>, first_tile: usize, out: &mut Memory<u32>) -> Result<usize> {
    let shape = matrix.shape;
    let tile_words = shape.padded_len() / 2 / shape.n_tiles();
    assert!(first_tile < shape.n_tiles(), "tile {first_tile} of {}", shape.n_tiles());
    let n_tiles = (out.len() / tile_words).min(shape.n_tiles() - first_tile);
    let (tiles, words) = (first_tile..first_tile + n_tiles, out.at(0, n_tiles * tile_words));
    // SAFETY: the tiles are the matrix's, and there is room for them.
    unsafe { decode_tiles(out.device(), stream, matrix, tiles, words) }?;
    Ok(((first_tile + n_tiles) * TILE_ROWS).min(shape.rows) - first_tile * TILE_ROWS)
}

/// # Safety
/// The tiles are the matrix's, and `out` has room for them, until the stream is there.
pub(super) unsafe fn decode_tiles(
    device: &Device,
    stream: Stream,
    matrix: View<'_>,
    tiles: Range<usize>,
    out: u64,
) -> Result<()> {
    let args = DecodeArgs {
        matrix: matrix.whole(0),
        out,
        n_steps: matrix.shape.n_steps() as u32,
        first_tile: tiles.start as u32,
    };
    let grid = Grid { blocks: [tiles.len() as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: the caller's.
    unsafe {
        match matrix.layout {
            Layout::Rows => device.launch_on(stream, &DecodeRows(args), grid),
            Layout::Exact11 => device.launch_on(stream, &DecodeExact11(args), grid),
            Layout::Exact12 => device.launch_on(stream, &DecodeExact12(args), grid),
        }
    }
}

/// `out[i] = table[tokens[i]]` for the first `n_tokens`; a token past the last row takes that.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn embed(table: View<'_>, tokens: &Memory<u32>, n_tokens: usize, out: &mut Buffer) -> Result<()> {
    let cols = table.shape.cols;
    let halves = (out.halves_at(0, n_tokens, cols), out.halves_stride());
    let floats = (out.floats_at(0, n_tokens, cols), out.width);
    // SAFETY: tokens, and rows and columns of `out` were checked.
    unsafe {
        embed_rows(out.floats.device(), Stream::Compute, table, (tokens.at(0, n_tokens), n_tokens), (halves, floats))
    }
}

/// # Safety
/// Tokens are there, and rows in both outputs, each given with its stride, until the stream is.
pub(super) unsafe fn embed_rows(
    device: &Device,
    stream: Stream,
    table: View<'_>,
    (tokens, n_tokens): (u64, usize),
    ((halves, halves_stride), (floats, floats_stride)): ((u64, usize), (u64, usize)),
) -> Result<()> {
    let args = EmbedArgs {
        table: table.whole(0),
        tokens,
        out: floats,
        out_bf16: halves,
        cols: table.shape.cols as u32,
        out_stride: floats_stride as u32,
        out_bf16_stride: halves_stride as u32,
        padding: 0,
    };
    let grid = Grid { blocks: [n_tokens as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: the caller's.
    unsafe {
        match table.layout {
            Layout::Rows => device.launch_on(stream, &EmbedRows(args), grid),
            Layout::Exact11 => device.launch_on(stream, &EmbedExact11(args), grid),
            Layout::Exact12 => device.launch_on(stream, &EmbedExact12(args), grid),
        }
    }
}
