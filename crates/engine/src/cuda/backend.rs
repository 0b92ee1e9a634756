//! A GPU as a [`Backend`]: goes in what a forward pass asks for, comes out launches of `netweight-kernels-cuda`.
//!
//! Operations return before they are done; the first error waits for [`Backend::read`]. In [`Mode::Replay`] operations only
//! say what changes from step to step: a captured graph does the rest. Next in the flow: decoder.rs.

use netweight_kernels_cuda as kernels;
use netweight_kernels_cuda::launch::{self, AttendArgs, Buffer, Epilogue, Norm, PagedCache, Prefill, Routes};
use netweight_kernels_cuda::{Device, Memory, Pinned, View};
use netweight_model::{Activation, Attend, Backend, Experts, Heads, Part, Room};

use super::experts::ExpertTables;
use super::inputs::Inputs;
use super::linear::{CudaLinear, Streamed};
use crate::Interrupt;

/// What becomes of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are issued.
    Eager,
    /// They are issued while the device captures them.
    Capture,
    /// They are in the graph already.
    Replay,
}

/// A GPU: scratch memory, and what changes from step to step.
pub struct Cuda {
    pub(super) device: Device,
    pub(super) mode: Mode,
    pub(super) interrupt: Interrupt,
    /// Tokens of one batch from which on the vendor's GEMM takes over.
    pub(super) prefill_from: usize,
    pub(super) logits: Pinned<f32>, // (max_logits, vocab): where captured graphs copy them to
    failed: Option<kernels::Error>,
    numbers: Inputs<u32>,
    floats: Inputs<f32>,
    streamed: Option<Streamed>,
    prefill: Prefill,
    attention: launch::Attention,
    experts: ExpertTables,
}
