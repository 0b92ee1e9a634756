//! The likeliest token, without copying a vocabulary of logits to the host.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::runtime::Grid;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct LikeliestArgs {
    x: u64,
    out: u64,
    width: u32,
    stride: u32,
}

impl Args for LikeliestArgs {
    const KERNEL: &'static str = "likeliest";
}

/// `out[i]` becomes the column, of `..width`, of the greatest value of row `i < n_rows`, the lowest among equals;
/// `u32::MAX` where a value is a NaN or +Inf, or all are -Inf.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller, or there are no columns.
pub fn likeliest(x: &Buffer, n_rows: usize, width: usize, out: &mut Memory<u32>) -> Result<()> {
    assert!(width > 0, "the greatest of nothing");
    let args = LikeliestArgs {
        x: x.floats_at(0, n_rows, width),
        out: out.at(0, n_rows),
        width: width as u32,
        stride: x.width as u32,
    };
    let grid = Grid { blocks: [n_rows as u32, 1, 1], threads: 1024, shared_bytes: 0 };
    // SAFETY: all rows and columns were checked above.
    unsafe { out.device().launch(&args, grid) }
}
