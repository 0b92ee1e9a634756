//! The driver's functions, found by name in its library, and its errors as ours. A result is a plain number here: a
//! driver newer than the bindings may return one that they do not list.

use std::ffi::{CStr, c_char, c_int, c_uchar, c_uint, c_ulonglong, c_void};
use std::sync::OnceLock;

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdevice_attribute, CUdeviceptr, CUevent, CUfunction, CUfunction_attribute, CUgraph,
    CUgraphExec, CUmodule, CUstream, CUstreamCaptureMode,
};

use crate::error::{Error, Result};

pub const SUCCESS: u32 = 0;
pub const OUT_OF_MEMORY: u32 = 2;
const NO_DEVICE: u32 = 100;
pub const NO_BINARY_FOR_GPU: u32 = 209;
pub const JIT_COMPILER_NOT_FOUND: u32 = 221;
pub const UNSUPPORTED_PTX_VERSION: u32 = 222;
pub const NOT_FOUND: u32 = 500;
/// After one of these every further call fails: deinitialized, a memory error, an illegal address, a failed launch, ...
const CONTEXT_IS_LOST: [u32; 14] = [4, 214, 220, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721];

/// Declares a table of functions, each of which returns a status, and how to find them all in a library.
macro_rules! functions {
    ($(#[$attribute:meta])* $table:ident in $library:path: $(fn $name:ident($($arg:ident: $kind:ty),* $(,)?);)*) => {
        $(#[$attribute])*
        #[allow(non_snake_case)]
        pub struct $table {
            $(pub $name: unsafe extern "C" fn($($arg: $kind),*) -> u32,)*
        }

        impl $table {
            /// All of them, or the name of one that is missing.
            ///
            /// # Safety
            /// The library is there, and is what it says it is.
            unsafe fn find() -> std::result::Result<$table, &'static str> {
                // SAFETY: the caller's; the types are those of the vendor's header.
                unsafe {
                    let library = $library();
                    Ok($table {
                        $($name: *library
                            .get::<unsafe extern "C" fn($($kind),*) -> u32>(stringify!($name).as_bytes())
                            .map_err(|_| stringify!($name))?,)*
                    })
                }
            }
        }
    };
}
pub(super) use functions;

/// Calls a function of a table, with its name in the error.
macro_rules! call {
    ($api:expr, $name:ident($($arg:expr),* $(,)?)) => {
        $api.check(stringify!($name), ($api.$name)($($arg),*))
    };
}
pub(super) use call;

functions! {
    /// The driver's functions that we use. All are in every driver since CUDA 11.4.
    Api in sys::culib:
    fn cuInit(flags: c_uint);
    fn cuDriverGetVersion(version: *mut c_int);
    fn cuGetErrorName(error: c_uint, name: *mut *const c_char);
    fn cuGetErrorString(error: c_uint, text: *mut *const c_char);
    fn cuDeviceGetCount(count: *mut c_int);
    fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int);
    fn cuDeviceGetName(name: *mut c_char, len: c_int, device: CUdevice);
    fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice);
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: CUdevice_attribute, device: CUdevice);
    fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice);
    fn cuDevicePrimaryCtxRelease_v2(device: CUdevice);
    fn cuCtxSetCurrent(context: CUcontext);
    fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void);
    fn cuModuleUnload(module: CUmodule);
    fn cuModuleGetFunction(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    fn cuFuncGetAttribute(value: *mut c_int, attribute: CUfunction_attribute, function: CUfunction);
    fn cuFuncSetAttribute(function: CUfunction, attribute: CUfunction_attribute, value: c_int);
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize);
    fn cuMemAlloc_v2(memory: *mut CUdeviceptr, bytes: usize);
    fn cuMemFree_v2(memory: CUdeviceptr);
    fn cuMemHostAlloc(memory: *mut *mut c_void, bytes: usize, flags: c_uint);
    fn cuMemFreeHost(memory: *mut c_void);
    fn cuMemsetD8Async(dst: CUdeviceptr, byte: c_uchar, len: usize, stream: CUstream);
    fn cuMemcpyHtoDAsync_v2(dst: CUdeviceptr, src: *const c_void, len: usize, stream: CUstream);
    fn cuMemcpyDtoHAsync_v2(dst: *mut c_void, src: CUdeviceptr, len: usize, stream: CUstream);
    fn cuStreamCreate(stream: *mut CUstream, flags: c_uint);
    fn cuStreamDestroy_v2(stream: CUstream);
    fn cuStreamSynchronize(stream: CUstream);
    fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint);
    fn cuStreamBeginCapture_v2(stream: CUstream, mode: CUstreamCaptureMode);
    fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph);
    fn cuEventCreate(event: *mut CUevent, flags: c_uint);
    fn cuEventRecord(event: CUevent, stream: CUstream);
    fn cuEventElapsedTime(milliseconds: *mut f32, begin: CUevent, end: CUevent);
    fn cuEventDestroy_v2(event: CUevent);
    fn cuLaunchKernel(
        function: CUfunction,
        blocks_x: c_uint,
        blocks_y: c_uint,
        blocks_z: c_uint,
        threads_x: c_uint,
        threads_y: c_uint,
        threads_z: c_uint,
        shared_bytes: c_uint,
        stream: CUstream,
        parameters: *mut *mut c_void,
        extra: *mut *mut c_void,
    );
    fn cuGraphInstantiateWithFlags(executable: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    fn cuGraphDestroy(graph: CUgraph);
    fn cuGraphLaunch(executable: CUgraphExec, stream: CUstream);
    fn cuGraphExecDestroy(executable: CUgraphExec);
}

