//! Weights back to bf16: tiles of a matrix, and single rows of an embedding.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::layout::{LANES, Layout, N_SLICES, Shape, TILE_ROWS};
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
    let args = DecodeArgs {
        matrix: matrix.whole(0),
        out: out.at(0, n_tiles * tile_words),
        n_steps: shape.n_steps() as u32,
        first_tile: first_tile as u32,
    };
    let (device, grid) = (out.device(), Grid { blocks: [n_tiles as u32, 1, 1], threads: THREADS, shared_bytes: 0 });
    // SAFETY: the tiles are the matrix's, and there is room for them.
    unsafe {
        match matrix.layout {
            Layout::Rows => device.launch_on(stream, &DecodeRows(args), grid),
            Layout::Exact11 => device.launch_on(stream, &DecodeExact11(args), grid),
            Layout::Exact12 => device.launch_on(stream, &DecodeExact12(args), grid),
        }
    }?;
    Ok(((first_tile + n_tiles) * TILE_ROWS).min(shape.rows) - first_tile * TILE_ROWS)
}

/// `out[i] = table[tokens[i]]` for the first `n_tokens`; a token past the last row takes that.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn embed(table: View<'_>, tokens: &Memory<u32>, n_tokens: usize, out: &mut Buffer) -> Result<()> {
    let Shape { cols, .. } = table.shape;
    let args = EmbedArgs {
        table: table.whole(0),
        tokens: tokens.at(0, n_tokens),
        out: out.floats_at(0, n_tokens, cols),
        out_bf16: out.halves_at(0, n_tokens, cols),
        cols: cols as u32,
        out_stride: out.width as u32,
        out_bf16_stride: out.halves_stride() as u32,
        padding: 0,
    };
    let device = out.floats.device();
    let grid = Grid { blocks: [n_tokens as u32, 1, 1], threads: THREADS, shared_bytes: 0 };
    // SAFETY: tokens, and rows and columns of `out` were checked.
    unsafe {
        match table.layout {
            Layout::Rows => device.launch(&EmbedRows(args), grid),
            Layout::Exact11 => device.launch(&EmbedExact11(args), grid),
            Layout::Exact12 => device.launch(&EmbedExact12(args), grid),
        }
    }
}
