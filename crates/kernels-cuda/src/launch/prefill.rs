//! Linear layers for many tokens: the vendor's GEMM, on bf16 that is decoded to scratch while the GEMM before runs.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use super::decode::decode_on;
use crate::device::{Args, Device, Memory};
use crate::error::Result;
use crate::layout::{Layout, Shape, TILE_ROWS};
use crate::matrix::{View, padded_cols};
use crate::runtime::{EventId, Gemm, Grid, Stream};

/// Bytes of one half of the scratch.
const SCRATCH_BYTES: usize = 64 << 20;

/// Two halves of scratch that take turns: one is decoded to on the copy stream while the GEMM reads the other.
pub struct Prefill {
    device: Device,
    halves: [Half; 2],
    next: usize,
}

struct Half {
    words: Memory<u32>,
    decoded: EventId,
    multiplied: EventId,
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct AddBiasArgs {
    bias: u64,
    out: u64,
    width: u32,
    out_stride: u32,
}

impl Args for AddBiasArgs {
    const KERNEL: &'static str = "add_bias";
}

impl Prefill {
    /// Scratch for matrices of all these shapes.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn new(device: &Device, shapes: impl Iterator<Item = Shape>) -> Result<Prefill> {
        let tile_words = |shape: Shape| shape.padded_len() / shape.n_tiles().max(1) / 2;
        let words = |shape: Shape| (shape.padded_len() / 2).min(SCRATCH_BYTES / 4).max(tile_words(shape));
        Prefill::with_scratch(device, shapes.map(words).max().unwrap_or(0))
    }

    /// With halves of `n_words`; tests make them small.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn with_scratch(device: &Device, n_words: usize) -> Result<Prefill> {
        let half = || {
            let (decoded, multiplied) = (device.runtime.event()?, device.runtime.event()?);
            Ok::<_, crate::Error>(Half { words: device.zeroed(n_words)?, decoded, multiplied })
        };
        let halves = [half()?, half()?];
        device.synchronize()?;
        Ok(Prefill { device: device.clone(), halves, next: 0 })
    }

    /// Bytes on the GPU.
    pub fn len_bytes(&self) -> usize {
        self.halves.iter().map(|half| half.words.len_bytes()).sum()
    }

    /// `out[.., out_col..out_col + rows] = W x (+ bias)`, or added to it, for the first `n_tokens` rows of `x`; `false`,
    /// and nothing done, where the vendor's library is not there. The sums are in the library's order: they may differ
    /// from [`linear`](super::linear)'s in the last bits, and with the number of tokens, but not with the layout.
    ///
    /// # Errors
    /// The driver's, the library's.
    ///
    /// # Panics
    /// Where a buffer is smaller, or a tile larger than the scratch.
    pub fn linear(
        &mut self,
        x: &Buffer,
        n_tokens: usize,
        (matrix, out_col): (View<'_>, usize),
        adds: bool,
        out: &mut Buffer,
    ) -> Result<bool> {
        let shape = matrix.shape;
        let gemm = Gemm {
            x: x.halves_at(0, n_tokens, shape.cols),
            x_stride: x.halves_stride(),
            w: 0,
            w_stride: padded_cols(shape),
            out: out.floats_at(out_col, n_tokens, shape.rows),
            out_stride: out.width,
            n_rows: n_tokens,
            rows: 0,
            cols: shape.cols,
            adds,
        };
        let done = if matrix.layout == Layout::Rows {
            // SAFETY: `x` and `out` were checked, and the matrix is all there, row after row.
            unsafe { self.device.runtime.gemm(Gemm { w: matrix.whole(0).weights(), rows: shape.rows, ..gemm }) }?
        } else {
            self.by_parts(matrix, gemm)?
        };
        let bias = matrix.whole(0).bias();
        if done && bias != 0 {
            let args = AddBiasArgs { bias, out: gemm.out, width: shape.rows as u32, out_stride: out.width as u32 };
            let blocks = [shape.rows.div_ceil(256) as u32, n_tokens as u32, 1];
            // SAFETY: `out` was checked, and a bias has as many values as the matrix rows.
            unsafe { self.device.launch(&args, Grid { blocks, threads: 256, shared_bytes: 0 }) }?;
        }
        Ok(done)
    }

    /// Decodes as many tiles as fit, multiplies, and so on. Decoding waits for no more than the half that it writes, so
    /// that a matrix is decoded while the GEMM of the one before still runs: resident matrices were there before the first
    /// pass, and those that stream in come on the copy stream, too.
    fn by_parts(&mut self, matrix: View<'_>, gemm: Gemm) -> Result<bool> {
        let runtime = &self.device.runtime;
        let mut first_tile = 0;
        while first_tile < matrix.shape.n_tiles() {
            let half = &mut self.halves[self.next];
            self.next = 1 - self.next;
            runtime.wait(Stream::Copy, half.multiplied)?;
            let rows = decode_on(Stream::Copy, matrix, first_tile, &mut half.words)?;
            runtime.record(Stream::Copy, half.decoded)?;
            runtime.wait(Stream::Compute, half.decoded)?;
            let out = gemm.out + (first_tile * TILE_ROWS * size_of::<f32>()) as u64;
            // SAFETY: the rows stand in the scratch, which is next written after `multiplied`; `x` and `out` were checked.
            let done = unsafe { runtime.gemm(Gemm { w: half.words.at(0, 0), rows, out, ..gemm }) }?;
            if !done {
                return Ok(false);
            }
            runtime.record(Stream::Compute, half.multiplied)?;
            first_tile += rows.div_ceil(TILE_ROWS);
        }
        Ok(true)
    }
}
