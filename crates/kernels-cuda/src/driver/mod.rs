//! Real GPUs, through NVIDIA's driver, which is found when the program runs: without one, everything here returns
//! [`Error::NoDevice`] and nothing panics.
//!
//! ```text
//! api.rs         the driver's functions, found by name; its errors as ours
//! artefacts.rs   the kernels for each kind of GPU, and which of them a GPU gets
//! mod.rs         finding GPUs, and opening one: `devices`, `open`
//! runtime.rs     the calls of `Runtime`
//! blas.rs        cuBLAS, loaded with the first product that is asked of it
//! ```
//!
//! Environment: `NETWEIGHT_CUDA_SYNC=1` waits after each launch, so that an error names its kernel.
//! `NETWEIGHT_CUDA_IMAGE=compute_80.ptx` takes that artefact and no other.

mod api;
mod artefacts;
mod blas;
mod runtime;

use std::collections::HashMap;
use std::ffi::{c_char, c_int};
use std::ptr::null_mut;
use std::sync::{Arc, Mutex};

use cudarc::driver::sys::{
    CUcontext, CUdevice, CUdevice_attribute, CUevent, CUfunction, CUgraphExec, CUmodule, CUstream,
};

use crate::device::Device;
use crate::error::{Error, Result};
use crate::runtime::Properties;
use api::{Api, call};
use artefacts::Artefact;

/// Every driver of this CUDA major version runs cubins of every compiler of it.
const OLDEST_DRIVER: [u32; 2] = [12, 0];
/// The first with matrix instructions for bf16 (Ampere).
const OLDEST_CAPABILITY: [u32; 2] = [8, 0];

/// All GPUs of this machine that the driver shows, in its order; also those that are too old to [`open`].
///
/// # Errors
/// `NoDevice` where there is no driver or no GPU, `Unsupported` where the driver is too old, and the driver's.
pub fn devices() -> Result<Vec<Properties>> {
    let (api, count) = count_devices()?;
    (0..count).map(|ordinal| properties_of(api, device_of(api, ordinal)?)).collect()
}

/// A GPU by its place in [`devices`].
///
/// # Errors
/// As [`devices`]; `Unsupported` where the GPU is too old.
pub fn open(ordinal: u32) -> Result<Device> {
    Ok(Device::new(Arc::new(Driver::open(ordinal)?)))
}

/// Whether a GPU can be used.
///
/// # Errors
/// `Unsupported` where it is too old.
pub fn check(properties: &Properties) -> Result<()> {
    let ([major, minor], [oldest_major, oldest_minor]) = (properties.compute_capability, OLDEST_CAPABILITY);
    if [major, minor] >= OLDEST_CAPABILITY {
        return Ok(());
    }
    Err(Error::Unsupported(format!(
        "{} has compute capability {major}.{minor}; GPUs from {oldest_major}.{oldest_minor} on are supported (Ampere: \
         RTX 30, A100, and newer). Run on the CPU instead.",
        properties.name
    )))
}

/// A GPU, and all that the driver made for us on it.
pub struct Driver {
    api: &'static Api,
    properties: Properties,
    device: CUdevice,
    context: CUcontext,
    module: CUmodule,
    artefact: &'static Artefact,
    /// Compute, copy.
    streams: [CUstream; 2],
    waits_for_launches: bool,
    state: Mutex<State>,
}

// SAFETY: the driver takes its handles from any thread that has made the context current, as each call here does.
unsafe impl Send for Driver {}
// SAFETY: as above; what changes is behind a lock.
unsafe impl Sync for Driver {}

#[derive(Default)]
struct State {
    kernels: HashMap<&'static str, Kernel>,
    events: Vec<CUevent>,
    graphs: HashMap<u32, CUgraphExec>,
    next_graph: u32,
    is_capturing: bool,
    /// What was given back during a capture, when nothing may be.
    leftovers: Vec<Leftover>,
    blas: blas::Blas,
}

#[derive(Clone, Copy)]
struct Kernel {
    function: CUfunction,
    /// Shared memory that it always has.
    static_bytes: u32,
    /// Shared memory beside that, which launches may ask for as things are.
    dynamic_bytes: u32,
}

enum Leftover {
    Memory(u64),
    Pinned(*mut u8),
    Graph(CUgraphExec),
}

impl Driver {
    /// Opens a GPU by its place in [`devices`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(ordinal: u32) -> Result<Driver> {
        let (api, count) = count_devices()?;
        if ordinal >= count {
            let has = if count == 1 { "1 GPU, number 0".to_owned() } else { format!("{count} GPUs, numbers from 0") };
            return Err(Error::NoDevice(format!("There is no GPU {ordinal}: this machine has {has}.")));
        }
        let device = device_of(api, ordinal)?;
        let properties = properties_of(api, device)?;
        check(&properties)?;
        let waits_for_launches = std::env::var_os("NETWEIGHT_CUDA_SYNC").is_some_and(|value| value == "1");
        let mut context = null_mut();
        // SAFETY: the device is the driver's.
        unsafe { call!(api, cuDevicePrimaryCtxRetain(&mut context, device)) }?;
        let mut driver = Driver {
            api,
            properties,
            device,
            context,
            module: null_mut(),
            artefact: &artefacts::ALL[0],
            streams: [null_mut(); 2],
            waits_for_launches,
            state: Mutex::default(),
        };
        driver.enter()?;
        (driver.module, driver.artefact) = load_module(api, &driver.properties)?;
        for stream in &mut driver.streams {
            const NON_BLOCKING: u32 = 1;
            // SAFETY: the context is current.
            unsafe { call!(api, cuStreamCreate(stream, NON_BLOCKING)) }?;
        }
        Ok(driver)
    }

    /// Which of the compiled kernels this GPU got: "sm_90a.cubin".
    pub fn artefact(&self) -> &'static str {
        self.artefact.name
    }

    /// Makes the context current on this thread.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { call!(self.api, cuCtxSetCurrent(self.context)) }
    }
}

