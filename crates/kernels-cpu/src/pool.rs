//! Threads that share the items of a run. Goes in: a number of items and a function of a range of them. Comes out:
//! the function has been called for every item once, by this thread and those of the pool. Next: `isa.rs`.
//!
//! A run of a decoder step lasts some microseconds, so the threads wait by spinning, briefly, before they sleep; and
//! other processes take a core away at any time, so nobody waits for a thread that has nothing in its hands. The
//! protocol, all of it on three words:
//!
//! 1. The caller writes the job, sets `n_done` to 0 and then `n_unclaimed` to the number of pieces (release).
//! 2. A thread claims one piece by taking 1 from `n_unclaimed` (acquire), where it is not 0. *Only then* it reads the
//!    job: it cannot change any more, because the caller waits for this piece. Which piece: the next of the thread's
//!    own share, or of another's where that is used up. There are as many claims as pieces, so it finds one.
//! 3. When a thread finds nothing to claim, it adds what it has done to `n_done` (release), in one addition. From
//!    then on it does not touch the job.
//! 4. The caller claims like everyone, then waits until `n_done` is the number of pieces (acquire). A thread that never
//!    woke, or came late, has claimed nothing and is not waited for: it finds `n_unclaimed` at 0 or claims of the next
//!    job.
//!
//! So the function is called only while the caller is inside [`Pool::run`], which is why it may borrow from the
//! caller's stack. A panic empties `n_unclaimed`, counts the emptied pieces as done, and goes on in the caller.

mod blocks;

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use blocks::Block;

/// How long a thread spins for what another is about to do. Longer than the pauses between the runs of a decoder
/// step, shorter than what sleeping and waking costs by much.
const SPIN: Duration = Duration::from_micros(40);
/// Polls between two looks at the clock.
const POLLS_PER_LOOK: usize = 16;
/// Times that a thread lets others go first after spinning, before it sleeps.
const N_YIELDS: usize = 4;

/// What a run calls: with a range of items, and with the index of the thread below [`Pool::n_threads`]. No two calls
/// at one time have the same index.
pub type Work<'a> = dyn Fn(Range<usize>, usize) + Sync + 'a;

/// A number of threads, one of them the caller's. Runs of several callers go one after the other.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    /// Held by the one caller whose run it is.
    turn: Mutex<()>,
}

/// The words of the protocol, each in a cache line of its own.
struct Shared {
    n_unclaimed: Line<AtomicU32>,
    /// Pieces taken of each thread's share. Shares are contiguous, so that a thread reads memory in one direction:
    /// what it has asked for ahead is what it comes to.
    n_taken: Vec<Line<AtomicU32>>,
    n_done: Line<AtomicU32>,
    /// Counts runs; workers sleep on it.
    epoch: Line<AtomicU32>,
    n_asleep: AtomicU32,
    caller_sleeps: AtomicBool,
    stop: AtomicBool,
    job: UnsafeCell<Job>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    spin: Duration,
}

/// Two lines of 64 bytes: hardware fetches them in pairs.
#[repr(align(128))]
struct Line<T>(T);

#[derive(Clone, Copy)]
struct Job {
    work: *const Work<'static>,
    n_items: usize,
    run_len: usize,
    n_pieces: u32,
}

// SAFETY: `job` is written by the caller whose turn it is while no piece is claimed, and read by holders of a claim
// only (steps 1, 2 and 4 above); the function behind the pointer is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer in `job` is not followed outside a run.
unsafe impl Send for Shared {}

