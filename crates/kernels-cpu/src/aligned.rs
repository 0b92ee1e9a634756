//! Numbers that begin at a cache line. Goes in: how many. Comes out: zeros, which take memory only as they are written,
//! page by page. Next: `kv_cache.rs`.

use std::ops::{Deref, DerefMut};

/// Bytes of a cache line, and of the widest register.
const ALIGNMENT: usize = 64;

/// A slice of zeros at first, whose first element stands at a multiple of 64 bytes.
pub(crate) struct Aligned<T> {
    data: Vec<T>,
    begin: usize,
    len: usize,
}

impl<T: Copy + Default> Aligned<T> {
    /// `T` is a number, and its default 0: then the allocator is asked for zeroed memory, which large allocations get
    /// from the system as pages that are not there yet.
    pub(crate) fn zeroed(len: usize) -> Aligned<T> {
        let data = vec![T::default(); len + ALIGNMENT / size_of::<T>()];
        let begin = data.as_ptr().align_offset(ALIGNMENT);
        Aligned { data, begin, len }
    }

    /// Whether the system would give so much, as far as asking tells: it may promise more than it has.
    pub(crate) fn may_have(len: usize) -> bool {
        Vec::<T>::new().try_reserve_exact(len.saturating_add(ALIGNMENT)).is_ok()
    }
}

impl<T> Deref for Aligned<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        &self.data[self.begin..][..self.len]
    }
}

impl<T> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.data[self.begin..][..self.len]
    }
}
