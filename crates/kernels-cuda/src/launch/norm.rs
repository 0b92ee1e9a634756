//! RMSNorm.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::runtime::Grid;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct RmsNormArgs {
    x: u64,
    weight: u64,
    out: u64,
    out_bf16: u64,
    width: u32,
    stride: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    eps: f32,
    padding: u32,
}

impl Args for RmsNormArgs {
    const KERNEL: &'static str = "rms_norm";
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` over `n_rows` rows, as long as the weight.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn rms_norm(x: &Buffer, n_rows: usize, weight: &Memory<f32>, eps: f32, out: &mut Buffer) -> Result<()> {
    let width = weight.len();
    let args = RmsNormArgs {
        x: x.floats_at(0, n_rows, width),
        weight: weight.at(0, width),
        out: out.floats_at(0, n_rows, width),
        out_bf16: out.halves_at(0, n_rows, width),
        width: width as u32,
        stride: x.width as u32,
        out_stride: out.width as u32,
        out_bf16_stride: out.halves_stride() as u32,
        eps,
        padding: 0,
    };
    // A block for each row; `RMS_NORM_THREADS` in cu/norm.cu.
    let grid = Grid { blocks: [n_rows as u32, 1, 1], threads: 1024, shared_bytes: 0 };
    // SAFETY: all rows and columns that the kernel touches were checked above.
    unsafe { weight.device().launch(&args, grid) }
}
