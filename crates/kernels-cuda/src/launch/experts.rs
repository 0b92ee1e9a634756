//! Linear layers of all experts at once, each over the rows that were sent to it.

use bytemuck::Zeroable;

use super::linear::{LinearArgs, launch_experts};
use super::{Activation, Buffer, Routing};
use crate::device::{Device, Memory};
use crate::error::{Error, Result};
use crate::layout::{Layout, Shape};
use crate::matrix::{MatrixArgs, View};
use crate::runtime::Stream;

/// Matrices of all experts, where kernels find them: one each, or gate and up.
#[derive(Debug)]
pub struct ExpertTable {
    table: Memory<MatrixArgs>, // (n_experts, 1 or 2)
    layout: Layout,
    shape: Shape,
    n_experts: usize,
    is_gated: bool,
}

/// Rows that were sent to experts: `n_rows * top_k` entries, by expert and then by row.
#[derive(Clone, Copy, Debug)]
pub struct Sent<'a> {
    /// What [`route`](super::route) made of them.
    pub routing: &'a Routing,
    /// Rows.
    pub n_rows: usize,
    /// Experts that each is sent to.
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
            expert_starts: sent.routing.starts.at(0, self.n_experts + 1),
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
        unsafe { launch_experts((self.table.device(), Stream::Compute), args, self.layout, counts) }
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
            x_rows: sent.routing.rows.at(0, n_entries),
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
