//! Threads that stay: a call for one layer of one token must not start any. Goes in: how many. Comes out: a pool.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use netweight_kernels_cpu::Pool;

use crate::openmp;

/// Most threads of a pool.
const MAX_THREADS: usize = 1024;
/// Pools that are kept, one for each number of threads that was asked for.
const MAX_POOLS: usize = 4;

struct Pools {
    /// The process that started the threads: after a fork, the child has none of them.
    process: u32,
    by_threads: BTreeMap<usize, Arc<Pool>>,
}

static POOLS: Mutex<Pools> = Mutex::new(Pools { process: 0, by_threads: BTreeMap::new() });

/// The pool of `threads` threads, the caller's among them; 0 for as many as the machine runs at once.
pub fn pool(threads: usize) -> Arc<Pool> {
    let mut pools = POOLS.lock().unwrap_or_else(PoisonError::into_inner);
    if pools.process != std::process::id() {
        // Pools of the parent are left as they are: their threads do not exist here and cannot be joined.
        std::mem::forget(std::mem::take(&mut pools.by_threads));
        pools.process = std::process::id();
    }
    if let Some(pool) = pools.by_threads.get(&threads) {
        return Arc::clone(pool);
    }
    if pools.by_threads.len() >= MAX_POOLS {
        pools.by_threads.pop_last(); // Who uses it still has it; its threads end with the last user.
    }
    let n_threads = match threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get()),
        _ => threads,
    };
    let pool = Arc::new(Pool::new(n_threads.min(MAX_THREADS)));
    pools.by_threads.insert(threads, Arc::clone(&pool));
    pool
}

/// Does `work` for all of `0..n_items` on the pool, until one fails, and gives the first error.
pub fn try_run<E: Send>(pool: &Pool, n_items: usize, work: &(dyn Fn(usize) -> Result<(), E> + Sync)) -> Result<(), E> {
    let first = FirstError::new();
    pool.run(n_items, 1, &|items, _| items.for_each(|item| first.note(|| work(item))));
    first.result()
}

/// [`try_run`] between two operations of a framework: where `threads` is 0, and the framework computes with OpenMP, on
/// its threads.
pub fn try_run_beside_framework<E: Send>(
    threads: usize,
    n_items: usize,
    work: &(dyn Fn(usize) -> Result<(), E> + Sync),
) -> Result<(), E> {
    let first = FirstError::new();
    match threads == 0 && n_items > 1 && openmp::run(n_items, &|item| first.note(|| work(item))) {
        true => first.result(),
        false => try_run(&pool(threads), n_items, work),
    }
}

/// The first error of work that several threads do, who then leave the rest undone.
struct FirstError<E> {
    is_there: AtomicBool,
    error: Mutex<Option<E>>,
}

impl<E> FirstError<E> {
    fn new() -> FirstError<E> {
        FirstError { is_there: AtomicBool::new(false), error: Mutex::new(None) }
    }

    fn note(&self, work: impl FnOnce() -> Result<(), E>) {
        if self.is_there.load(Ordering::Relaxed) {
            return;
        }
        if let Err(error) = work() {
            self.is_there.store(true, Ordering::Relaxed);
            self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }

    fn result(self) -> Result<(), E> {
        self.error.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}
