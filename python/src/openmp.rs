//! The threads of the OpenMP runtime that a framework has brought into the process. PyTorch's wait for work by spinning,
//! for some milliseconds, on the cores that threads of our own would need: what is decoded between two of its operations
//! takes half as long on its own threads. Goes in: work. Comes out: whether there was such a runtime, and so it is done.

use std::any::Any;
use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Starts a parallel region: (function, its argument, threads or 0 for the runtime's own number, flags). The interface
/// between programs that GCC compiled and libgomp, which the runtimes of LLVM and Intel have as well.
type Parallel = unsafe extern "C" fn(extern "C" fn(*mut c_void), *mut c_void, c_uint, c_uint);

struct Region<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    n_items: usize,
    n_taken: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// The process that imported this module: in one that was forked from it, the runtime's threads do not exist.
static PROCESS: OnceLock<u32> = OnceLock::new();

/// To be called once, when the module is imported.
pub fn remember_process() {
    PROCESS.get_or_init(std::process::id);
}

/// Does `work` for all of `0..n_items`, on as many threads as the framework was told to use; false, and nothing done,
/// where there is no OpenMP in the process, or the process is a fork.
///
/// # Panics
/// If `work` does.
pub fn run(n_items: usize, work: &(dyn Fn(usize) + Sync)) -> bool {
    if PROCESS.get() != Some(&std::process::id()) {
        return false;
    }
    let Some(parallel) = find() else { return false };
    let region = Region { work, n_items, n_taken: AtomicUsize::new(0), panic: Mutex::new(None) };
    // SAFETY: `find` gives a function of that type. It calls `enter` on each thread with this pointer, and returns when
    // all calls have: the region outlives them, and is shared only by what is `Sync`.
    unsafe { parallel(enter, std::ptr::from_ref(&region).cast_mut().cast(), 0, 0) };
    if let Some(payload) = region.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
        resume_unwind(payload);
    }
    true
}

/// One thread's part of a region. Nothing unwinds out of it, into code that is not Rust's.
extern "C" fn enter(region: *mut c_void) {
    // SAFETY: the region of `run`, which waits for this call.
    let region = unsafe { &*region.cast_const().cast::<Region<'_>>() };
    let done = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let item = region.n_taken.fetch_add(1, Ordering::Relaxed);
            if item >= region.n_items {
                return;
            }
            (region.work)(item);
        }
    }));
    if let Err(payload) = done {
        region.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
    }
}

/// Looked up each time: a framework may be imported at any time, and this takes less than a microsecond.
#[cfg(target_os = "linux")]
fn find() -> Option<Parallel> {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"GOMP_parallel".as_ptr()) };
    // SAFETY: what has this name is a function of this type: it is part of a binary interface that does not change.
    (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Parallel>(found) })
}

#[cfg(not(target_os = "linux"))]
fn find() -> Option<Parallel> {
    None
}
