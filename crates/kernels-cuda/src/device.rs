//! A GPU with memory that has owners: [`Device`], [`Memory`] of numbers on the GPU, [`Pinned`] memory of the host.
//! Next in the flow: launch/mod.rs.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytemuck::Pod;

use crate::error::{Error, Result};
use crate::runtime::{EventId, GraphId, Grid, Properties, Runtime, Stream};

/// A GPU that kernels are launched on. Clones are the same GPU.
#[derive(Clone)]
pub struct Device {
    pub(crate) runtime: Arc<dyn Runtime>,
    held: Arc<Mutex<Held>>,
}

/// Memory that nobody has any more, but that graphs may still work on: it is freed with the last graph.
#[derive(Default)]
struct Held {
    n_graphs: usize,
    memories: Vec<u64>,
    pinned: Vec<(usize, usize)>, // address, bytes
}

/// `len` values on a GPU.
pub struct Memory<T> {
    device: Device,
    address: u64,
    len: usize,
    of: PhantomData<T>,
}

/// `len` values in the host's memory, where the GPU fetches them by itself.
pub struct Pinned<T> {
    device: Device,
    address: *mut T,
    len: usize,
    is_transient: bool, // no graph has seen it: whoever made it waits for its copies
}

/// Launches and copies that were captured, to be issued in one call. Memory that they work on stays as long as any graph.
pub struct Graph {
    device: Device,
    id: GraphId,
}

/// The parameter of a kernel.
pub(crate) trait Args: Pod {
    /// The kernel's name in `cu/`.
    const KERNEL: &'static str;
}

impl Device {
    /// A device over any runtime.
    pub fn new(runtime: Arc<dyn Runtime>) -> Device {
        Device { runtime, held: Arc::default() }
    }

    /// What it is.
    pub fn properties(&self) -> &Properties {
        self.runtime.properties()
    }

    /// Bytes of its memory that are free now.
    ///
    /// # Errors
    /// The driver's.
    pub fn free_bytes(&self) -> Result<usize> {
        self.runtime.free_bytes()
    }

