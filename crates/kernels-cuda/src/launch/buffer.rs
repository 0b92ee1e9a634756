//! Activations: each value as f32, and rounded to bf16 for the linear layers.

use crate::device::{Device, Memory, Pinned};
use crate::error::Result;
use crate::layout::STEP_COLS;

/// (rows, width) of f32, and the same rounded to bf16 in rows of a multiple of [`STEP_COLS`], the rest zero. Kernels
/// whose output linear layers take write both.
#[derive(Debug)]
pub struct Buffer {
    /// (n_rows, width)
    pub floats: Memory<f32>,
    /// (n_rows, [`Buffer::halves_stride`])
    pub halves: Memory<u16>,
    /// Columns.
    pub width: usize,
}

impl Buffer {
    /// A buffer of zeros.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(device: &Device, n_rows: usize, width: usize) -> Result<Buffer> {
        let halves = device.zeroed(n_rows * width.next_multiple_of(STEP_COLS))?;
        Ok(Buffer { floats: device.zeroed(n_rows * width)?, halves, width })
    }

    /// Rows.
    pub fn n_rows(&self) -> usize {
        self.floats.len() / self.width.max(1)
    }

    /// bf16 elements from one row to the next.
    pub fn halves_stride(&self) -> usize {
        self.width.next_multiple_of(STEP_COLS)
    }

    /// Issues a copy of the first `n_rows` rows' f32, whole rows, to pinned memory.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where either is smaller.
    pub fn copy_out(&self, n_rows: usize, to: &mut Pinned<f32>) -> Result<()> {
        self.floats.copy_to(0, to, n_rows * self.width)
    }

    /// Address of the f32 at (0, `col`), of `n_rows` rows of `width` columns from there.
    pub(crate) fn floats_at(&self, col: usize, n_rows: usize, width: usize) -> u64 {
        assert!(col + width <= self.width && n_rows <= self.n_rows(), "{n_rows} rows to column {}", col + width);
        self.floats.at(col.min(self.floats.len()), 0)
    }

    /// Address of the bf16 at (0, `col`), of `n_rows` rows of `width` columns from there.
    pub(crate) fn halves_at(&self, col: usize, n_rows: usize, width: usize) -> u64 {
        assert!(col + width <= self.width && n_rows <= self.n_rows(), "{n_rows} rows to column {}", col + width);
        self.halves.at(col.min(self.halves.len()), 0)
    }
}
