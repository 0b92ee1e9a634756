//! A token drawn by its probability, without copying a vocabulary of logits to the host.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Memory};
use crate::error::Result;
use crate::runtime::Grid;
use crate::twin::{Draw, MAX_DRAW_WIDTH};

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct DrawArgs {
    x: u64,
    how: u64,
    out: u64,
    width: u32,
    stride: u32,
}

impl Args for DrawArgs {
    const KERNEL: &'static str = "draw";
}

/// `out[i]` becomes a column, of `..width`, of row `i < n_rows`, drawn as `how[i]` says; `u32::MAX` where a value is a NaN
/// or +Inf, or all are -Inf.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller, or there are no columns, or [`MAX_DRAW_WIDTH`].
pub fn draw(x: &Buffer, n_rows: usize, width: usize, how: &Memory<Draw>, out: &mut Memory<u32>) -> Result<()> {
    assert!(width > 0 && width < MAX_DRAW_WIDTH, "a token of {width}");
    let args = DrawArgs {
        x: x.floats_at(0, n_rows, width),
        how: how.at(0, n_rows),
        out: out.at(0, n_rows),
        width: width as u32,
        stride: x.width as u32,
    };
    let grid = Grid { blocks: [n_rows as u32, 1, 1], threads: 1024, shared_bytes: 0 };
    // SAFETY: all rows and columns were checked above.
    unsafe { out.device().launch(&args, grid) }
}
