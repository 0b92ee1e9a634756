//! Linear layers, over matrices of any layout.

use bytemuck::{Pod, Zeroable};

use super::{Activation, Buffer};
use crate::device::{Args, Device};
use crate::error::{Error, Result};
use crate::layout::{LANES, Layout, N_SLICES, TILE_ROWS};
use crate::matrix::{MatrixArgs, View};
use crate::runtime::{Grid, Stream};

/// Matrices that multiply the same activations at once, at most.
pub const MAX_PARTS: usize = 4;
/// Tokens that one block takes, at most.
const MAX_BLOCK_TOKENS: usize = 64;

/// A matrix, and the column of the output where its first row's product goes.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// The matrix.
    pub matrix: View<'a>,
    /// The column.
    pub out_col: usize,
}

/// What becomes of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// They are the output.
    Store,
    /// They are added to what stands in the output.
    Add,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub(super) struct LinearArgs {
    pub parts: [MatrixArgs; MAX_PARTS],
    pub first_blocks: [u32; MAX_PARTS],
    pub x: u64,
    pub out: u64,
    pub out_bf16: u64,
    pub experts: u64,
    pub expert_starts: u64,
    pub x_rows: u64,
    pub n_tokens: u32,
    pub cols: u32,
    pub x_stride: u32,
    pub out_stride: u32,
    pub out_bf16_stride: u32,
    pub epilogue: u32,
}

/// A kernel for each layout and number of tokens.
macro_rules! linear_kernels {
    ($($kernel:ident = $name:literal),+ $(,)?) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        struct $kernel(LinearArgs);
        impl Args for $kernel {
            const KERNEL: &'static str = $name;
        }
    )+};
}

linear_kernels!(
    Rows8 = "linear_rows_8",
    Rows8x2 = "linear_rows_8x2",
    Rows16 = "linear_rows_16",
    Rows32 = "linear_rows_32",
    Rows64 = "linear_rows_64",
    Exact11x8 = "linear_exact11_8",
    Exact11x8x2 = "linear_exact11_8x2",
    Exact11x16 = "linear_exact11_16",
    Exact11x32 = "linear_exact11_32",
    Exact11x64 = "linear_exact11_64",
    Exact12x8 = "linear_exact12_8",
    Exact12x8x2 = "linear_exact12_8x2",
    Exact12x16 = "linear_exact12_16",
    Exact12x32 = "linear_exact12_32",
    Exact12x64 = "linear_exact12_64",
);

/// `out[.., out_col..out_col + rows] = W x (+ bias)` for each part, or added to it, for the first `n_tokens` rows of `x`.
/// The output's bf16 stay as they are: no linear layer takes another's output as it is.
///
/// # Errors
/// `InvalidArgument` where parts differ in columns or layout, or are more than [`MAX_PARTS`]; the driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn linear(x: &Buffer, n_tokens: usize, parts: &[Part], epilogue: Epilogue, out: &mut Buffer) -> Result<()> {
    let (layout, cols) = alike(parts.iter().map(|part| part.matrix))?;
    let tiles_per_block = if n_tokens <= 8 { 1 } else { 2 };
    let mut args = linear_args(x, n_tokens, cols, out);
    args.epilogue = epilogue as u32;
    let mut n_blocks = 0;
    for (idx, part) in parts.iter().enumerate() {
        out.floats_at(part.out_col, n_tokens, part.matrix.shape.rows); // checks
        args.parts[idx] = part.matrix.whole(part.out_col);
        args.first_blocks[idx] = n_blocks as u32;
        n_blocks += part.matrix.shape.n_tiles().div_ceil(tiles_per_block);
    }
    args.first_blocks[parts.len()..].fill(n_blocks as u32);
    // SAFETY: rows and columns of x and out were checked, and matrices are whole.
    unsafe { launch(x, args, layout, n_blocks, tiles_per_block) }
}

/// `out[j] = activation((gate x)[j]) * (up x)[j]`. Both are a matrix each, or the upper and lower half of one.
///
/// # Errors
/// `InvalidArgument` where the two do not match, or the half of one does not begin with a tile; the driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn gated_linear(
    x: &Buffer,
    n_tokens: usize,
    gate_and_up: &[View<'_>],
    activation: Activation,
    out: &mut Buffer,
) -> Result<()> {
    let (layout, cols) = alike(gate_and_up.iter().copied())?;
    let [gate, up] = gate_and_up_args(gate_and_up)?;
    let width = up.rows();
    out.floats_at(0, n_tokens, width); // checks
    let mut args = linear_args(x, n_tokens, cols, out);
    args.parts[..2].copy_from_slice(&[gate, up]);
    args.first_blocks[1..].fill(u32::MAX);
    args.out_bf16 = out.halves_at(0, n_tokens, width);
    args.epilogue = 2 + activation as u32;
    // SAFETY: rows and columns of x and out were checked, and both matrices have `width` rows from where they begin.
    unsafe { launch(x, args, layout, width.div_ceil(TILE_ROWS), 2) }
}

