//! Times and what becomes of them: rates with their spread.

use std::time::{Duration, Instant};

use cpu_time::ThreadTime;
use serde::Serialize;

/// What one measurement took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// CPU time of all threads together, in seconds.
    pub(crate) cpu_s: f64,
    /// Time that passed, in seconds.
    pub(crate) wall_s: f64,
}

impl Timing {
    pub(crate) fn and(self, other: Timing) -> Timing {
        Timing { cpu_s: self.cpu_s + other.cpu_s, wall_s: self.wall_s + other.wall_s }
    }
}

/// Median, least and most of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Median.
    pub median: f64,
    /// Least.
    pub min: f64,
    /// Most.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl Iterator<Item = f64>) -> Spread {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Spread { median, min: sorted[0], max: sorted[sorted.len() - 1] }
    }
}

/// GB of original data per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rate {
    /// Per second of CPU time, all threads together.
    pub per_cpu_second: Spread,
    /// Per second that passed.
    pub per_second: Spread,
}

impl Rate {
    /// Of timings, at least one, each of `len_bytes` bytes.
    pub(crate) fn of(len_bytes: usize, timings: &[Timing]) -> Rate {
        let gigabytes = len_bytes as f64 / 1e9;
        // A clock may stand still over a tiny measurement.
        let rate = |seconds: f64| gigabytes / seconds.max(1e-9);
        Rate {
            per_cpu_second: Spread::of(timings.iter().map(|timing| rate(timing.cpu_s))),
            per_second: Spread::of(timings.iter().map(|timing| rate(timing.wall_s))),
        }
    }
}

/// Calls `work` on as many threads as `workers` has elements, each with its own; gives the CPU time of all and
/// the time that passed. One worker runs on the calling thread.
///
/// # Errors
/// The first worker's error.
pub(crate) fn timed<W: Send, E: Send>(
    workers: &mut [W],
    work: impl Fn(&mut W) -> Result<(), E> + Sync,
) -> Result<Timing, E> {
    let one = |worker: &mut W| {
        let start = ThreadTime::now();
        work(worker).map(|()| start.elapsed())
    };
    let start = Instant::now();
    let cpu_times: Result<Vec<Duration>, E> = match workers {
        [worker] => one(worker).map(|cpu| vec![cpu]),
        workers => std::thread::scope(|scope| {
            let handles: Vec<_> = workers.iter_mut().map(|worker| scope.spawn(|| one(worker))).collect();
            handles.into_iter().map(|handle| handle.join().expect("workers do not panic")).collect()
        }),
    };
    let wall_s = start.elapsed().as_secs_f64();
    Ok(Timing { cpu_s: cpu_times?.iter().map(Duration::as_secs_f64).sum(), wall_s })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spreads() {
        let check = |values: &[f64], median: f64, min: f64, max: f64| {
            assert_eq!(Spread::of(values.iter().copied()), Spread { median, min, max });
        };
        check(&[3.0], 3.0, 3.0, 3.0);
        check(&[3.0, 1.0, 2.0], 2.0, 1.0, 3.0);
        check(&[4.0, 1.0, 2.0, 3.0], 2.5, 1.0, 4.0);
    }
}
