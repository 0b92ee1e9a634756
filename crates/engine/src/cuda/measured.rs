//! Takes the times that a choice is made of, once for each GPU and shape. Goes in: shapes. Comes out: [`Known`] times of
//! them. Next in the flow: choose.rs.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::measure::{Effort, Linears, Setup, Way};
use netweight_kernels_cuda::{Device, Error as GpuError, Layout, Loader};

use super::choose::BUCKETS;
use super::known::{Known, ManyTokens, ShapeTimes};
use crate::{Error, Interrupt, Result};

/// Numbers of tokens with which the vendor's GEMM is tried.
const MANY: [usize; 4] = [64, 128, 256, 512];

/// What was measured in this process: files may not be to be had.
static MEASURED: Mutex<Option<Known>> = Mutex::new(None);

/// How much measuring may take.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Seconds after which nothing more is begun.
    pub seconds: f64,
    /// Times that weights stand in memory, at most.
    pub max_copies: usize,
    /// Rounds of each comparison.
    pub rounds: usize,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { seconds: 2.0, max_copies: 32, rounds: 9 }
    }
}

/// Times of all shapes, as far as the budget goes: those that this process or the file at `path` knows, and others newly
/// measured, which both then know. The first shape is also measured with many tokens.
///
/// # Errors
/// `Interrupted`; `Device` where the GPU fails.
pub fn times(
    device: &Device,
    shapes: &[Shape],
    path: Option<&Path>,
    budget: Budget,
    interrupt: &Interrupt,
) -> Result<Known> {
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let mut known = measured.take().unwrap_or_else(|| path.map_or_else(Known::nothing, Known::read));
    let done = measure(device, shapes, &mut known, budget, interrupt);
    if let (true, Some(path)) = (!matches!(done, Ok(false)), path) {
        known.write(path);
    }
    *measured = Some(known.clone());
    done.map(|_| known)
}

/// Measures what is not known yet; whether there was anything. A shape that cannot be had, for example for want of memory,
/// stays unknown: it will be said by who needs it.
fn measure(
    device: &Device,
    shapes: &[Shape],
    known: &mut Known,
    budget: Budget,
    interrupt: &Interrupt,
) -> Result<bool> {
    let begin = Instant::now();
    let mut loader = None;
    let mut is_new = false;
    for (idx, &shape) in shapes.iter().enumerate() {
        let with_many = idx == 0;
        let is_known = known.seconds(device, shape).is_some();
        if is_known && !(with_many && known.gemm_from(device, shape).is_none()) {
            continue;
        }
        if begin.elapsed().as_secs_f64() > budget.seconds {
            break;
        }
        match time_shape(device, &mut loader, shape, with_many, budget, interrupt) {
            Ok(times) => known.note(device, times),
            Err(error @ (Error::Interrupted | Error::Device(GpuError::Driver { .. }))) => return Err(error),
            Err(_) => continue,
        }
        is_new = true;
    }
    Ok(is_new)
}