    /// Memory for `len` values, all zero.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn zeroed<T: Pod>(&self, len: usize) -> Result<Memory<T>> {
        let bytes = bytes_of::<T>(len, "GPU memory")?;
        let address = self.runtime.allocate(bytes)?;
        let memory = Memory { device: self.clone(), address, len, of: PhantomData };
        // SAFETY: the memory was just allocated with as many bytes; it is freed only after the stream is done.
        unsafe { self.runtime.fill(Stream::Compute, address, 0, bytes) }?;
        Ok(memory)
    }

    /// Memory with a copy of `values`; returns when it is there.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn upload<T: Pod>(&self, values: &[T]) -> Result<Memory<T>> {
        let mut memory = self.zeroed(values.len())?;
        memory.write(0, values)?;
        Ok(memory)
    }

    /// Pinned memory for `len` values, all zero.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn pinned<T: Pod>(&self, len: usize) -> Result<Pinned<T>> {
        let bytes = bytes_of::<T>(len, "pinned host memory")?;
        let address = self.runtime.allocate_pinned(bytes)?;
        // SAFETY: as many bytes were just allocated.
        unsafe { address.write_bytes(0, bytes) };
        Ok(Pinned { device: self.clone(), address: address.cast(), len, is_transient: false })
    }

    /// Pinned memory for a copy that its maker waits for, before it is dropped.
    fn staging<T: Pod>(&self, len: usize) -> Result<Pinned<T>> {
        let mut staging = self.pinned(len)?;
        staging.is_transient = true;
        Ok(staging)
    }

    /// Waits until all that was issued to the compute stream is done.
    ///
    /// # Errors
    /// The driver's, also of what was issued before.
    pub fn synchronize(&self) -> Result<()> {
        self.runtime.synchronize(Stream::Compute)
    }

    /// Waits for a stream of somebody else's.
    ///
    /// # Errors
    /// The driver's, also of what was issued before.
    pub fn synchronize_foreign(&self, stream: u64) -> Result<()> {
        self.runtime.synchronize(Stream::Foreign(stream))
    }

    /// Seconds that the GPU takes for what `work` issues, by its own clock.
    ///
    /// # Errors
    /// Those of `work`, and the driver's.
    pub fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        Stopwatch::new(self)?.time(work)
    }

    /// From here on, what is issued is captured and not run.
    ///
    /// # Errors
    /// The driver's.
    pub fn begin_capture(&self) -> Result<()> {
        self.runtime.begin_capture()?;
        self.held().n_graphs += 1;
        Ok(())
    }

    /// Ends a capture; `None` where this device cannot capture: then everything has been run.
    ///
    /// # Errors
    /// The driver's.
    pub fn end_capture(&self) -> Result<Option<Graph>> {
        let graph = self.runtime.end_capture();
        if !matches!(graph, Ok(Some(_))) {
            self.release();
        }
        Ok(graph?.map(|id| Graph { device: self.clone(), id }))
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One graph less: with the last, frees what was held for them.
    fn release(&self) {
        let mut held = self.held();
        held.n_graphs -= 1;
        if held.n_graphs > 0 {
            return;
        }
        for memory in std::mem::take(&mut held.memories) {
            // SAFETY: its owner is gone, and so are all graphs; the runtime waits for what was issued.
            unsafe { self.runtime.free(memory) };
        }
        for (address, len) in std::mem::take(&mut held.pinned) {
            // SAFETY: as above.
            unsafe { self.runtime.free_pinned(address as *mut u8, len) };
        }
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// What the kernel does with the memory that `args` points to must be right.
    #[allow(clippy::missing_errors_doc)]
    pub(crate) unsafe fn launch<A: Args>(&self, args: &A, grid: Grid) -> Result<()> {
        // SAFETY: the caller's.
        unsafe { self.launch_on(Stream::Compute, args, grid) }
    }

    /// Launches a kernel on a stream.
    ///
    /// # Safety
    /// As [`Device::launch`].
    #[allow(clippy::missing_errors_doc)]
    pub(crate) unsafe fn launch_on<A: Args>(&self, stream: Stream, args: &A, grid: Grid) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        // SAFETY: the caller's.
        unsafe { self.runtime.launch(stream, A::KERNEL, grid, bytemuck::bytes_of(args)) }
    }
}

/// Two points in the compute stream, to be used again and again.
pub(crate) struct Stopwatch {
    device: Device,
    begin: EventId,
    end: EventId,
}

impl Stopwatch {
    pub(crate) fn new(device: &Device) -> Result<Stopwatch> {
        Ok(Stopwatch { device: device.clone(), begin: device.runtime.event()?, end: device.runtime.event()? })
    }

    /// See [`Device::time`].
    pub(crate) fn time(&self, work: impl FnOnce() -> Result<()>) -> Result<f64> {
        let runtime = &self.device.runtime;
        runtime.record(Stream::Compute, self.begin)?;
        work()?;
        runtime.record(Stream::Compute, self.end)?;
        self.device.synchronize()?;
        runtime.seconds_between(self.begin, self.end)
    }
}

impl Graph {
    /// Issues all of it.
    ///
    /// # Errors
    /// The driver's.
    pub fn replay(&self) -> Result<()> {
        // SAFETY: memory that was there when it was captured is not freed before the graph.
        unsafe { self.device.runtime.replay(self.id) }
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.device.runtime.drop_graph(self.id);
        self.device.release();
    }
}

fn bytes_of<T>(len: usize, what: &'static str) -> Result<usize> {
    let too_large = Error::OutOfMemory { what, wanted_bytes: usize::MAX, free_bytes: None };
    Ok(len.checked_mul(size_of::<T>()).ok_or(too_large)?.max(16))
}

impl<T: Pod> Memory<T> {
    /// Values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes that the values take.
    pub fn len_bytes(&self) -> usize {
        self.len * size_of::<T>()
    }

