//! A forward pass allocates nothing, in no thread. One test stands alone here, because it counts what the whole process
//! asks for.

mod common;

use std::alloc::{GlobalAlloc, Layout as Shape, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{bookworm, fixtures, load};
use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{CpuDecoder, Decoder, Interrupt, Isa, KvType, Layout, LoadOptions, Precision};

/// Counts and passes on to the system.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;
static N_ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` as it came; counting does not allocate. The default `alloc_zeroed` and `realloc`
// call `alloc`, so they count, too.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, shape: Shape) -> *mut u8 {
        N_ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: what the caller promises is what `System` asks for.
        unsafe { System.alloc(shape) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, shape: Shape) {
        // SAFETY: `memory` came from `System` with this shape.
        unsafe { System.dealloc(memory, shape) }
    }
}

const MAX_POSITIONS: usize = 64;

/// Some tokens from a position of a slot on.
type Run = (usize, usize, usize); // slot, first position, n_tokens

/// Prompts and steps, of one sequence and of several, from a single token to a full batch.
const PASSES: [&[Run]; 7] = [
    &[(0, 0, 32)],                                                // a prompt as long as a batch
    &[(0, 32, 1)],                                                // a step
    &[(1, 0, 7), (0, 33, 1)],                                     // a prompt beside a step
    &[(0, 34, 1), (1, 7, 1), (2, 0, 1)],                          // a step of three sequences
    &[(2, 1, 20), (1, 8, 9), (0, 35, 3)],                         // three prompts
    &[(0, 38, 16)],                                               // a chunk far from the beginning
    &[(0, 20, 1), (1, 17, 1), (2, 21, 1), (3, 0, 1), (4, 0, 28)], // one went back, one is new
];

/// What is handed to forward passes, made before anything is counted.
struct Prepared {
    tokens: Vec<u32>,
    places: Vec<Place>,
    logits_for: Vec<usize>,
    logits: Vec<f32>, // (n_wanted, vocab)
}

fn prepare(model: &CpuDecoder, runs: &[Run], wants_all: bool) -> Prepared {
    let place =
        |&(slot, first, n_tokens): &Run| (first..first + n_tokens).map(move |position| Place { slot, position });
    let places: Vec<Place> = runs.iter().flat_map(place).collect();
    let n_tokens = places.len();
    let logits_for: Vec<usize> = if wants_all { (0..n_tokens).collect() } else { vec![n_tokens - 1] };
    let token = |idx: usize| (idx * 7 % model.vocab_size()) as u32;
    let logits = vec![0.0; logits_for.len() * model.vocab_size()];
    Prepared { tokens: (0..n_tokens).map(token).collect(), places, logits_for, logits }
}

/// How often each pass is counted. A thread that comes to its first piece of work late, as on a busy machine, sets up
/// what a thread has once; that must not happen every time.
const N_ROUNDS: usize = 5;

/// Runs all passes once to wake every thread, and then again.
fn check(path: &Path, options: &LoadOptions) {
    let options = LoadOptions { n_slots: 5, max_positions: Some(MAX_POSITIONS), max_batch_tokens: Some(32), ..*options };
    let mut model = load(path, &options);
    let passes = PASSES.iter().enumerate().map(|(idx, runs)| prepare(&model, runs, idx % 2 == 1));
    let mut passes: Vec<Prepared> = passes.collect();
    let interrupt = Interrupt::new();
    let mut least = [usize::MAX; PASSES.len()];
    for round in 0..=N_ROUNDS {
        for (idx, Prepared { tokens, places, logits_for, logits }) in passes.iter_mut().enumerate() {
            let before = N_ALLOCATIONS.load(Ordering::SeqCst);
            let done = model.forward(&Batch { tokens, places, logits_for }, &interrupt, logits);
            let n_allocations = N_ALLOCATIONS.load(Ordering::SeqCst) - before;
            done.unwrap_or_else(|error| panic!("{}: pass {idx}: {error}", path.display()));
            if round > 0 {
                least[idx] = least[idx].min(n_allocations);
            }
        }
    }
    assert_eq!(least, [0; PASSES.len()], "allocations of each pass: {}, {options:?}", path.display());
}

#[test]
fn a_forward_pass_allocates_nothing() {
    let before = N_ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(N_ALLOCATIONS.load(Ordering::SeqCst) > before, "allocations are not counted");

    let options = LoadOptions { n_threads: 2, ..LoadOptions::default() };
    for layout in [Layout::Exact11, Layout::Exact12, Layout::Bf16] {
        let options = LoadOptions { layout: Some(layout), ..options };
        check(&bookworm(), &options);
        let others = LoadOptions { n_threads: 1, precision: Some(Precision::F32), kv_type: KvType::F32, ..options };
        check(&bookworm(), &others);
    }
    for isa in Isa::available() {
        check(&bookworm(), &LoadOptions { isa: Some(isa), ..options });
    }
    // Experts, windows, softcaps, norms and rotations of all kinds.
    fixtures().iter().for_each(|folder| check(folder, &options));
}
