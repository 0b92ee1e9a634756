//! cuBLAS, which multiplies where a plain product is wanted. Loaded when it is first asked for: it is large, and not
//! everyone has it.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;

use cudarc::cublas::sys::{self, cublasHandle_t};
use cudarc::driver::sys::CUstream;

use super::Driver;
use super::api::{self, Api, call, functions};
use crate::error::{Error, Result};
use crate::runtime::{Gemm, Runtime, Stream};

/// What the vendor recommends for each generation. Ours and not cuBLAS's own, because a graph must find it at the same
/// place, and because results then do not depend on what else it is used for.
const WORKSPACE_BYTES: usize = 8 << 20;
const WORKSPACE_BYTES_SINCE_HOPPER: usize = 32 << 20;

const ALLOC_FAILED: u32 = 3;

// Values of the enums in cublas_v2.h and library_types.h.
const OP_N: c_int = 0;
const OP_T: c_int = 1;
const R_32F: c_int = 0;
const R_16BF: c_int = 14;
const COMPUTE_32F: c_int = 68;
const GEMM_DEFAULT: c_int = -1;
/// Sums in f32, also where parts of a sum are added up.
const MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: c_int = 16;

functions! {
    /// The functions of cuBLAS that we use.
    BlasApi in sys::culib:
    fn cublasCreate_v2(handle: *mut cublasHandle_t);
    fn cublasDestroy_v2(handle: cublasHandle_t);
    fn cublasSetStream_v2(handle: cublasHandle_t, stream: CUstream);
    fn cublasSetWorkspace_v2(handle: cublasHandle_t, workspace: *mut c_void, bytes: usize);
    fn cublasSetMathMode(handle: cublasHandle_t, mode: c_int);
    fn cublasGemmEx(
        handle: cublasHandle_t,
        a_op: c_int,
        b_op: c_int,
        m: c_int,
        n: c_int,
        k: c_int,
        alpha: *const c_void,
        a: *const c_void,
        a_type: c_int,
        a_stride: c_int,
        b: *const c_void,
        b_type: c_int,
        b_stride: c_int,
        beta: *const c_void,
        c: *mut c_void,
        c_type: c_int,
        c_stride: c_int,
        compute_type: c_int,
        algorithm: c_int,
    );
}

/// The library, as far as it was asked for.
#[derive(Default)]
pub enum Blas {
    /// Not yet.
    #[default]
    Untried,
    /// It is not on this machine.
    Absent,
    /// Ready.
    Ready(Box<Ready>),
}

/// A handle of cuBLAS, on the compute stream.
pub struct Ready {
    api: BlasApi,
    handle: cublasHandle_t,
    workspace: u64,
}

impl Blas {
    /// # Safety
    /// The context is current, and nothing is under way.
    pub unsafe fn destroy(&mut self, driver: &Api) {
        if let Blas::Ready(ready) = std::mem::take(self) {
            // SAFETY: both are ours, and go once.
            unsafe {
                (ready.api.cublasDestroy_v2)(ready.handle);
                (driver.cuMemFree_v2)(ready.workspace);
            }
        }
    }
}

impl BlasApi {
    fn check(&self, call: &'static str, status: u32) -> Result<()> {
        let name = match status {
            api::SUCCESS => return Ok(()),
            1 => "CUBLAS_STATUS_NOT_INITIALIZED",
            ALLOC_FAILED => "CUBLAS_STATUS_ALLOC_FAILED",
            7 => "CUBLAS_STATUS_INVALID_VALUE",
            8 => "CUBLAS_STATUS_ARCH_MISMATCH",
            11 => "CUBLAS_STATUS_MAPPING_ERROR",
            13 => "CUBLAS_STATUS_EXECUTION_FAILED",
            14 => "CUBLAS_STATUS_INTERNAL_ERROR",
            15 => "CUBLAS_STATUS_NOT_SUPPORTED",
            _ => "unknown status",
        };
        Err(Error::Driver { call, what: format!("{name} ({status})") })
    }
}

