//! Heads in place: RMSNorm of each, and rotation.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::runtime::Grid;

/// Heads that stand side by side in a row: columns `col..col + n_heads * head_dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// First column.
    pub col: usize,
    /// Heads.
    pub n_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

impl Heads {
    /// Columns.
    pub fn width(self) -> usize {
        self.n_heads * self.head_dim
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct HeadNormArgs {
    x: u64,
    x_bf16: u64,
    weight: u64,
    stride: u32,
    bf16_stride: u32,
    n_rows: u32,
    n_heads: u32,
    head_dim: u32,
    eps: f32,
}

impl Args for HeadNormArgs {
    const KERNEL: &'static str = "head_norm";
}

/// RMSNorm of each head on its own, in place.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the buffer is smaller, or the weight is not as long as a head.
pub fn head_norm(x: &mut Buffer, n_rows: usize, heads: Heads, weight: &Memory<f32>, eps: f32) -> Result<()> {
    assert_eq!(weight.len(), heads.head_dim, "a weight for each dimension");
    let args = HeadNormArgs {
        x: x.floats_at(heads.col, n_rows, heads.width()),
        x_bf16: x.halves_at(heads.col, n_rows, heads.width()),
        weight: weight.at(0, heads.head_dim),
        stride: x.width as u32,
        bf16_stride: x.halves_stride() as u32,
        n_rows: n_rows as u32,
        n_heads: heads.n_heads as u32,
        head_dim: heads.head_dim as u32,
        eps,
    };
    let n_blocks = (n_rows * heads.n_heads).div_ceil(8) as u32;
    let grid = Grid { blocks: [n_blocks, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all rows and columns that the kernel touches were checked above.
    unsafe { weight.device().launch(&args, grid) }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RopeArgs {
    x: u64,
    x_bf16: u64,
    table: u64,
    table_rows: u64,
    stride: u32,
    bf16_stride: u32,
    n_heads: u32,
    head_dim: u32,
    half: u32,
    table_len: u32,
}

impl Args for RopeArgs {
    const KERNEL: &'static str = "rope";
}

/// Rotates each head of row `i < n_rows` in place by row `table_rows[i]` of the table, `rotary_dim / 2` cosines `c`,
/// then as many sines `s`: with `h = rotary_dim / 2`, for `j < h`,
/// `x[j], x[j + h] = x[j] c[j] - x[j + h] s[j], x[j + h] c[j] + x[j] s[j]`. Dimensions from `rotary_dim` on stay, and
/// so do rows whose table row is beyond the table.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller, or `rotary_dim` is odd or more than a head has.
pub fn rope(
    x: &mut Buffer,
    n_rows: usize,
    heads: Heads,
    rotary_dim: usize,
    table: &Memory<f32>,      // (table rows, rotary_dim)
    table_rows: &Memory<u32>, // (n_rows) or more
) -> Result<()> {
    assert!(rotary_dim <= heads.head_dim && rotary_dim.is_multiple_of(2), "pairs of a head's dimensions");
    let half = rotary_dim / 2;
    let args = RopeArgs {
        x: x.floats_at(heads.col, n_rows, heads.width()),
        x_bf16: x.halves_at(heads.col, n_rows, heads.width()),
        table: table.at(0, 0),
        table_rows: table_rows.at(0, n_rows),
        stride: x.width as u32,
        bf16_stride: x.halves_stride() as u32,
        n_heads: heads.n_heads as u32,
        head_dim: heads.head_dim as u32,
        half: half as u32,
        table_len: (table.len() / rotary_dim.max(1)) as u32,
    };
    let n_chunks = (heads.n_heads * half).div_ceil(256) as u32;
    let grid = Grid { blocks: [n_rows as u32, n_chunks, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all rows and columns were checked above; the kernel leaves out rows that the table does not have.
    unsafe { table.device().launch(&args, grid) }
}