impl Api {
    /// The driver's functions; found once.
    ///
    /// # Errors
    /// `NoDevice` where there is no driver, `Unsupported` where it lacks a function.
    pub fn get() -> Result<&'static Api> {
        static API: OnceLock<Api> = OnceLock::new();
        if let Some(api) = API.get() {
            return Ok(api);
        }
        // SAFETY: loading the driver's library runs nothing but what it does at its start.
        if !unsafe { sys::is_culib_present() } {
            let text = "There is no NVIDIA driver here (libcuda.so.1 is not found). Install it, or, in a container, \
                        start that with access to the GPUs (docker run --gpus all). Without a GPU, run on the CPU.";
            return Err(Error::NoDevice(text.to_owned()));
        }
        // SAFETY: it was just found, under the name of NVIDIA's library.
        let found = unsafe { Api::find() };
        let missing = |name| {
            Error::Unsupported(format!("The NVIDIA driver has no function {name}: it is too old. Update the driver."))
        };
        let api = found.map_err(missing)?;
        Ok(API.get_or_init(|| api))
    }

    /// Starts the driver; again does nothing.
    ///
    /// # Errors
    /// `NoDevice` where it has no GPU, and the driver's.
    pub fn init(&self) -> Result<()> {
        // SAFETY: the one value of the flags that there is.
        match unsafe { (self.cuInit)(0) } {
            NO_DEVICE => Err(no_gpu()),
            code => self.check("cuInit", code),
        }
    }

    /// What a call returned, as a result.
    pub fn check(&self, call: &'static str, code: u32) -> Result<()> {
        if code == SUCCESS { Ok(()) } else { Err(Error::Driver { call, what: self.describe(code) }) }
    }

    /// Name, text and number of an error, and what to do about some.
    pub fn describe(&self, code: u32) -> String {
        let text_of = |function: unsafe extern "C" fn(c_uint, *mut *const c_char) -> u32, otherwise: &str| {
            let mut text = std::ptr::null();
            // SAFETY: the driver's texts are constants of it; for an unknown code it gives none.
            unsafe {
                let has = function(code, &mut text) == SUCCESS && !text.is_null();
                if has { CStr::from_ptr(text).to_string_lossy().into_owned() } else { otherwise.to_owned() }
            }
        };
        let (name, text) = (text_of(self.cuGetErrorName, "unknown error"), text_of(self.cuGetErrorString, "no text"));
        format!("{name} ({code}): {text}{}", advice(code))
    }
}

fn advice(code: u32) -> &'static str {
    match code {
        _ if CONTEXT_IS_LOST.contains(&code) => LOST,
        34 => ". This libcuda is the toolkit's, to link with: take its folder out of LD_LIBRARY_PATH",
        46 => ". Another program has the GPU to itself",
        802 | 999 => ". If the GPU worked before, restart the machine or reload the driver",
        803 => {
            ". Parts of the driver differ in version: restart the machine, or give the container the libcuda of its host"
        }
        _ => "",
    }
}

const LOST: &str = ". The GPU context is lost: nothing works on this GPU any more until the program is started again";

pub fn no_gpu() -> Error {
    let text = "The NVIDIA driver finds no GPU. If there is one, see whether CUDA_VISIBLE_DEVICES hides it. Without a \
                GPU, run on the CPU.";
    Error::NoDevice(text.to_owned())
}
