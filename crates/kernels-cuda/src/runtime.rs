//! What launching asks of a machine: [`Runtime`], spoken by the driver of real GPUs and by the emulator of the tests.
//! Everything here is raw; `device.rs`, next in the flow, owns memory and makes it safe.

use crate::error::Result;

/// An order of work: what is issued to one stream happens in that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Kernels, and copies that they wait for.
    Compute,
    /// Copies beside the kernels.
    Copy,
    /// Somebody else's, by the driver's handle: that of PyTorch, for one.
    Foreign(u64),
}

/// A point in a stream, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId(pub u32);

/// A captured sequence of launches and copies, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GraphId(pub u32);

/// What a GPU is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// As the driver names it.
    pub name: String,
    /// `[9, 0]` for Hopper.
    pub compute_capability: [u32; 2],
    /// Multiprocessors.
    pub n_multiprocessors: u32,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Second-level cache in bytes.
    pub l2_bytes: u64,
    /// Shared memory that one block may ask for, in bytes.
    pub max_shared_bytes: u32,
    /// `[13, 0]` for a driver of CUDA 13.0.
    pub driver_version: [u32; 2],
}

/// Blocks, and what each of them has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks in x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block: a multiple of 32.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

/// A product by the vendor's library: `out = x w^T`, all row-major.
#[derive(Clone, Copy, Debug)]
pub struct Gemm {
    /// (n_rows, cols) of bf16, rows `x_stride` apart.
    pub x: u64,
    /// Elements from one row of `x` to the next.
    pub x_stride: usize,
    /// (rows, cols) of bf16, rows `w_stride` apart.
    pub w: u64,
    /// Elements from one row of `w` to the next.
    pub w_stride: usize,
    /// (n_rows, rows) of f32, rows `out_stride` apart.
    pub out: u64,
    /// Elements from one row of `out` to the next.
    pub out_stride: usize,
    /// Rows of `x`.
    pub n_rows: usize,
    /// Rows of `w`.
    pub rows: usize,
    /// Columns of both.
    pub cols: usize,
    /// Whether the product is added to what stands in `out`.
    pub adds: bool,
}

/// A GPU, or what stands in for one. All calls may come from any thread.
///
/// # Safety
/// Memory that [`allocate`](Runtime::allocate) returns must be the caller's alone until it is freed, and
/// [`allocate_pinned`](Runtime::allocate_pinned) must return memory that the host can read and write.
#[allow(unsafe_code)]
pub unsafe trait Runtime: Send + Sync {
    /// What it is.
    fn properties(&self) -> &Properties;

    /// Bytes of GPU memory that are free now.
    ///
    /// # Errors
    /// The driver's.
    fn free_bytes(&self) -> Result<usize>;

    /// Memory of the GPU, aligned to 256 bytes, of any content. `len` is not 0.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn allocate(&self, len: usize) -> Result<u64>;

    /// Gives memory back, after everything that was issued is done with it.
    ///
    /// # Safety
    /// `memory` came from [`allocate`](Runtime::allocate) and is not used again.
    unsafe fn free(&self, memory: u64);

    /// Memory of the host that the GPU copies from and to by itself. `len` is not 0.
    ///
    /// # Errors
    /// `OutOfMemory`.
    fn allocate_pinned(&self, len: usize) -> Result<*mut u8>;

    /// Gives pinned memory back, after everything that was issued is done with it.
    ///
    /// # Safety
    /// `memory` came from [`allocate_pinned`](Runtime::allocate_pinned) with `len`, and is not used again.
    unsafe fn free_pinned(&self, memory: *mut u8, len: usize);

    /// Sets `len` bytes.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// `dst` has `len` bytes until the stream is there.
    unsafe fn fill(&self, stream: Stream, dst: u64, byte: u8, len: usize) -> Result<()>;

    /// Copies `len` bytes from pinned host memory.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// Both have `len` bytes, and `src` does not change, until the stream is there.
    unsafe fn copy_in(&self, stream: Stream, dst: u64, src: *const u8, len: usize) -> Result<()>;

    /// Copies `len` bytes to pinned host memory.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// Both have `len` bytes, and nobody else looks at `dst`, until the stream is there.
    unsafe fn copy_out(&self, stream: Stream, dst: *mut u8, src: u64, len: usize) -> Result<()>;

    /// Runs a kernel of `cu/` by its name; `args` are the bytes of its one parameter.
    ///
    /// # Errors
    /// The driver's; `InvalidArgument` where there is no such kernel.
    ///
    /// # Safety
    /// What the kernel does with memory that `args` points to must be right.
    unsafe fn launch(&self, stream: Stream, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()>;

    /// A product by the vendor's library on [`Stream::Compute`]; `false` where there is no such library.
    ///
    /// # Errors
    /// The library's.
    ///
    /// # Safety
    /// All memory must be there, until the stream is.
    unsafe fn gemm(&self, gemm: Gemm) -> Result<bool>;

    /// A new event.
    ///
    /// # Errors
    /// The driver's.
    fn event(&self) -> Result<EventId>;

    /// Moves an event to where `stream` is now.
    ///
    /// # Errors
    /// The driver's.
    fn record(&self, stream: Stream, event: EventId) -> Result<()>;

    /// Lets `stream` go on only after `event`.
    ///
    /// # Errors
    /// The driver's.
    fn wait(&self, stream: Stream, event: EventId) -> Result<()>;

    /// Seconds from one event to the other, both of which have been reached.
    ///
    /// # Errors
    /// The driver's.
    fn seconds_between(&self, begin: EventId, end: EventId) -> Result<f64>;

    /// Waits until a stream is done.
    ///
    /// # Errors
    /// The driver's, also of what was issued before.
    fn synchronize(&self, stream: Stream) -> Result<()>;

    /// From here on, what is issued to [`Stream::Compute`] is captured and not run.
    ///
    /// # Errors
    /// The driver's.
    fn begin_capture(&self) -> Result<()>;

    /// Ends a capture. `None` where this runtime cannot capture: then everything has been run.
    ///
    /// # Errors
    /// The driver's.
    fn end_capture(&self) -> Result<Option<GraphId>>;

    /// Issues all of a graph to [`Stream::Compute`].
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Safety
    /// Memory that the graph's launches and copies work on is still there.
    unsafe fn replay(&self, graph: GraphId) -> Result<()>;

    /// Forgets a graph.
    fn drop_graph(&self, graph: GraphId);
}
