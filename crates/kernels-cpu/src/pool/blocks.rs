//! Runs over blocks of a matrix. Goes in: rows cut in several places, columns cut in equal parts. Comes out: each block
//! written by one thread. Next: `isa.rs`.

use std::marker::PhantomData;

use super::Pool;

/// Rows by columns of a larger matrix, which nobody else reads or writes.
pub(crate) struct Block<'a> {
    start: *mut f32,
    stride: usize,
    n_rows: usize,
    width: usize,
    _data: PhantomData<&'a mut [f32]>,
}

impl Block<'_> {
    /// Row `row_idx` of the block, (width).
    ///
    /// # Panics
    /// If the block has no such row.
    pub(crate) fn row(&mut self, row_idx: usize) -> &mut [f32] {
        assert!(row_idx < self.n_rows, "a row beyond the block");
        // SAFETY: `run_blocks` has checked that every row of the block lies in the matrix, and gave it to one call.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(row_idx * self.stride), self.width) }
    }
}

/// Where a block is, and who writes it.
#[derive(Clone, Copy)]
pub(crate) struct BlockIdx {
    /// Which rows: `row_starts[rows]..row_starts[rows + 1]`.
    pub(crate) rows: usize,
    /// Which columns: `width * columns ..` as many as `width`.
    pub(crate) columns: usize,
    /// The thread.
    pub(crate) worker: usize,
}

struct Start(*mut f32);

// SAFETY: the pointer is that of a `&mut [f32]` whose parts go to one thread each.
unsafe impl Sync for Start {}

impl Start {
    fn get(&self) -> *mut f32 {
        self.0
    }
}

impl Pool {
    /// Calls `work` once for each block of a matrix: rows are cut at `row_starts`, of which the first is the first row
    /// and the last the end, and columns into `n_parts` parts of `width`.
    ///
    /// # Panics
    /// As [`Pool::run`], and if the blocks overlap or are not inside the matrix.
    pub(crate) fn run_blocks(
        &self,
        data: &mut [f32], // (n_rows, stride)
        stride: usize,
        row_starts: &[usize],
        (n_parts, width): (usize, usize),
        work: &(dyn Fn(Block, BlockIdx) + Sync),
    ) {
        assert!(row_starts.is_sorted() && n_parts * width <= stride, "blocks do not overlap");
        let Some((&end, _)) = row_starts.split_last().filter(|(end, _)| **end > 0) else { return };
        assert!((end - 1) * stride + n_parts * width <= data.len(), "blocks lie in the matrix");
        let start = Start(data.as_mut_ptr());
        self.run((row_starts.len() - 1) * n_parts, 1, &|range, worker| {
            for item in range {
                let (rows, columns) = (item / n_parts, item % n_parts);
                let begin = row_starts[rows] * stride + columns * width;
                let n_rows = row_starts[rows + 1] - row_starts[rows];
                // A block without rows may begin past the end; its pointer is not followed.
                let start = start.get().wrapping_add(begin);
                work(Block { start, stride, n_rows, width, _data: PhantomData }, BlockIdx { rows, columns, worker });
            }
        });
    }
}
