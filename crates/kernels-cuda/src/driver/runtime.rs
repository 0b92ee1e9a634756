//! The calls of [`Runtime`], each with the driver's function under it.

use std::ffi::{CString, c_int, c_void};
use std::ptr::null_mut;
use std::sync::{MutexGuard, PoisonError};

use cudarc::driver::sys::{CUevent, CUfunction_attribute, CUgraph, CUstream, CUstreamCaptureMode};

use super::api::{self, call};
use super::{Driver, Kernel, Leftover, State};
use crate::error::{Error, Result};
use crate::runtime::{EventId, Gemm, GraphId, Grid, Properties, Runtime, Stream};

/// Shared memory that a block has without being asked.
const USUAL_SHARED_BYTES: u32 = 48 << 10;

impl Driver {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn stream(&self, stream: Stream) -> CUstream {
        match stream {
            Stream::Compute => self.streams[0],
            Stream::Copy => self.streams[1],
            Stream::Foreign(handle) => handle as CUstream,
        }
    }

    /// An allocation's result, where memory may have been short.
    fn check_memory(&self, call: &'static str, code: u32, what: &'static str, wanted_bytes: usize) -> Result<()> {
        if code == api::OUT_OF_MEMORY {
            let free_bytes = if what == "GPU memory" { self.free_bytes().ok() } else { None };
            return Err(Error::OutOfMemory { what, wanted_bytes, free_bytes });
        }
        self.api.check(call, code)
    }

    /// Gives something back when the GPU is done, or after the capture that is going on. The context is current.
    fn give_back(&self, state: &mut State, leftover: Leftover) {
        if state.is_capturing {
            state.leftovers.push(leftover);
            return;
        }
        // SAFETY: nothing is captured; what the streams had was waited for. What that found is reported by whoever
        // waits next.
        unsafe {
            for stream in self.streams {
                (self.api.cuStreamSynchronize)(stream);
            }
            leftover.destroy(self.api);
        }
    }

    fn event_of(state: &State, event: EventId) -> Result<CUevent> {
        let found = state.events.get(event.0 as usize).copied();
        found.ok_or_else(|| Error::InvalidArgument(format!("there is no event {}", event.0)))
    }

    /// A kernel that may be launched with so much shared memory. The context is current.
    fn kernel(&self, state: &mut State, name: &'static str, shared_bytes: u32) -> Result<Kernel> {
        let mut kernel = match state.kernels.get(name) {
            Some(kernel) => *kernel,
            None => self.find_kernel(name)?,
        };
        if shared_bytes > kernel.dynamic_bytes {
            let most = self.properties.max_shared_bytes.saturating_sub(kernel.static_bytes);
            if shared_bytes > most {
                let what = format!("{name} wants {shared_bytes} bytes of shared memory; this GPU has {most} for it");
                return Err(Error::InvalidArgument(what));
            }
            let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is the module's.
            unsafe { call!(self.api, cuFuncSetAttribute(kernel.function, attribute, shared_bytes as c_int)) }?;
            kernel.dynamic_bytes = shared_bytes;
        }
        state.kernels.insert(name, kernel);
        Ok(kernel)
    }

    fn find_kernel(&self, name: &'static str) -> Result<Kernel> {
        let in_c = CString::new(name).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let (mut function, mut static_bytes) = (null_mut(), 0);
        // SAFETY: the module is loaded until `self` is dropped, and the name ends with a zero byte.
        match unsafe { (self.api.cuModuleGetFunction)(&mut function, self.module, in_c.as_ptr()) } {
            api::NOT_FOUND => {
                let what = format!("there is no kernel {name} in {}", self.artefact.name);
                return Err(Error::InvalidArgument(what));
            }
            code => self.api.check("cuModuleGetFunction", code)?,
        }
        let attribute = CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES;
        // SAFETY: the function was just found.
        unsafe { call!(self.api, cuFuncGetAttribute(&mut static_bytes, attribute, function)) }?;
        let static_bytes = static_bytes.max(0) as u32;
        Ok(Kernel { function, static_bytes, dynamic_bytes: USUAL_SHARED_BYTES.saturating_sub(static_bytes) })
    }
}

