//! A pool of threads, each with its encoder, decoder and buffers, which are kept from one chunk to the next.

use std::sync::{Mutex, PoisonError};

use netweight_codec::{Decoder, Encoder, Level};
use netweight_container::{Error, Result};
use rayon::{ThreadPool, ThreadPoolBuilder};

const MIN_BATCH_BYTES: usize = 16 << 20;
const MAX_BATCH_BYTES: usize = 64 << 20;
const BATCH_BYTES_PER_THREAD: usize = 4 << 20;

/// What one thread works with.
pub(crate) struct Worker {
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,
    /// Bytes of a chunk as read from an archive.
    pub(crate) chunk: Vec<u8>,
    /// Bytes that a chunk stands for.
    pub(crate) raw: Vec<u8>,
    /// Indices of a grid, and those of some of its rows.
    pub(crate) indices: [Vec<u8>; 2],
    /// Of a refinement: a chunk of indices as read, and the elements of each class.
    pub(crate) base: Vec<u8>,
    pub(crate) classes: Vec<Vec<u8>>,
}

impl Worker {
    pub(crate) fn new(level: Level) -> Worker {
        Worker {
            encoder: Encoder::new(level),
            decoder: Decoder::new(),
            chunk: Vec::new(),
            raw: Vec::new(),
            indices: Default::default(),
            base: Vec::new(),
            classes: Vec::new(),
        }
    }
}

/// More are asked for by mistake, and a machine that starts them all stands still.
const MAX_THREADS: usize = 1024;

/// The threads of one verb.
pub(crate) struct Workers {
    pool: ThreadPool,
    slots: Vec<Mutex<Worker>>,
}

impl Workers {
    /// `threads`: 0 for as many as the machine runs at once.
    pub(crate) fn new(threads: usize, level: Level) -> Result<Workers> {
        if threads > MAX_THREADS {
            return Err(Error::invalid(format!("{threads} threads; at most {MAX_THREADS} can be asked for")));
        }
        let pool = ThreadPoolBuilder::new().num_threads(threads).build();
        let pool = pool.map_err(|error| Error::invalid(format!("cannot start the threads: {error}")))?;
        let slots = (0..pool.current_num_threads()).map(|_| Mutex::new(Worker::new(level))).collect();
        Ok(Workers { pool, slots })
    }

    /// Runs `work` inside the pool.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// Lends the calling thread its worker. `work` must not wait for other work of the pool.
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Worker) -> T) -> T {
        let slot_idx = self.pool.current_thread_index().unwrap_or(0);
        let mut worker = self.slots[slot_idx].lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut worker)
    }

    /// Bytes of originals to hold in one batch. The output does not depend on it.
    pub(crate) fn batch_bytes(&self) -> usize {
        (self.slots.len() * BATCH_BYTES_PER_THREAD).clamp(MIN_BATCH_BYTES, MAX_BATCH_BYTES)
    }

    /// Number of threads.
    pub(crate) fn n_threads(&self) -> usize {
        self.slots.len()
    }
}
