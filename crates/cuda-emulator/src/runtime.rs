//! A [`Runtime`] without a GPU. The compute stream is done with everything when a call returns; the copy stream may lag
//! behind, as far as events allow.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use netweight_kernels_cuda::runtime::{EventId, Gemm, GraphId, Grid, Properties, Runtime, Stream};
use netweight_kernels_cuda::{Error, Result};

use crate::kernel;
use crate::memory::Guarded;
use crate::operation::Operation;

/// How an emulated GPU behaves.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// In which order threads and blocks take turns: 0 ascending, 1 descending, else at random with this seed.
    pub order: u64,
    /// Whether copies beside kernels happen as late as they may, and not at once.
    pub late_copies: bool,
    /// Bytes of memory.
    pub memory_bytes: usize,
    /// Whether there is a vendor's library to multiply with.
    pub has_gemm: bool,
    /// Whether launches can be captured as a graph.
    pub has_graphs: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { order: 0, late_copies: true, memory_bytes: 1 << 32, has_gemm: true, has_graphs: true }
    }
}

/// A GPU that is not there.
pub struct Emulator {
    options: Options,
    properties: Properties,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    allocations: HashMap<u64, Guarded>,
    pinned: HashMap<u64, Guarded>,
    used_bytes: usize,
    copies: VecDeque<Operation>,
    capture: Option<Vec<Operation>>,
    graphs: HashMap<u32, Vec<Operation>>,
    next_graph: u32,
    events: Vec<Instant>,
    n_launches: u64,
}

impl Emulator {
    /// A GPU as large and as old as `options` say; it says of itself that it is a small one of Ampere's kind.
    pub fn new(options: Options) -> Emulator {
        let properties = Properties {
            name: "emulated GPU".to_owned(),
            compute_capability: [8, 0],
            n_multiprocessors: 4,
            memory_bytes: options.memory_bytes as u64,
            l2_bytes: 1 << 20,
            max_shared_bytes: 99 << 10,
            driver_version: [13, 0],
        };
        Emulator { options, properties, state: Mutex::default() }
    }

    /// Kernels that ran, those of replayed graphs among them.
    pub fn n_launches(&self) -> u64 {
        self.state().n_launches
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn issue(&self, stream: Stream, operation: Operation) -> Result<()> {
        let mut state = self.state();
        match stream {
            Stream::Copy if self.options.late_copies => {
                state.copies.push_back(operation);
                Ok(())
            }
            Stream::Copy | Stream::Foreign(_) => self.run(&mut state, &operation),
            Stream::Compute => match &mut state.capture {
                Some(captured) => {
                    captured.push(operation);
                    Ok(())
                }
                None => self.run(&mut state, &operation),
            },
        }
    }

    fn run(&self, state: &mut State, operation: &Operation) -> Result<()> {
        // SAFETY: who issued the operation promised that its memory is right until its stream is there.
        unsafe {
            match operation {
                &Operation::Fill { dst, byte, len } => (dst as *mut u8).write_bytes(byte, len),
                &Operation::Copy { dst, src, len } => (dst as *mut u8).copy_from(src as *const u8, len),
                Operation::Launch { kernel, grid, args } => {
                    state.n_launches += 1;
                    kernel::launch(kernel, *grid, args, self.options.order)?;
                }
                Operation::Gemm(gemm) => multiply(gemm),
                Operation::Event(_) => (),
            }
        }
        Ok(())
    }

    /// Memory is given back only when all that was issued is done with it.
    fn finish_copies(&self, state: &mut State) {
        if let Err(error) = self.run_copies(state, None) {
            eprintln!("a copy that was issued before memory was freed: {error}");
        }
    }

    /// Runs what the copy stream has: up to where an event was last recorded, or all of it.
    fn run_copies(&self, state: &mut State, until: Option<EventId>) -> Result<()> {
        let is_event = |operation: &Operation| matches!(operation, Operation::Event(event) if Some(*event) == until);
        let n_operations = match until {
            Some(_) => state.copies.iter().rposition(is_event).map_or(0, |last| last + 1),
            None => state.copies.len(),
        };
        for operation in state.copies.drain(..n_operations).collect::<Vec<Operation>>() {
            self.run(state, &operation)?;
        }
        Ok(())
    }
}

/// Plain loops, sums in f64 and rounded once.
///
/// # Safety
/// All memory is there.
unsafe fn multiply(gemm: &Gemm) {
    let bf16 = |address: u64, idx: usize| {
        // SAFETY: the caller's.
        f64::from(f32::from_bits(u32::from(unsafe { (address as *const u16).add(idx).read() }) << 16))
    };
    for n in 0..gemm.n_rows {
        for row in 0..gemm.rows {
            let products =
                (0..gemm.cols).map(|k| bf16(gemm.x, n * gemm.x_stride + k) * bf16(gemm.w, row * gemm.w_stride + k));
            let sum = products.sum::<f64>() as f32;
            // SAFETY: the caller's.
            unsafe {
                let out = (gemm.out as *mut f32).add(n * gemm.out_stride + row);
                *out = if gemm.adds { *out + sum } else { sum };
            }
        }
    }
}

// SAFETY: allocations are fresh mappings, which stay until they are freed.
unsafe impl Runtime for Emulator {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn free_bytes(&self) -> Result<usize> {
        Ok(self.options.memory_bytes - self.state().used_bytes)
    }

