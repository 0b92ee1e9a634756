//! Who takes turns, and how long their calls take. Next in the flow: linear.rs.

use std::time::Instant;

use crate::device::{Device, Graph, Stopwatch};
use crate::error::Result;

/// Calls are repeated until a timing is about this long, in seconds.
const LEAST_SECONDS: f64 = 1e-3;
/// Calls of one timing, at most.
const MAX_CALLS: usize = 512;

/// Seconds of one call, over all rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// Median.
    pub seconds: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

impl Timing {
    /// Of seconds, at least one.
    ///
    /// # Panics
    /// Where there is none.
    pub fn of(mut seconds: Vec<f64>) -> Timing {
        seconds.sort_by(f64::total_cmp);
        let (n, half) = (seconds.len(), seconds.len() / 2);
        let median = if n % 2 == 1 { seconds[half] } else { (seconds[half - 1] + seconds[half]) / 2.0 };
        Timing { seconds: median, least: seconds[0], most: seconds[n - 1] }
    }
}

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Rounds, at least 1.
    pub rounds: usize,
    /// Seconds after which no further round begins.
    pub seconds: f64,
}

/// Calls that are timed.
pub struct Contender<'a> {
    n_works: usize,
    can_capture: bool,
    issue: Box<dyn FnMut(usize) -> Result<()> + 'a>,
}

impl<'a> Contender<'a> {
    /// `issue(idx)` issues one call, on the `idx`-th of `n_works` things in turn.
    pub fn new(n_works: usize, issue: impl FnMut(usize) -> Result<()> + 'a) -> Contender<'a> {
        Contender { n_works: n_works.max(1), can_capture: true, issue: Box::new(issue) }
    }

    /// The same, which no graph can capture.
    #[must_use]
    pub fn never_captured(self) -> Contender<'a> {
        Contender { can_capture: false, ..self }
    }
}

/// A contender at the start: warm, with as many calls as make a timing.
struct Ready<'c, 'a> {
    contender: &'c mut Contender<'a>,
    n_calls: usize,
    graph: Option<Graph>,
    seconds: Vec<f64>, // (rounds)
}

impl<'c, 'a> Ready<'c, 'a> {
    fn new(device: &Device, watch: &Stopwatch, contender: &'c mut Contender<'a>) -> Result<Ready<'c, 'a>> {
        let n_works = contender.n_works;
        let mut ready = Ready { contender, n_calls: n_works, graph: None, seconds: Vec::new() };
        (ready.contender.issue)(0)?; // Loads the kernel.
        device.synchronize()?;
        let seconds = watch.time(|| ready.issue())?;
        let n_passes = (LEAST_SECONDS / seconds.max(1e-9)).ceil().clamp(1.0, (MAX_CALLS / n_works).max(1) as f64);
        ready.n_calls = n_works * n_passes as usize;
        if ready.contender.can_capture {
            device.begin_capture()?;
            let issued = ready.issue();
            let graph = device.end_capture();
            issued?;
            ready.graph = graph?;
        }
        ready.run()?;
        device.synchronize()?;
        Ok(ready)
    }

    fn issue(&mut self) -> Result<()> {
        (0..self.n_calls).try_for_each(|idx| (self.contender.issue)(idx % self.contender.n_works))
    }

    fn run(&mut self) -> Result<()> {
        match &self.graph {
            Some(graph) => graph.replay(),
            None => self.issue(),
        }
    }
}

/// Seconds that a call of each contender takes, in the order in which they are given.
///
/// # Errors
/// The driver's, and those of the calls.
pub fn time(device: &Device, contenders: &mut [Contender<'_>], effort: Effort) -> Result<Vec<Timing>> {
    let watch = Stopwatch::new(device)?;
    let ready = contenders.iter_mut().map(|contender| Ready::new(device, &watch, contender));
    let mut ready = ready.collect::<Result<Vec<Ready<'_, '_>>>>()?;
    let begin = Instant::now();
    for _ in 0..effort.rounds.max(1) {
        for one in &mut ready {
            let seconds = watch.time(|| one.run())?;
            one.seconds.push(seconds / one.n_calls as f64);
        }
        if begin.elapsed().as_secs_f64() > effort.seconds {
            break;
        }
    }
    Ok(ready.into_iter().map(|one| Timing::of(one.seconds)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let check = |seconds: &[f64], expected: [f64; 3]| {
            let [seconds_of, least, most] = expected;
            assert_eq!(Timing::of(seconds.to_vec()), Timing { seconds: seconds_of, least, most });
        };
        check(&[3.0], [3.0, 3.0, 3.0]);
        check(&[3.0, 1.0], [2.0, 1.0, 3.0]);
        check(&[3.0, 1.0, 9.0], [3.0, 1.0, 9.0]);
    }
}