impl Driver {
    /// See [`Runtime::gemm`]. The context is current.
    ///
    /// # Safety
    /// All memory is there, until the compute stream is done.
    pub(super) unsafe fn multiply(&self, gemm: Gemm) -> Result<bool> {
        let int = |value: usize| {
            c_int::try_from(value).map_err(|_| Error::InvalidArgument(format!("a product of {value} is too large")))
        };
        let mut state = self.state();
        if matches!(state.blas, Blas::Untried) {
            if state.is_capturing {
                let what = "the first product comes within a capture, where cuBLAS cannot start: multiply once before";
                return Err(Error::InvalidArgument(what.to_owned()));
            }
            // Where memory is short, our own kernels do without.
            state.blas = match self.load_blas() {
                Err(Error::OutOfMemory { .. }) => Blas::Absent,
                loaded => loaded?,
            };
        }
        let Blas::Ready(ready) = &state.blas else { return Ok(false) };
        if gemm.n_rows == 0 || gemm.rows == 0 {
            return Ok(true);
        }
        // cuBLAS counts columns first: its C is our transposed `out` (rows, n_rows) = w (rows, cols) x^T (cols, n_rows).
        let (m, n, k) = (int(gemm.rows)?, int(gemm.n_rows)?, int(gemm.cols)?);
        let (x_stride, w_stride, out_stride) = (int(gemm.x_stride)?, int(gemm.w_stride)?, int(gemm.out_stride)?);
        let (alpha, beta) = (1f32, if gemm.adds { 1f32 } else { 0f32 });
        let (alpha, beta) = ((&raw const alpha).cast(), (&raw const beta).cast());
        let (w, x, out) = (gemm.w as *const c_void, gemm.x as *const c_void, gemm.out as *mut c_void);
        // SAFETY: the caller's; the two factors are read before the call returns.
        unsafe {
            #[rustfmt::skip]
            call!(ready.api, cublasGemmEx(
                ready.handle, OP_T, OP_N, m, n, k,
                alpha, w, R_16BF, w_stride, x, R_16BF, x_stride,
                beta, out, R_32F, out_stride, COMPUTE_32F, GEMM_DEFAULT,
            ))?;
        }
        Ok(true)
    }

    fn load_blas(&self) -> Result<Blas> {
        // SAFETY: loading NVIDIA's library runs nothing but what it does at its start.
        if !unsafe { sys::is_culib_present() } {
            return Ok(Blas::Absent);
        }
        // SAFETY: it was just found, under the name of NVIDIA's library.
        let found = unsafe { BlasApi::find() };
        let api = found.map_err(|name| {
            Error::Unsupported(format!(
                "The cuBLAS library has no function {name}: it is too old. Update it to that of CUDA 12."
            ))
        })?;
        let wanted_bytes =
            if self.properties.compute_capability[0] >= 9 { WORKSPACE_BYTES_SINCE_HOPPER } else { WORKSPACE_BYTES };
        let mut ready = Box::new(Ready { api, handle: null_mut(), workspace: 0 });
        // SAFETY: the context is current, and the handle ours.
        let code = unsafe { (ready.api.cublasCreate_v2)(&mut ready.handle) };
        if code == ALLOC_FAILED {
            return Err(Error::OutOfMemory { what: "GPU memory", wanted_bytes, free_bytes: self.free_bytes().ok() });
        }
        ready.api.check("cublasCreate_v2", code)?;
        let set_up = self.set_up(&mut ready, wanted_bytes);
        let mut blas = Blas::Ready(ready);
        if set_up.is_err() {
            // SAFETY: the handle was never used.
            unsafe { blas.destroy(self.api) };
        }
        set_up.map(|()| blas)
    }

    fn set_up(&self, ready: &mut Ready, workspace_bytes: usize) -> Result<()> {
        ready.workspace = self.allocate(workspace_bytes)?;
        let (api, handle, workspace) = (&ready.api, ready.handle, ready.workspace as *mut c_void);
        // SAFETY: the handle is new, the workspace ours. The stream comes first: setting it takes the workspace away.
        unsafe {
            call!(api, cublasSetStream_v2(handle, self.stream(Stream::Compute)))?;
            call!(api, cublasSetWorkspace_v2(handle, workspace, workspace_bytes))?;
            call!(api, cublasSetMathMode(handle, MATH_DISALLOW_REDUCED_PRECISION_REDUCTION))
        }
    }
}