    fn allocate(&self, len: usize) -> Result<u64> {
        let mut state = self.state();
        let free = self.options.memory_bytes - state.used_bytes;
        if len > free {
            return Err(Error::OutOfMemory { what: "GPU memory", wanted_bytes: len, free_bytes: Some(free) });
        }
        let memory = Guarded::new(len)?;
        let address = memory.address() as u64;
        state.used_bytes += memory.len();
        state.allocations.insert(address, memory);
        Ok(address)
    }

    unsafe fn free(&self, memory: u64) {
        let mut state = self.state();
        self.finish_copies(&mut state);
        if let Some(memory) = state.allocations.remove(&memory) {
            state.used_bytes -= memory.len();
        }
    }

    fn allocate_pinned(&self, len: usize) -> Result<*mut u8> {
        let memory = Guarded::new(len)?;
        let address = memory.address();
        self.state().pinned.insert(address as u64, memory);
        Ok(address)
    }

    unsafe fn free_pinned(&self, memory: *mut u8, _len: usize) {
        let mut state = self.state();
        self.finish_copies(&mut state);
        state.pinned.remove(&(memory as u64));
    }

    unsafe fn fill(&self, stream: Stream, dst: u64, byte: u8, len: usize) -> Result<()> {
        self.issue(stream, Operation::Fill { dst, byte, len })
    }

    unsafe fn copy_in(&self, stream: Stream, dst: u64, src: *const u8, len: usize) -> Result<()> {
        self.issue(stream, Operation::Copy { dst, src: src as u64, len })
    }

    unsafe fn copy_out(&self, stream: Stream, dst: *mut u8, src: u64, len: usize) -> Result<()> {
        self.issue(stream, Operation::Copy { dst: dst as u64, src, len })
    }

    unsafe fn launch(&self, stream: Stream, kernel: &'static str, grid: Grid, args: &[u8]) -> Result<()> {
        self.issue(stream, Operation::Launch { kernel, grid, args: args.to_vec() })
    }

    unsafe fn gemm(&self, gemm: Gemm) -> Result<bool> {
        if self.options.has_gemm {
            self.issue(Stream::Compute, Operation::Gemm(gemm))?;
        }
        Ok(self.options.has_gemm)
    }

    fn event(&self) -> Result<EventId> {
        let mut state = self.state();
        state.events.push(Instant::now());
        Ok(EventId(state.events.len() as u32 - 1))
    }

    fn record(&self, stream: Stream, event: EventId) -> Result<()> {
        self.state().events[event.0 as usize] = Instant::now();
        if stream == Stream::Copy { self.issue(stream, Operation::Event(event)) } else { Ok(()) }
    }

    fn wait(&self, stream: Stream, event: EventId) -> Result<()> {
        // The compute stream is never behind, so copies have nothing to wait for.
        if stream == Stream::Compute { self.run_copies(&mut self.state(), Some(event)) } else { Ok(()) }
    }

    fn seconds_between(&self, begin: EventId, end: EventId) -> Result<f64> {
        let state = self.state();
        Ok((state.events[end.0 as usize] - state.events[begin.0 as usize]).as_secs_f64())
    }

    fn synchronize(&self, stream: Stream) -> Result<()> {
        if stream == Stream::Copy { self.run_copies(&mut self.state(), None) } else { Ok(()) }
    }

    fn begin_capture(&self) -> Result<()> {
        if self.options.has_graphs {
            self.state().capture = Some(Vec::new());
        }
        Ok(())
    }

    fn end_capture(&self) -> Result<Option<GraphId>> {
        let mut state = self.state();
        let Some(captured) = state.capture.take() else { return Ok(None) };
        let id = state.next_graph;
        state.next_graph += 1;
        state.graphs.insert(id, captured);
        Ok(Some(GraphId(id)))
    }

    unsafe fn replay(&self, graph: GraphId) -> Result<()> {
        let mut state = self.state();
        let operations = state.graphs.get(&graph.0).cloned();
        let operations = operations.ok_or_else(|| Error::InvalidArgument("no such graph".to_owned()))?;
        operations.iter().try_for_each(|operation| self.run(&mut state, operation))
    }

    fn drop_graph(&self, graph: GraphId) {
        self.state().graphs.remove(&graph.0);
    }
}
