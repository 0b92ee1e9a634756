//! Linear layers of all experts at once, each over the rows that were sent to it, and the sum of what they make.

use bytemuck::{Pod, Zeroable};

use super::linear::{LinearArgs, launch_experts};
use super::{Activation, Buffer};
use crate::device::{Args, Device, Memory};
use crate::error::{Error, Result};
use crate::layout::{Layout, Shape};
use crate::matrix::{MatrixArgs, View};
use crate::runtime::Grid;

/// Experts that a row may be sent to, at most.
pub const MAX_TOP_K: usize = 64;

/// Matrices of all experts, where kernels find them: one each, or gate and up.
#[derive(Debug)]
pub struct ExpertTable {
    table: Memory<MatrixArgs>, // (n_experts, 1 or 2)
    layout: Layout,
    shape: Shape,
    n_experts: usize,
    is_gated: bool,
}

/// Rows sent to experts.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// (n_experts + 1): where each expert's entries begin.
    pub starts: &'a Memory<u32>,
    /// (n_entries): the row of each entry; ascending for each expert.
    pub rows: &'a Memory<u32>,
    /// (n_entries): what its output is multiplied with.
    pub weights: &'a Memory<f32>,
    /// Rows.
    pub n_rows: usize,
    /// Experts that each row is sent to, so that there are `n_rows * top_k` entries.
    pub top_k: usize,
}

impl ExpertTable {
    /// A table of matrices that stay where they are for as long as it is used; of each expert one, or gate and up.
    ///
    /// # Errors
    /// `InvalidArgument` where they are not alike in layout and shape; `OutOfMemory`.
    pub fn new(device: &Device, experts: &[Vec<View<'_>>]) -> Result<ExpertTable> {
        let differ = || Error::InvalidArgument("experts whose matrices differ in layout or shape".to_owned());
        let first = experts.first().and_then(|views| views.first()).ok_or_else(differ)?;
        let (layout, shape, n_each) = (first.layout, first.shape, experts[0].len());
        let is_like_first = |view: &View<'_>| (view.layout, view.shape) == (layout, shape);
        if !experts.iter().all(|views| views.len() == n_each && views.iter().all(is_like_first)) || n_each > 2 {
            return Err(differ());
        }
        let rows: Vec<MatrixArgs> = experts.iter().flatten().map(|view| view.whole(0)).collect();
        Ok(ExpertTable { table: device.upload(&rows)?, layout, shape, n_experts: experts.len(), is_gated: n_each == 2 })
    }

    fn launch(&self, sent: Sent<'_>, args: LinearArgs) -> Result<()> {
        let args = LinearArgs {
            experts: self.table.at(0, self.table.len()),
            expert_starts: sent.starts.at(0, self.n_experts + 1),
            first_blocks: [0, u32::MAX, u32::MAX, u32::MAX],
            n_tokens: sent.n_rows as u32,
            cols: self.shape.cols as u32,
            ..args
        };
        let n_each = (sent.n_rows * sent.top_k).div_ceil(self.n_experts);
        let tiles_per_block = if self.is_gated || n_each > 8 { 2 } else { 1 };
        let blocks = self.shape.n_tiles().div_ceil(if self.is_gated { 1 } else { tiles_per_block });
        let counts = [blocks, n_each, tiles_per_block, self.n_experts];
        // SAFETY: the caller has checked `x` and `out`; entries of `sent` are rows of them, which routing sees to.
        unsafe { launch_experts(self.table.device(), args, self.layout, counts) }
    }

    /// `out[entry] = activation(gate x) * up x` for each entry's row of `x` and its expert.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where a buffer is smaller, or these are not gate and up.
    pub fn gated_linear(&self, x: &Buffer, sent: Sent<'_>, activation: Activation, out: &mut Buffer) -> Result<()> {
        assert!(self.is_gated, "not gate and up");
        let n_entries = sent.n_rows * sent.top_k;
        let args = LinearArgs {
            x: x.halves_at(0, sent.n_rows, self.shape.cols),
            x_rows: sent.rows.at(0, n_entries),
            x_stride: x.halves_stride() as u32,
            out: out.floats_at(0, n_entries, self.shape.rows),
            out_stride: out.width as u32,
            out_bf16: out.halves_at(0, n_entries, self.shape.rows),
            out_bf16_stride: out.halves_stride() as u32,
            epilogue: 2 + activation as u32,
            ..LinearArgs::zeroed()
        };
        self.launch(sent, args)
    }

    /// `out[entry] = W x[entry]` for each entry and its expert.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where a buffer is smaller, or these are gate and up.
    pub fn linear(&self, x: &Buffer, sent: Sent<'_>, out: &mut Buffer) -> Result<()> {
        assert!(!self.is_gated, "gate and up");
        let n_entries = sent.n_rows * sent.top_k;
        let args = LinearArgs {
            x: x.halves_at(0, n_entries, self.shape.cols),
            x_stride: x.halves_stride() as u32,
            out: out.floats_at(0, n_entries, self.shape.rows),
            out_stride: out.width as u32,
            ..LinearArgs::zeroed()
        };
        self.launch(sent, args)
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CombineArgs {
    x: u64,
    rows: u64,
    weights: u64,
    out: u64,
    n_entries: u32,
    top_k: u32,
    width: u32,
    x_stride: u32,
    out_stride: u32,
    padding: u32,
}

impl Args for CombineArgs {
    const KERNEL: &'static str = "combine_experts";
}

/// `out[row] = sum of weights[entry] * x[entry]` over the row's entries, by expert, in columns `..width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller, or a row goes to more than [`MAX_TOP_K`].
pub fn combine_experts(x: &Buffer, sent: Sent<'_>, width: usize, out: &mut Buffer) -> Result<()> {
    let n_entries = sent.n_rows * sent.top_k;
    assert!(sent.top_k <= MAX_TOP_K, "{} experts a row", sent.top_k);
    let args = CombineArgs {
        x: x.floats_at(0, n_entries, width),
        rows: sent.rows.at(0, n_entries),
        weights: sent.weights.at(0, n_entries),
        out: out.floats_at(0, sent.n_rows, width),
        n_entries: n_entries as u32,
        top_k: sent.top_k as u32,
        width: width as u32,
        x_stride: x.width as u32,
        out_stride: out.width as u32,
        padding: 0,
    };
    let grid = Grid { blocks: [sent.n_rows as u32, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all rows and columns were checked; each row has `top_k` entries, which routing sees to.
    unsafe { out.floats.device().launch(&args, grid) }
}