thread_local! {
    /// Whether this thread is inside a run of some pool.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

impl Pool {
    /// Starts `n_threads - 1` threads beside the caller's; 0 means 1. Fewer where the system refuses more: see
    /// [`Pool::n_threads`].
    pub fn new(n_threads: usize) -> Pool {
        let n_cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shared = Arc::new(Shared {
            n_unclaimed: Line(AtomicU32::new(0)),
            n_taken: (0..n_threads.max(1)).map(|_| Line(AtomicU32::new(0))).collect(),
            n_done: Line(AtomicU32::new(0)),
            epoch: Line(AtomicU32::new(0)),
            n_asleep: AtomicU32::new(0),
            caller_sleeps: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            job: UnsafeCell::new(Job { work: &|_, _| (), n_items: 0, run_len: 1, n_pieces: 0 }),
            panic: Mutex::new(None),
            // Who spins on a core that another thread of the pool needs only delays it.
            spin: if n_threads <= n_cores { SPIN } else { Duration::ZERO },
        });
        let start = |worker_idx: usize| {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("netweight-{worker_idx}"));
            builder.spawn(move || shared.work(worker_idx)).ok()
        };
        let workers = (1..n_threads).map_while(start).collect();
        Pool { shared, workers, turn: Mutex::new(()) }
    }

    /// Threads that take part in a run, the caller's among them.
    pub fn n_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `work` for all items of `0..n_items`, in pieces of `run_len` items (the last may be shorter; 0 means 1):
    /// each piece is one call, `run_len * i .. run_len * (i + 1)`, claimed by whichever thread is free, and the index
    /// of that thread; 0 is the caller. Returns when all items are done. Allocates nothing.
    ///
    /// # Panics
    /// If `work` panics, with its payload; some items have then not been done. If called from inside a run.
    pub fn run(&self, n_items: usize, run_len: usize, work: &Work<'_>) {
        assert!(!INSIDE.get(), "a run inside a run: the outer one holds the threads");
        let least = n_items.div_ceil(u32::MAX as usize >> 1);
        let run_len = run_len.max(least).max(1);
        let turn = lock(&self.turn);
        let inside = Inside::enter();
        if self.workers.is_empty() || n_items <= run_len {
            (0..n_items).step_by(run_len).for_each(|start| work(start..(start + run_len).min(n_items), 0));
            return;
        }
        let n_pieces = self.shared.begin(work, n_items, run_len);
        self.shared.claim_all(0);
        self.shared.wait_done(n_pieces);
        let panic = lock(&self.shared.panic).take();
        drop((inside, turn));
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// [`Pool::run`] over rows: `work(first_row, rows, worker_idx)` gets `run_len` rows at a time for itself.
    ///
    /// # Panics
    /// As [`Pool::run`], and if `data` is not whole rows.
    pub fn run_rows<T: Send>(
        &self,
        data: &mut [T], // (n_rows, row_len)
        row_len: usize,
        run_len: usize,
        work: &(dyn Fn(usize, &mut [T], usize) + Sync),
    ) {
        assert!(row_len > 0 && data.len().is_multiple_of(row_len), "data is whole rows");
        let rows = Rows { start: data.as_mut_ptr(), _data: std::marker::PhantomData };
        self.run(data.len() / row_len, run_len, &|range, worker_idx| {
            // SAFETY: the range is inside 0..n_rows, and no other call gets a row of it, as a run calls once for
            // each item; `data` is borrowed mutably until the run has ended.
            let rows = unsafe { std::slice::from_raw_parts_mut(rows.at(range.start * row_len), range.len() * row_len) };
            work(range.start, rows, worker_idx);
        });
    }
}

/// Where the rows of [`Pool::run_rows`] begin.
struct Rows<'a, T> {
    start: *mut T,
    _data: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: stands for the `&mut [T]` it was made from, whose parts go to one thread each; `T` is `Send`.
unsafe impl<T: Send> Sync for Rows<'_, T> {}

impl<T> Rows<'_, T> {
    /// The element at `idx`, which lies inside the data.
    fn at(&self, idx: usize) -> *mut T {
        self.start.wrapping_add(idx)
    }
}

impl Shared {
    /// Step 1: publishes a job, and wakes who sleeps.
    fn begin(&self, work: &Work<'_>, n_items: usize, run_len: usize) -> u32 {
        let n_pieces = n_items.div_ceil(run_len) as u32; // fits: `run` made run_len large enough
        // SAFETY: only the lifetime changes. The pointer is followed by holders of a claim, and `run` does not return
        // before every claimed piece is done.
        let work: *const Work<'static> = unsafe { std::mem::transmute(std::ptr::from_ref(work)) };
        // SAFETY: the caller's turn, and no piece is claimed: the run before has ended.
        unsafe { *self.job.get() = Job { work, n_items, run_len, n_pieces } };
        self.n_taken.iter().for_each(|n_taken| n_taken.0.store(0, Ordering::Relaxed));
        self.n_done.0.store(0, Ordering::Relaxed);
        self.n_unclaimed.0.store(n_pieces, Ordering::SeqCst);
        self.epoch.0.fetch_add(1, Ordering::SeqCst);
        // A worker counts itself asleep before it sleeps on the epoch it has seen, so either it is counted here, or
        // it finds the epoch changed.
        if self.n_asleep.load(Ordering::SeqCst) > 0 {
            atomic_wait::wake_all(&self.epoch.0);
        }
        n_pieces
    }