/// Whether [`gated_linear`] takes these.
pub fn is_gate_and_up(matrices: &[View<'_>]) -> bool {
    alike(matrices.iter().copied()).is_ok() && gate_and_up_args(matrices).is_ok()
}

fn gate_and_up_args(matrices: &[View<'_>]) -> Result<[MatrixArgs; 2]> {
    match matrices {
        [gate, up] if gate.shape == up.shape => Ok([gate.whole(0), up.whole(0)]),
        [both] if both.shape.rows % (2 * TILE_ROWS) == 0 => {
            let width = both.shape.rows / 2;
            Ok([both.args(0, width, 0), both.args(width / TILE_ROWS, width, 0)])
        }
        _ => Err(Error::InvalidArgument("gate and up whose tiles do not stand side by side".to_owned())),
    }
}

/// Layout and columns of all.
pub(super) fn alike<'a>(mut matrices: impl Iterator<Item = View<'a>>) -> Result<(Layout, usize)> {
    let differ = || Error::InvalidArgument("matrices of different layouts or columns, or too many, or none".to_owned());
    let first = matrices.next().ok_or_else(differ)?;
    let (mut n, key) = (1, |matrix: View<'_>| (matrix.layout, matrix.shape.cols));
    let same = matrices.inspect(|_| n += 1).all(|matrix| key(matrix) == key(first));
    if same && n <= MAX_PARTS { Ok(key(first)) } else { Err(differ()) }
}

fn linear_args(x: &Buffer, n_tokens: usize, cols: usize, out: &Buffer) -> LinearArgs {
    LinearArgs {
        x: x.halves_at(0, n_tokens, cols),
        out: out.floats_at(0, n_tokens, 0),
        out_bf16: 0,
        n_tokens: n_tokens as u32,
        cols: cols as u32,
        x_stride: x.halves_stride() as u32,
        out_stride: out.width as u32,
        out_bf16_stride: out.halves_stride() as u32,
        ..LinearArgs::zeroed()
    }
}

/// `out[i] = W x[i]` in f32, for matrices, activations (n_tokens, cols) of bf16 and outputs (n_tokens, rows) of f32 that lie
/// anywhere on the GPU: rows are `x_stride` and `rows` apart.
///
/// # Safety
/// All of that is there until the stream is; `x` and its rows are aligned to 16 bytes.
pub(super) unsafe fn linear_at(
    (device, stream): (&Device, Stream),
    matrix: View<'_>,
    (x, x_stride, n_tokens): (u64, usize, usize),
    out: u64,
) -> Result<()> {
    let (rows, tiles_per_block) = (matrix.shape.rows, if n_tokens <= 8 { 1 } else { 2 });
    let n_blocks = matrix.shape.n_tiles().div_ceil(tiles_per_block);
    let mut args = LinearArgs {
        x,
        out,
        n_tokens: n_tokens as u32,
        cols: matrix.shape.cols as u32,
        x_stride: x_stride as u32,
        out_stride: rows as u32,
        epilogue: Epilogue::Store as u32,
        ..LinearArgs::zeroed()
    };
    args.parts[0] = matrix.whole(0);
    args.first_blocks[1..].fill(n_blocks as u32);
    // SAFETY: the caller's.
    unsafe { launch_experts((device, stream), args, matrix.layout, [n_blocks, n_tokens, tiles_per_block, 1]) }
}

/// # Safety
/// Rows and columns that the kernel touches are there.
unsafe fn launch(x: &Buffer, args: LinearArgs, layout: Layout, n_blocks: usize, tiles_per_block: usize) -> Result<()> {
    let counts = [n_blocks, args.n_tokens as usize, tiles_per_block, 1];
    // SAFETY: the caller's.
    unsafe { launch_experts((x.floats.device(), Stream::Compute), args, layout, counts) }
}

/// Blocks of tiles for each of `n_experts`; kernels for about `n_tokens` tokens an expert, of `args.n_tokens` at most.
///
/// # Safety
/// Rows and columns that the kernel touches are there.
pub(super) unsafe fn launch_experts(
    (device, stream): (&Device, Stream),
    args: LinearArgs,
    layout: Layout,
    [n_blocks, n_tokens, tiles_per_block, n_experts]: [usize; 4],
) -> Result<()> {
    let block_tokens = n_tokens.next_power_of_two().clamp(8, MAX_BLOCK_TOKENS);
    let blocks = [n_blocks as u32, (args.n_tokens as usize).div_ceil(block_tokens) as u32, n_experts as u32];
    let grid = Grid { blocks, threads: (N_SLICES * LANES) as u32, shared_bytes: 0 };
    // SAFETY: the caller's.
    unsafe {
        match (layout, block_tokens, tiles_per_block) {
            (Layout::Rows, 8, 1) => device.launch_on(stream, &Rows8(args), grid),
            (Layout::Rows, 8, _) => device.launch_on(stream, &Rows8x2(args), grid),
            (Layout::Rows, 16, _) => device.launch_on(stream, &Rows16(args), grid),
            (Layout::Rows, 32, _) => device.launch_on(stream, &Rows32(args), grid),
            (Layout::Rows, ..) => device.launch_on(stream, &Rows64(args), grid),
            (Layout::Exact11, 8, 1) => device.launch_on(stream, &Exact11x8(args), grid),
            (Layout::Exact11, 8, _) => device.launch_on(stream, &Exact11x8x2(args), grid),
            (Layout::Exact11, 16, _) => device.launch_on(stream, &Exact11x16(args), grid),
            (Layout::Exact11, 32, _) => device.launch_on(stream, &Exact11x32(args), grid),
            (Layout::Exact11, ..) => device.launch_on(stream, &Exact11x64(args), grid),
            (Layout::Exact12, 8, 1) => device.launch_on(stream, &Exact12x8(args), grid),
            (Layout::Exact12, 8, _) => device.launch_on(stream, &Exact12x8x2(args), grid),
            (Layout::Exact12, 16, _) => device.launch_on(stream, &Exact12x16(args), grid),
            (Layout::Exact12, 32, _) => device.launch_on(stream, &Exact12x32(args), grid),
            (Layout::Exact12, ..) => device.launch_on(stream, &Exact12x64(args), grid),
        }
    }
}
