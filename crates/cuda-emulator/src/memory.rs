//! Memory that ends at a page that nobody may touch.

use netweight_kernels_cuda::{Error, Result};

const PAGE_BYTES: usize = 4096;
/// What CUDA promises is more; what kernels here rely on is their widest load.
const ALIGNMENT: usize = 16;

/// One allocation.
pub struct Guarded {
    base: *mut libc::c_void,
    mapped_bytes: usize,
    len: usize,
}

// SAFETY: it is plain memory, and this its only handle.
unsafe impl Send for Guarded {}

impl Guarded {
    /// `len` bytes of 0xff, rounded up to the alignment, right before the page.
    pub fn new(len: usize) -> Result<Guarded> {
        let len = len.next_multiple_of(ALIGNMENT);
        let mapped_bytes = len.next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        // SAFETY: a new private mapping, at an address of the system's choice.
        let base = unsafe {
            let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), mapped_bytes, access, kind, -1, 0)
        };
        if base == libc::MAP_FAILED {
            return Err(Error::OutOfMemory { what: "emulated memory", wanted_bytes: len, free_bytes: None });
        }
        // SAFETY: the last page of the mapping, and then `len` bytes before it.
        unsafe {
            libc::mprotect(base.byte_add(mapped_bytes - PAGE_BYTES), PAGE_BYTES, libc::PROT_NONE);
            base.cast::<u8>().add(mapped_bytes - PAGE_BYTES - len).write_bytes(0xff, len);
        }
        Ok(Guarded { base, mapped_bytes, len })
    }

    /// Where it begins.
    pub fn address(&self) -> *mut u8 {
        self.base.cast::<u8>().wrapping_add(self.mapped_bytes - PAGE_BYTES - self.len)
    }

    /// Bytes, as they were asked for and rounded up.
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody has it any more.
        unsafe { libc::munmap(self.base, self.mapped_bytes) };
    }
}
