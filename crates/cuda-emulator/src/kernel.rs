//! The kernels, as the C++ compiler made them.

use std::ffi::{CStr, CString, c_char, c_int, c_void};

use netweight_kernels_cuda::runtime::Grid;
use netweight_kernels_cuda::{Error, Result};

unsafe extern "C" {
    fn netweight_emulator_launch(
        name: *const c_char,
        grid: *const u32,
        threads: u32,
        shared_bytes: u32,
        args: *const c_void,
        args_bytes: usize,
        order: u64,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
}

/// Runs a kernel to its end; see `netweight_emulator_launch` for `order`.
///
/// # Safety
/// What the kernel does with the memory that `args` points to must be right.
pub unsafe fn launch(name: &str, grid: Grid, args: &[u8], order: u64) -> Result<()> {
    let name = CString::new(name).map_err(|error| Error::InvalidArgument(error.to_string()))?;
    // Parameters hold 64-bit fields; bytes need not be aligned for them.
    let mut aligned = vec![0u64; args.len().div_ceil(8)];
    let mut error = [0u8; 512];
    // SAFETY: all pointers are to what was just made, with the lengths given; the rest is the caller's.
    let status = unsafe {
        std::ptr::copy_nonoverlapping(args.as_ptr(), aligned.as_mut_ptr().cast(), args.len());
        netweight_emulator_launch(
            name.as_ptr(),
            grid.blocks.as_ptr(),
            grid.threads,
            grid.shared_bytes,
            aligned.as_ptr().cast(),
            args.len(),
            order,
            error.as_mut_ptr().cast(),
            error.len(),
        )
    };
    let what = CStr::from_bytes_until_nul(&error).unwrap_or_default().to_string_lossy();
    if status == 0 { Ok(()) } else { Err(Error::InvalidArgument(what.into_owned())) }
}
