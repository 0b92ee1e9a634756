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
    has_library: bool, // until it is found missing
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
        Ok(Prefill { device: device.clone(), halves, next: 0, has_library: true })
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
        if !self.has_library {
            return Ok(false);
        }
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
        let done = self.by_parts(matrix, gemm)?;
        self.has_library = done;
        let bias = matrix.whole(0).bias();
        if done && bias != 0 {
            let args = AddBiasArgs { bias, out: gemm.out, width: shape.rows as u32, out_stride: out.width as u32 };
            let blocks = [shape.rows.div_ceil(256) as u32, n_tokens as u32, 1];
            // SAFETY: `out` was checked, and a bias has as many values as the matrix rows.
            unsafe { self.device.launch(&args, Grid { blocks, threads: 256, shared_bytes: 0 }) }?;
        }
        Ok(done)
    }

    /// Decodes as many tiles as fit, multiplies, and so on. Raw rows are multiplied where they are, but in the same parts:
    /// how many rows there are may decide in which order the library sums.
    fn by_parts(&mut self, matrix: View<'_>, gemm: Gemm) -> Result<bool> {
        let shape = matrix.shape;
        let tile_bytes = shape.padded_len() / shape.n_tiles() * size_of::<u16>();
        let part_tiles = self.halves[0].words.len_bytes() / tile_bytes;
        for first_tile in (0..shape.n_tiles()).step_by(part_tiles) {
            let rows = (part_tiles * TILE_ROWS).min(shape.rows - first_tile * TILE_ROWS);
            let out = gemm.out + (first_tile * TILE_ROWS * size_of::<f32>()) as u64;
            let part = Gemm { rows, out, ..gemm };
            let done = if matrix.layout == Layout::Rows {
                let w = matrix.whole(0).weights() + (first_tile * tile_bytes) as u64;
                // SAFETY: `x` and `out` were checked, and the matrix is all there, row after row.
                unsafe { self.device.runtime.gemm(Gemm { w, ..part }) }?
            } else {
                self.decoded_part(matrix, first_tile, part)?
            };
            if !done {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decodes a part beside the product of the one before, and multiplies it. What wrote the matrix is done, or comes
    /// before in the copy stream.
    fn decoded_part(&mut self, matrix: View<'_>, first_tile: usize, part: Gemm) -> Result<bool> {
        let runtime = &self.device.runtime;
        let half = &mut self.halves[self.next];
        self.next = 1 - self.next;
        runtime.wait(Stream::Copy, half.multiplied)?;
        decode_on(Stream::Copy, matrix, first_tile, &mut half.words)?;
        runtime.record(Stream::Copy, half.decoded)?;
        runtime.wait(Stream::Compute, half.decoded)?;
        // SAFETY: the rows stand in the scratch, which is next written after `multiplied`; `x` and `out` were checked.
        let done = unsafe { runtime.gemm(Gemm { w: half.words.at(0, 0), ..part }) }?;
        runtime.record(Stream::Compute, half.multiplied)?;
        Ok(done)
    }
}
