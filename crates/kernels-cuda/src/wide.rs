//! A weight matrix as the checkpoint has it: f16, f32, or bf16 for activations that are not rounded.

use bytemuck::{Pod, Zeroable};

use crate::device::{Args, Device, Memory};
use crate::error::Result;
use crate::launch::Buffer;
use crate::layout::Shape;
use crate::runtime::Grid;

/// What elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WideKind {
    /// bfloat16.
    Bf16,
    /// IEEE half.
    F16,
    /// IEEE single.
    F32,
}

impl WideKind {
    /// Bytes of an element.
    pub fn element_bytes(self) -> usize {
        if self == WideKind::F32 { 4 } else { 2 }
    }
}

/// A matrix (rows, cols), row after row, with its bias.
#[derive(Debug)]
pub struct WideMatrix {
    kind: WideKind,
    shape: Shape,
    bytes: Memory<u8>,
    bias: Option<Memory<f32>>, // (rows)
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct WideArgs {
    weights: u64,
    bias: u64,
    x: u64,
    tokens: u64,
    out: u64,
    out_bf16: u64,
    kind: u32,
    rows: u32,
    cols: u32,
    n_tokens: u32,
    x_stride: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    adds: u32,
}

impl Args for WideArgs {
    const KERNEL: &'static str = "linear_wide";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct EmbedWide(WideArgs);

impl Args for EmbedWide {
    const KERNEL: &'static str = "embed_wide";
}

impl WideMatrix {
    /// Uploads little-endian elements (rows, cols).
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    ///
    /// # Panics
    /// Where there are not as many.
    pub fn upload(
        device: &Device,
        kind: WideKind,
        shape: Shape,
        bytes: &[u8],
        bias: Option<&[f32]>,
    ) -> Result<WideMatrix> {
        assert_eq!(bytes.len(), shape.rows * shape.cols * kind.element_bytes());
        let bias = bias.map(|bias| device.upload(bias)).transpose()?;
        Ok(WideMatrix { kind, shape, bytes: device.upload(bytes)?, bias })
    }

    /// Rows and columns.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What elements are.
    pub fn kind(&self) -> WideKind {
        self.kind
    }

    /// Bytes of the GPU's memory, bias apart.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// `out[.., out_col..out_col + rows] = W x (+ bias)`, or added to it, for the first `n_tokens` rows of `x`, whose f32
    /// count.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where a buffer is smaller.
    pub fn linear(&self, x: &Buffer, n_tokens: usize, out_col: usize, adds: bool, out: &mut Buffer) -> Result<()> {
        let Shape { rows, cols } = self.shape;
        let args = WideArgs {
            bias: self.bias.as_ref().map_or(0, |bias| bias.at(0, rows)),
            x: x.floats_at(0, n_tokens, cols),
            out: out.floats_at(out_col, n_tokens, rows),
            x_stride: x.width as u32,
            adds: u32::from(adds),
            ..self.args(n_tokens, out)
        };
        let blocks = [rows.div_ceil(8) as u32, n_tokens.div_ceil(8) as u32, 1];
        // SAFETY: rows and columns of `x` and `out` were checked; the matrix is whole.
        unsafe { self.bytes.device().launch(&args, Grid { blocks, threads: 256, shared_bytes: 0 }) }
    }

    /// `out[i] = table[tokens[i]]` for the first `n_tokens`; a token past the last row takes that.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where a buffer is smaller.
    pub fn embed(&self, tokens: &Memory<u32>, n_tokens: usize, out: &mut Buffer) -> Result<()> {
        let args = WideArgs {
            tokens: tokens.at(0, n_tokens),
            out: out.floats_at(0, n_tokens, self.shape.cols),
            out_bf16: out.halves_at(0, n_tokens, self.shape.cols),
            ..self.args(n_tokens, out)
        };
        let grid = Grid { blocks: [n_tokens as u32, 1, 1], threads: 256, shared_bytes: 0 };
        // SAFETY: tokens, and rows and columns of `out` were checked.
        unsafe { self.bytes.device().launch(&EmbedWide(args), grid) }
    }

    fn args(&self, n_tokens: usize, out: &Buffer) -> WideArgs {
        WideArgs {
            weights: self.bytes.at(0, self.bytes.len()),
            kind: self.kind as u32,
            rows: self.shape.rows as u32,
            cols: self.shape.cols as u32,
            n_tokens: n_tokens as u32,
            out_stride: out.width as u32,
            out_bf16_stride: out.halves_stride() as u32,
            ..WideArgs::zeroed()
        }
    }
}