fn time_shape(
    device: &Device,
    loader: &mut Option<Loader>,
    shape: Shape,
    with_many: bool,
    budget: Budget,
    interrupt: &Interrupt,
) -> Result<ShapeTimes> {
    let begin = Instant::now();
    let loader = match loader {
        Some(loader) => loader,
        None => loader.insert(Loader::new(device)?),
    };
    let max_tokens = if with_many { MANY[MANY.len() - 1] } else { BUCKETS[BUCKETS.len() - 1] };
    let linears = Linears::new(device, loader, shape, Setup { max_tokens, max_copies: budget.max_copies, seed: 1 })?;
    let effort = Effort { rounds: budget.rounds, seconds: budget.seconds / 32.0 };
    let mut buckets = Vec::with_capacity(BUCKETS.len());
    for n_tokens in BUCKETS {
        interrupt.check()?;
        buckets.push(linears.time(n_tokens, &Layout::ALL.map(Way::Fused), effort)?);
    }
    let seconds_of = |idx: usize| {
        let mut seconds = [0.0; BUCKETS.len()];
        for (seconds, timings) in seconds.iter_mut().zip(&buckets) {
            *seconds = timings[idx]?.seconds;
        }
        Some(seconds)
    };
    let seconds: Vec<_> = Layout::ALL.into_iter().enumerate().map(|(idx, layout)| (layout, seconds_of(idx))).collect();
    let with_one = |(_, seconds): &&(Layout, Option<[f64; BUCKETS.len()]>)| seconds.map_or(f64::INFINITY, |of| of[0]);
    let fastest = seconds.iter().min_by(|a, b| with_one(a).total_cmp(&with_one(b))).map_or(Layout::Rows, |of| of.0);
    let mut many = Vec::new();
    for n_tokens in MANY.into_iter().filter(|_| with_many) {
        interrupt.check()?;
        if begin.elapsed().as_secs_f64() > budget.seconds {
            break;
        }
        let timings = linears.time(n_tokens, &[Way::Fused(fastest), Way::Vendor(fastest)], effort)?;
        let [Some(fused), Some(vendor)] = timings[..] else { break };
        many.push(ManyTokens { n_tokens, fused: fused.seconds, vendor: vendor.seconds });
    }
    Ok(ShapeTimes {
        rows: shape.rows,
        cols: shape.cols,
        seconds: seconds.into_iter().map(|(layout, seconds)| (layout.name().to_owned(), seconds)).collect(),
        many: with_many.then_some(many),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use netweight_cuda_emulator::{Emulator, Options};

    use super::*;

    const BUDGET: Budget = Budget { seconds: 1.0, max_copies: 1, rounds: 1 };

    fn measure(device: &Device, shapes: &[Shape], known: &mut Known, budget: Budget) -> bool {
        super::measure(device, shapes, known, budget, &Interrupt::new()).expect("a GPU that works")
    }

    fn emulator() -> (Arc<Emulator>, Device) {
        let emulator = Arc::new(Emulator::new(Options { memory_bytes: 1 << 28, ..Options::default() }));
        (emulator.clone(), Device::new(emulator))
    }

    /// Measured once, then read: another process finds the file.
    #[test]
    fn once_for_each_shape() {
        let (emulator, device) = emulator();
        let shapes = [Shape { rows: 64, cols: 256 }, Shape { rows: 256, cols: 64 }];
        let mut known = Known::nothing();
        assert!(measure(&device, &shapes[..1], &mut known, BUDGET));
        let n_launches = emulator.n_launches();
        assert!(!measure(&device, &shapes[..1], &mut known, BUDGET) && emulator.n_launches() == n_launches);
        let seconds = known.seconds(&device, shapes[0]).expect("times");
        assert!(seconds.len() > 1 && seconds.iter().all(|(_, of)| of.iter().all(|of| *of > 0.0)));
        assert!(known.gemm_from(&device, shapes[0]).is_some_and(|from| from >= 65));
        assert_eq!(known.seconds(&device, shapes[1]), None);
        // The second as the first of another model: also with many tokens.
        assert!(measure(&device, &shapes, &mut known, Budget { seconds: 60.0, ..BUDGET }));
        assert!(known.seconds(&device, shapes[1]).is_some() && known.gemm_from(&device, shapes[1]).is_none());
        assert!(measure(&device, &shapes[1..], &mut known, BUDGET) && known.gemm_from(&device, shapes[1]).is_some());
    }

    #[test]
    fn no_time_and_no_memory_leave_shapes_unknown() {
        let (_, device) = emulator();
        let mut known = Known::nothing();
        let shape = Shape { rows: 64, cols: 256 };
        assert!(!measure(&device, &[shape], &mut known, Budget { seconds: -1.0, ..BUDGET }));
        assert!(!measure(&device, &[Shape { rows: 1 << 20, cols: 1 << 12 }], &mut known, BUDGET));
        assert_eq!(known, Known::nothing());
    }

    #[test]
    fn who_is_interrupted_measures_nothing_more() {
        let (_, device) = emulator();
        let (mut known, interrupt) = (Known::nothing(), Interrupt::new());
        interrupt.set();
        let done = super::measure(&device, &[Shape { rows: 64, cols: 256 }], &mut known, BUDGET, &interrupt);
        assert!(matches!(done, Err(Error::Interrupted)) && known == Known::nothing());
    }

    /// What this process knows needs no file; a file is written where it can be.
    #[test]
    fn files_are_written() {
        let (emulator, device) = emulator();
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("times.json");
        let shapes = [Shape { rows: 48, cols: 192 }];
        let known = times(&device, &shapes, Some(&path), BUDGET, &Interrupt::new()).expect("times");
        assert!(
            known.seconds(&device, shapes[0]).is_some() && Known::read(&path).seconds(&device, shapes[0]).is_some()
        );
        let n_launches = emulator.n_launches();
        let again = times(&device, &shapes, None, BUDGET, &Interrupt::new()).expect("times");
        assert_eq!((again, emulator.n_launches()), (known, n_launches));
    }
}