/// Last made, first destroyed. Errors have nowhere to go; at the end of a process the driver may be gone already.
impl Drop for Driver {
    fn drop(&mut self) {
        let (api, state) = (self.api, self.state.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner));
        // SAFETY: all handles are ours, and each is destroyed once; memory holds its device, so none is left.
        unsafe {
            if (api.cuCtxSetCurrent)(self.context) == 0 {
                for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
                    (api.cuStreamSynchronize)(*stream);
                }
                state.blas.destroy(api);
                state.leftovers.drain(..).for_each(|leftover| leftover.destroy(api));
                state.graphs.values().for_each(|&graph| Leftover::Graph(graph).destroy(api));
                for event in state.events.drain(..) {
                    (api.cuEventDestroy_v2)(event);
                }
                for stream in self.streams.iter().filter(|stream| !stream.is_null()) {
                    (api.cuStreamDestroy_v2)(*stream);
                }
                if !self.module.is_null() {
                    (api.cuModuleUnload)(self.module);
                }
            }
            (api.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

impl Leftover {
    /// # Safety
    /// The context is current, nothing is captured, and the GPU is done with it.
    unsafe fn destroy(self, api: &Api) {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Leftover::Memory(memory) => (api.cuMemFree_v2)(memory),
                Leftover::Pinned(memory) => (api.cuMemFreeHost)(memory.cast()),
                Leftover::Graph(graph) => (api.cuGraphExecDestroy)(graph),
            };
        }
    }
}

/// The driver, new enough, and how many GPUs it has, at least one.
fn count_devices() -> Result<(&'static Api, u32)> {
    let api = Api::get()?;
    let version = driver_version(api)?;
    if version < OLDEST_DRIVER {
        let ([major, minor], [oldest_major, oldest_minor]) = (version, OLDEST_DRIVER);
        return Err(Error::Unsupported(format!(
            "The NVIDIA driver is of CUDA {major}.{minor}; one of CUDA {oldest_major}.{oldest_minor} or newer (version \
             525.60 or newer) is needed. Update the driver."
        )));
    }
    let mut count: c_int = 0;
    api.init()?;
    // SAFETY: a pointer to an integer.
    unsafe { call!(api, cuDeviceGetCount(&mut count)) }?;
    if count <= 0 { Err(api::no_gpu()) } else { Ok((api, count as u32)) }
}

fn driver_version(api: &Api) -> Result<[u32; 2]> {
    let mut version: c_int = 0;
    // SAFETY: a pointer to an integer.
    unsafe { call!(api, cuDriverGetVersion(&mut version)) }?;
    let version = version.max(0) as u32;
    Ok([version / 1000, version % 1000 / 10])
}

fn device_of(api: &Api, ordinal: u32) -> Result<CUdevice> {
    let mut device: CUdevice = 0;
    // SAFETY: a pointer to an integer.
    unsafe { call!(api, cuDeviceGet(&mut device, ordinal as c_int)) }?;
    Ok(device)
}

fn properties_of(api: &Api, device: CUdevice) -> Result<Properties> {
    let attribute = |which: CUdevice_attribute| -> Result<u32> {
        let mut value: c_int = 0;
        // SAFETY: a pointer to an integer.
        unsafe { call!(api, cuDeviceGetAttribute(&mut value, which, device)) }?;
        Ok(value.max(0) as u32)
    };
    let (mut name, mut memory_bytes) = ([0u8; 128], 0usize);
    // SAFETY: the name has as many bytes as are said, the last of which stays zero.
    unsafe {
        call!(api, cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), name.len() as c_int - 1, device))?;
        call!(api, cuDeviceTotalMem_v2(&mut memory_bytes, device))?;
    }
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    Ok(Properties {
        name: String::from_utf8_lossy(name).into_owned(),
        compute_capability: [
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ],
        n_multiprocessors: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory_bytes: memory_bytes as u64,
        l2_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?.into(),
        max_shared_bytes: attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        driver_version: driver_version(api)?,
    })
}

/// The first artefact that the driver takes for this GPU. The context is current.
fn load_module(api: &Api, properties: &Properties) -> Result<(CUmodule, &'static Artefact)> {
    let mut refusal = None;
    for artefact in artefacts::candidates(properties.compute_capability)? {
        let (image, mut module) = (artefact.image()?, null_mut());
        // SAFETY: a whole cubin, or PTX that ends with a zero byte.
        let code = unsafe { (api.cuModuleLoadData)(&mut module, image.as_ptr().cast()) };
        match code {
            api::SUCCESS => return Ok((module, artefact)),
            api::NO_BINARY_FOR_GPU | api::UNSUPPORTED_PTX_VERSION | api::JIT_COMPILER_NOT_FOUND => refusal = Some(code),
            _ => api.check("cuModuleLoadData", code)?,
        }
    }
    let ([major, minor], [driver_major, driver_minor]) = (properties.compute_capability, properties.driver_version);
    let why = refusal.map_or(String::new(), |code| format!(" ({})", api.describe(code)));
    Err(Error::Unsupported(format!(
        "There are no kernels compiled for {} (compute capability {major}.{minor}), and the NVIDIA driver, of CUDA \
         {driver_major}.{driver_minor}, does not compile them{why}. Update the driver to CUDA 12.9 or newer.",
        properties.name
    )))
}
