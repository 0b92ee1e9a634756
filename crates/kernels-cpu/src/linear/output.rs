//! The output of a linear call, which workers write at the same time. Goes in: sums of a tile. Next in the flow: none.

use std::marker::PhantomData;

/// (n_tokens, stride) outputs that several workers write, no place by two of them.
pub(crate) struct Output<'a> {
    ptr: *mut f32,
    len: usize,
    stride: usize,
    borrow: PhantomData<&'a mut [f32]>,
}

// SAFETY: all access goes through `slice`, whose callers promise that no two slices overlap.
unsafe impl Sync for Output<'_> {}

impl<'a> Output<'a> {
    pub(crate) fn new(y: &'a mut [f32], stride: usize) -> Output<'a> {
        Output { ptr: y.as_mut_ptr(), len: y.len(), stride, borrow: PhantomData }
    }

    /// Columns `col..col + len` of a token.
    ///
    /// # Safety
    /// Nobody else reads or writes those places while the slice lives.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn slice(&self, token: usize, col: usize, len: usize) -> &mut [f32] {
        assert!(col + len <= self.stride);
        let begin = token * self.stride + col;
        assert!(begin + len <= self.len);
        // SAFETY: inside `y`, checked on the line above; nobody else touches it, the caller says.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(begin), len) }
    }
}