// SAFETY: the driver's allocations are the caller's alone, and those by cuMemHostAlloc are the host's memory.
unsafe impl Runtime for Driver {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<usize> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: pointers to integers.
        unsafe { call!(self.api, cuMemGetInfo_v2(&mut free, &mut total)) }?;
        Ok(free)
    }

    fn allocate(&self, len: usize) -> Result<u64> {
        self.enter()?;
        let mut memory = 0;
        // SAFETY: a pointer to an address.
        let code = unsafe { (self.api.cuMemAlloc_v2)(&mut memory, len) };
        self.check_memory("cuMemAlloc_v2", code, "GPU memory", len)?;
        Ok(memory)
    }

    unsafe fn free(&self, memory: u64) {
        if self.enter().is_ok() {
            self.give_back(&mut self.state(), Leftover::Memory(memory));
        }
    }

    fn allocate_pinned(&self, len: usize) -> Result<*mut u8> {
        const PORTABLE: u32 = 1; // pinned for every context of the process
        self.enter()?;
        let mut memory = null_mut();
        // SAFETY: a pointer to a pointer.
        let code = unsafe { (self.api.cuMemHostAlloc)(&mut memory, len, PORTABLE) };
        self.check_memory("cuMemHostAlloc", code, "pinned host memory", len)?;
        Ok(memory.cast())
    }

    unsafe fn free_pinned(&self, memory: *mut u8, _len: usize) {
        if self.enter().is_ok() {
            self.give_back(&mut self.state(), Leftover::Pinned(memory));
        }
    }

    unsafe fn fill(&self, stream: Stream, dst: u64, byte: u8, len: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(self.api, cuMemsetD8Async(dst, byte, len, self.stream(stream))) }
    }

    unsafe fn copy_in(&self, stream: Stream, dst: u64, src: *const u8, len: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(self.api, cuMemcpyHtoDAsync_v2(dst, src.cast(), len, self.stream(stream))) }
    }

    unsafe fn copy_out(&self, stream: Stream, dst: *mut u8, src: u64, len: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { call!(self.api, cuMemcpyDtoHAsync_v2(dst.cast(), src, len, self.stream(stream))) }
    }

    unsafe fn launch(&self, stream: Stream, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        self.enter()?;
        let name = kernel;
        let (kernel, is_capturing) = {
            let mut state = self.state();
            (self.kernel(&mut state, name, grid.shared_bytes)?, state.is_capturing)
        };
        let [x, y, z] = grid.blocks;
        let (function, threads, shared_bytes) = (kernel.function, grid.threads, grid.shared_bytes);
        // The driver copies as many bytes as the kernel's parameter has; the pointer is not written through.
        let mut parameters = [args.as_ptr().cast_mut().cast::<c_void>()];
        let (stream, parameters, extra) = (self.stream(stream), parameters.as_mut_ptr(), null_mut());
        // SAFETY: the caller's; the parameter's bytes are copied before the call returns.
        let launched = unsafe {
            call!(self.api, cuLaunchKernel(function, x, y, z, threads, 1, 1, shared_bytes, stream, parameters, extra))
        };
        let done = launched.and_then(|()| {
            let waits = self.waits_for_launches && !is_capturing;
            // SAFETY: the stream is ours.
            if waits { unsafe { call!(self.api, cuStreamSynchronize(stream)) } } else { Ok(()) }
        });
        done.map_err(|error| match error {
            Error::Driver { call, what } => Error::Driver { call, what: format!("{name}: {what}") },
            other => other,
        })
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<bool> {
        self.enter()?;
        // SAFETY: the caller's.
        unsafe { self.multiply(gemm) }
    }

    fn event(&self) -> Result<EventId> {
        const WITH_TIME: u32 = 0;
        self.enter()?;
        let mut event = null_mut();
        // SAFETY: a pointer to a handle.
        unsafe { call!(self.api, cuEventCreate(&mut event, WITH_TIME)) }?;
        let mut state = self.state();
        state.events.push(event);
        Ok(EventId(state.events.len() as u32 - 1))
    }

    fn record(&self, stream: Stream, event: EventId) -> Result<()> {
        self.enter()?;
        let event = Driver::event_of(&self.state(), event)?;
        // SAFETY: both are ours.
        unsafe { call!(self.api, cuEventRecord(event, self.stream(stream))) }
    }

    fn wait(&self, stream: Stream, event: EventId) -> Result<()> {
        self.enter()?;
        let event = Driver::event_of(&self.state(), event)?;
        // SAFETY: both are ours.
        unsafe { call!(self.api, cuStreamWaitEvent(self.stream(stream), event, 0)) }
    }

    fn seconds_between(&self, begin: EventId, end: EventId) -> Result<f64> {
        self.enter()?;
        let (begin, end) = {
            let state = self.state();
            (Driver::event_of(&state, begin)?, Driver::event_of(&state, end)?)
        };
        let mut milliseconds = 0f32;
        // SAFETY: both are ours.
        unsafe { call!(self.api, cuEventElapsedTime(&mut milliseconds, begin, end)) }?;
        Ok(f64::from(milliseconds) / 1e3)
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream is ours.
        unsafe { call!(self.api, cuStreamSynchronize(self.stream(stream))) }
    }

    fn begin_capture(&self) -> Result<()> {
        self.enter()?;
        let mut state = self.state(); // until the end: who frees meanwhile would break the capture
        let (stream, mode) = (self.stream(Stream::Compute), CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        // SAFETY: the stream is ours.
        unsafe { call!(self.api, cuStreamBeginCapture_v2(stream, mode)) }?;
        state.is_capturing = true;
        Ok(())
    }

    fn end_capture(&self) -> Result<Option<GraphId>> {
        self.enter()?;
        let mut state = self.state();
        let mut graph: CUgraph = null_mut();
        // SAFETY: the stream is ours.
        let ended = unsafe { call!(self.api, cuStreamEndCapture(self.stream(Stream::Compute), &mut graph)) };
        state.is_capturing = false;
        for leftover in std::mem::take(&mut state.leftovers) {
            self.give_back(&mut state, leftover);
        }
        let mut executable = null_mut();
        let made = ended.and_then(|()| {
            // SAFETY: the graph was just made.
            unsafe { call!(self.api, cuGraphInstantiateWithFlags(&mut executable, graph, 0)) }
        });
        if !graph.is_null() {
            // SAFETY: what is executed is a copy of it.
            unsafe { (self.api.cuGraphDestroy)(graph) };
        }
        made?;
        let id = state.next_graph;
        state.next_graph += 1;
        state.graphs.insert(id, executable);
        Ok(Some(GraphId(id)))
    }

    unsafe fn replay(&self, graph: GraphId) -> Result<()> {
        self.enter()?;
        let state = self.state(); // until the end, so that nobody drops the graph meanwhile
        let executable = state.graphs.get(&graph.0).copied();
        let executable = executable.ok_or_else(|| Error::InvalidArgument(format!("there is no graph {}", graph.0)))?;
        // SAFETY: the caller's, of what the graph works on.
        unsafe { call!(self.api, cuGraphLaunch(executable, self.stream(Stream::Compute))) }
    }

    fn drop_graph(&self, graph: GraphId) {
        let mut state = self.state();
        if let Some(executable) = state.graphs.remove(&graph.0)
            && self.enter().is_ok()
        {
            self.give_back(&mut state, Leftover::Graph(executable));
        }
    }
}