    /// The device it is on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Where it begins on the GPU.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// Address of value `start`, which and the `len - 1` after it there must be.
    ///
    /// # Panics
    /// Where there are fewer.
    pub(crate) fn at(&self, start: usize, len: usize) -> u64 {
        assert!(start <= self.len && len <= self.len - start, "{start} + {len} of {} values", self.len);
        self.address + (start * size_of::<T>()) as u64
    }

    /// Replaces values from `start` on; returns when they are there.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where the memory is shorter.
    pub fn write(&mut self, start: usize, values: &[T]) -> Result<()> {
        if values.is_empty() {
            return Ok(());
        }
        let mut staging = self.device.staging::<T>(values.len())?;
        staging.as_mut_slice().copy_from_slice(values);
        self.copy_from(start, &staging, 0, values.len())?;
        self.device.synchronize()
    }

    /// Copies `len` values from pinned memory, on the compute stream; they must stay until it is there.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where either is shorter.
    pub fn copy_from(&mut self, start: usize, from: &Pinned<T>, from_start: usize, len: usize) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let (dst, src) = (self.at(start, len), &from.as_slice()[from_start..from_start + len]);
        // SAFETY: both have `len` values. Pinned memory is freed only after the stream is done with it.
        unsafe { self.device.runtime.copy_in(Stream::Compute, dst, src.as_ptr().cast(), size_of_val(src)) }
    }

    /// Copies `len` values from `start` on to pinned memory, on the compute stream; they may be looked at when it is there.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where either is shorter.
    pub fn copy_to(&self, start: usize, to: &mut Pinned<T>, len: usize) -> Result<()> {
        let (src, dst) = (self.at(start, len), &mut to.as_mut_slice()[..len]);
        // SAFETY: both have `len` values. Pinned memory is freed only after the stream is done with it.
        unsafe { self.device.runtime.copy_out(Stream::Compute, dst.as_mut_ptr().cast(), src, size_of_val(dst)) }
    }

    /// Values `start..start + out.len()`, when everything issued before is done.
    ///
    /// # Errors
    /// The driver's, also of what was issued before.
    ///
    /// # Panics
    /// Where there are fewer.
    pub fn read(&self, start: usize, out: &mut [T]) -> Result<()> {
        if out.is_empty() {
            return Ok(());
        }
        let staging = self.device.staging::<T>(out.len())?;
        let src = self.at(start, out.len());
        // SAFETY: both have as many values, and nobody looks at them before the stream is there.
        unsafe { self.device.runtime.copy_out(Stream::Compute, staging.address.cast(), src, size_of_val(out)) }?;
        self.device.synchronize()?;
        out.copy_from_slice(staging.as_slice());
        Ok(())
    }

    /// All values.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); self.len];
        self.read(0, &mut values)?;
        Ok(values)
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let mut held = self.device.held();
        if held.n_graphs > 0 {
            held.memories.push(self.address);
            return;
        }
        // SAFETY: it was allocated by this runtime, which waits for what was issued, and nobody has it any more.
        unsafe { self.device.runtime.free(self.address) };
    }
}

impl<T> std::fmt::Debug for Memory<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("len", &self.len).finish_non_exhaustive()
    }
}

// SAFETY: pinned memory is owned by its handle alone, and values of plain data may go to any thread.
unsafe impl<T: Pod> Send for Pinned<T> {}
// SAFETY: shared handles only read.
unsafe impl<T: Pod> Sync for Pinned<T> {}

impl<T: Pod> Pinned<T> {
    /// The values. Copies to them that were issued must be done.
    pub fn as_slice(&self) -> &[T] {
        // SAFETY: `len` values were allocated and set to zero; all bit patterns are values.
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    /// The values, to change them. Copies from and to them that were issued must be done.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        // SAFETY: as above, and `self` is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.address, self.len) }
    }
}

impl<T> std::fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pinned").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let bytes = (self.len * size_of::<T>()).max(16);
        let mut held = self.device.held();
        if held.n_graphs > 0 && !self.is_transient {
            held.pinned.push((self.address as usize, bytes));
            return;
        }
        // SAFETY: as many bytes were allocated by this runtime, and nobody has them any more.
        unsafe { self.device.runtime.free_pinned(self.address.cast(), bytes) };
    }
}