    /// Steps 2 and 3: claims pieces and does them until none is left, then counts them.
    fn claim_all(&self, worker_idx: usize) {
        let (mut n_done, mut n_pieces) = (0, 0);
        while let Some(job) = self.claim() {
            let start = self.take(&job, worker_idx) * job.run_len;
            let range = start..(start + job.run_len).min(job.n_items);
            // SAFETY: the claimed piece is not counted as done yet, so the caller is inside `run`, which borrows `work`.
            let work = unsafe { &*job.work };
            n_done += 1;
            n_pieces = job.n_pieces;
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(range, worker_idx))) {
                n_done += self.n_unclaimed.0.swap(0, Ordering::Relaxed);
                lock(&self.panic).get_or_insert(payload);
            }
        }
        if n_done > 0 && self.n_done.0.fetch_add(n_done, Ordering::SeqCst) + n_done == n_pieces {
            // The caller says that it sleeps before it looks at `n_done` for the last time.
            if self.caller_sleeps.load(Ordering::SeqCst) {
                atomic_wait::wake_all(&self.n_done.0);
            }
        }
    }

    /// Step 2: the right to one piece, if one is left.
    fn claim(&self) -> Option<Job> {
        let mut n_left = self.n_unclaimed.0.load(Ordering::Relaxed);
        while n_left > 0 {
            match self.n_unclaimed.0.compare_exchange_weak(n_left, n_left - 1, Ordering::Acquire, Ordering::Relaxed) {
                // SAFETY: the claim is for the job that stands there, which stays until the piece is counted as done.
                Ok(_) => return Some(unsafe { *self.job.get() }),
                Err(now) => n_left = now,
            }
        }
        None
    }

    /// Step 2: which piece, for who has claimed one.
    fn take(&self, job: &Job, worker_idx: usize) -> usize {
        let n_threads = self.n_taken.len();
        let begin = |thread: usize| job.n_pieces as usize * thread / n_threads;
        for thread in (worker_idx..n_threads).chain(0..worker_idx) {
            let piece = begin(thread) + self.n_taken[thread].0.fetch_add(1, Ordering::Relaxed) as usize;
            if piece < begin(thread + 1) {
                return piece;
            }
        }
        unreachable!("as many claims as pieces")
    }

    /// Step 4: waits until every piece is done.
    fn wait_done(&self, n_pieces: u32) {
        if self.poll(|| self.n_done.0.load(Ordering::Acquire) == n_pieces) {
            return;
        }
        self.caller_sleeps.store(true, Ordering::SeqCst);
        loop {
            let n_done = self.n_done.0.load(Ordering::SeqCst);
            if n_done == n_pieces {
                break;
            }
            atomic_wait::wait(&self.n_done.0, n_done);
        }
        self.caller_sleeps.store(false, Ordering::Relaxed);
    }

    /// The life of a worker.
    fn work(&self, worker_idx: usize) {
        INSIDE.set(true);
        loop {
            self.claim_all(worker_idx);
            let is_wanted = || self.n_unclaimed.0.load(Ordering::Relaxed) > 0 || self.stop.load(Ordering::Relaxed);
            if !self.poll(is_wanted) {
                let epoch = self.epoch.0.load(Ordering::SeqCst);
                self.n_asleep.fetch_add(1, Ordering::SeqCst);
                if self.n_unclaimed.0.load(Ordering::SeqCst) == 0 && !self.stop.load(Ordering::SeqCst) {
                    atomic_wait::wait(&self.epoch.0, epoch);
                }
                self.n_asleep.fetch_sub(1, Ordering::SeqCst);
            }
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
        }
    }

    /// Spins, then lets others go first, for a bounded time, until `is_so`. Returns whether it became so.
    fn poll(&self, is_so: impl Fn() -> bool) -> bool {
        if is_so() {
            return true;
        }
        let start = Instant::now();
        while start.elapsed() < self.spin {
            for _ in 0..POLLS_PER_LOOK {
                if is_so() {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        (0..N_YIELDS).any(|_| {
            std::thread::yield_now();
            is_so()
        })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.shared.epoch.0.fetch_add(1, Ordering::SeqCst);
        atomic_wait::wake_all(&self.shared.epoch.0);
        for worker in self.workers.drain(..) {
            // A worker catches every panic of a job, so joining cannot fail.
            let _ = worker.join();
        }
    }
}

/// Marks this thread as inside a run for as long as it lives.
struct Inside;

impl Inside {
    fn enter() -> Inside {
        INSIDE.set(true);
        Inside
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        INSIDE.set(false);
    }
}

/// What a mutex here guards is whole after a panic too.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

#[cfg(test)]
mod tests;
