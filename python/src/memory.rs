//! Memory that Python allocated, as slices; and memory of ours that Python reads. With gpu.rs and openmp.rs all that is `unsafe`.
//!
//! What cannot be checked here is the caller's promise, and the documentation of each function that takes an address
//! repeats it: the memory stays where it is, and nobody else writes to it, until the call returns.

use std::ffi::{c_int, c_void};
use std::ops::Range;

use netweight_layout::AlignedBytes;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;

/// From as many bytes on, huge pages are asked for before memory is first written.
const HUGE_FROM: usize = 8 << 20;

/// Bytes that are read.
#[derive(Clone, Copy)]
pub struct Bytes {
    address: usize,
    len: usize,
}

/// Bytes that are written, in parts that do not overlap.
#[derive(Clone, Copy)]
pub struct BytesMut {
    address: usize,
    len: usize,
}

impl Bytes {
    /// `len` bytes from `address` on, which the caller promises to be there.
    pub fn at(address: usize, len: usize) -> PyResult<Bytes> {
        check(address, len)?;
        Ok(Bytes { address, len })
    }

    /// The bytes of a C-contiguous buffer, which is to be held as long as they are used.
    pub fn of(buffer: &PyUntypedBuffer) -> PyResult<Bytes> {
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not C-contiguous; copy it first"));
        }
        Bytes::at(buffer.buf_ptr().addr(), buffer.len_bytes())
    }

    /// All of them.
    pub fn as_slice(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: not null and not too long (`check`); that `len` bytes are there and stay is what the caller of the
        // Python function promises, or what the buffer that is held guarantees.
        unsafe { std::slice::from_raw_parts(std::ptr::with_exposed_provenance(self.address), self.len) }
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl BytesMut {
    /// `len` bytes from `address` on, which the caller promises to be there and to be nobody else's for now.
    pub fn at(address: usize, len: usize) -> PyResult<BytesMut> {
        check(address, len)?;
        Ok(BytesMut { address, len })
    }

    /// The bytes of a writable C-contiguous buffer, which is to be held as long as they are used.
    pub fn of(buffer: &PyUntypedBuffer) -> PyResult<BytesMut> {
        if buffer.readonly() {
            return Err(PyBufferError::new_err("the buffer is read-only"));
        }
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err("the buffer is not C-contiguous"));
        }
        BytesMut::at(buffer.buf_ptr().addr(), buffer.len_bytes())
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Some of them. Two parts that overlap must not be used at the same time.
    ///
    /// # Panics
    /// Where the range is not inside.
    #[allow(clippy::mut_from_ref)]
    pub fn part(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} of {}", self.len);
        if range.is_empty() {
            return &mut [];
        }
        let start = std::ptr::with_exposed_provenance_mut(self.address + range.start);
        // SAFETY: inside `len` bytes that the caller of the Python function, or the buffer that is held, provides for
        // the time of the call. Callers here give each thread parts of its own.
        unsafe { std::slice::from_raw_parts_mut(start, range.len()) }
    }

    /// All of them as f32; `None` where they do not begin at a multiple of 4, or are not whole numbers. To be called once:
    /// what it gives must not be used beside a [`BytesMut::part`].
    #[allow(clippy::mut_from_ref)]
    pub fn floats(&self) -> Option<&mut [f32]> {
        if !self.address.is_multiple_of(4) || !self.len.is_multiple_of(4) {
            return None;
        }
        if self.len == 0 {
            return Some(&mut []);
        }
        let start = std::ptr::with_exposed_provenance_mut(self.address);
        // SAFETY: aligned, and inside what the caller of the Python function provides for the time of the call; any bits
        // are an f32.
        Some(unsafe { std::slice::from_raw_parts_mut(start, self.len / 4) })
    }

    /// Asks for huge pages for what has not been written yet: fewer faults while it is. The bytes are the same without.
    pub fn expect_writes(&self) {
        #[cfg(target_os = "linux")]
        if self.len >= HUGE_FROM {
            const PAGE: usize = 4096;
            let start = self.address.next_multiple_of(PAGE);
            let len = (self.address + self.len).saturating_sub(start) / PAGE * PAGE;
            // SAFETY: whole pages inside the caller's memory; this advice changes no bytes and no addresses.
            let _ = unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), len, libc::MADV_HUGEPAGE) };
        }
    }
}

fn check(address: usize, len: usize) -> PyResult<()> {
    if len != 0 && (address == 0 || isize::try_from(len).is_err() || address.checked_add(len).is_none()) {
        return Err(PyValueError::new_err("no memory can be at that address with that length"));
    }
    Ok(())
}

/// Bytes at an address that is a multiple of 64, which numpy, torch and memoryview read and write without a copy:
/// `numpy.frombuffer(buffer, numpy.uint8)`, `torch.frombuffer(buffer, dtype=torch.uint8)`.
#[pyclass(frozen, module = "netweight")]
pub struct AlignedBuffer {
    address: usize,
    len: usize,
    _memory: AlignedBytes,
}

impl AlignedBuffer {
    /// The first `len` of `memory`. From here on they are only touched through Python.
    pub fn new(mut memory: AlignedBytes, len: usize) -> AlignedBuffer {
        let bytes = &mut memory[..len];
        AlignedBuffer { address: bytes.as_mut_ptr().expose_provenance(), len, _memory: memory }
    }
}

#[pymethods]
impl AlignedBuffer {
    fn __len__(&self) -> usize {
        self.len
    }

    /// Address of the first byte.
    #[getter]
    fn address(&self) -> usize {
        self.address
    }

    fn __repr__(&self) -> String {
        format!("AlignedBuffer({} bytes)", self.len)
    }

    /// Python's buffer protocol: one dimension of unsigned bytes, writable.
    ///
    /// # Safety
    /// `view` is null or Python's to be filled in.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let this = slf.get();
        let start = std::ptr::with_exposed_provenance_mut::<c_void>(this.address);
        let len = ffi::Py_ssize_t::try_from(this.len)?;
        // SAFETY: `view` is Python's; the bytes live as long as the object, which the view keeps a reference to, and
        // no slice of them is held on this side.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start, len, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
