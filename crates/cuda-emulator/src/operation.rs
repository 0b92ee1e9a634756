//! What is issued to a stream, kept until it is run.

use netweight_kernels_cuda::runtime::{EventId, Gemm, Grid};

/// One operation, over addresses.
#[derive(Clone, Debug)]
pub enum Operation {
    /// Sets bytes.
    Fill { dst: u64, byte: u8, len: usize },
    /// Copies bytes, in whatever direction: all memory is the host's.
    Copy { dst: u64, src: u64, len: usize },
    /// Runs a kernel.
    Launch { kernel: &'static str, grid: Grid, args: Vec<u8> },
    /// Multiplies.
    Gemm(Gemm),
    /// An event that is reached here.
    Event(EventId),
}
