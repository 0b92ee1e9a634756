//! How precise each matrix is to be. Goes in: a profile and a budget. Comes out: steps that meet it, measured.
//!
//! Entropy coding makes bits continuous, so one multiplier does: where `D` is a matrix's divergence, proportional to its
//! squared step, and each of its `n` weights has `-log2 step` bits and a constant, the sum of bits at a given sum of `D`
//! is least where `D / n` is the same for all (reverse water-filling). Equal bits for all are tried too.

use netweight_engine::{CpuDecoder, Interrupt};
use netweight_eval::{Comparison, Recorded};

use crate::error::{Error, Result};
use crate::profile::Sensitivity;
use crate::tuner::{Measured, Tuner};

/// Fewest and most bits of a weight that are tried.
pub const BITS_RANGE: [f64; 2] = [1.0, 8.0];
/// Times that a multiplier is tried.
const N_TRIALS: usize = 8;
/// How close to a budget in bits is close enough, below it.
const BITS_TOLERANCE: f64 = 0.01;
/// How close to a budget of loss is close enough, as a share of it, below it.
const LOSS_TOLERANCE: f64 = 0.03;

/// How precision is dealt out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// By what each matrix can bear.
    Sensitivity,
    /// And within queries, keys and values by what each attention head can bear.
    Heads,
    /// The same bits for all.
    Uniform,
}

/// What the user pays at most.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    /// Bits of a weight, over all matrices.
    Bits(f64),
    /// Mean divergence on held-out text, in nats.
    Divergence(f64),
    /// Rise of perplexity on held-out text: 0.005 is half a percent.
    PerplexityRise(f64),
}

impl Budget {
    /// What is to be paid, of `measured`; the budget is what it may be.
    fn paid(&self, measured: &Measured) -> f64 {
        let Comparison { divergence, ln_ratio, .. } = &measured.comparison;
        match self {
            Budget::Bits(_) => measured.bits_per_weight,
            Budget::Divergence(_) => divergence.mean,
            Budget::PerplexityRise(_) => ln_ratio.mean.exp_m1(),
        }
    }

    fn most(&self) -> f64 {
        let (Budget::Bits(most) | Budget::Divergence(most) | Budget::PerplexityRise(most)) = *self;
        most
    }

    /// The least that is acceptable without another trial.
    fn least(&self) -> f64 {
        match self {
            Budget::Bits(most) => most - BITS_TOLERANCE,
            _ => self.most() * (1.0 - LOSS_TOLERANCE),
        }
    }

    /// Whether more bits pay more of it.
    fn is_of_bits(&self) -> bool {
        matches!(self, Budget::Bits(_))
    }
}

/// Steps that meet a budget, and what came of them.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How precision was dealt out.
    pub allocation: Allocation,
    /// (matrices)
    pub steps: Vec<f32>,
    /// With these steps.
    pub measured: Measured,
}

/// Steps of every matrix such that the mean bits are about `bits`.
pub fn allocate(profile: &[Sensitivity], allocation: Allocation, bits: f64) -> Vec<f32> {
    if allocation == Allocation::Uniform {
        return profile.iter().map(|matrix| matrix.step_of(bits)).collect();
    }
    let n_weights: usize = profile.iter().map(|matrix| matrix.n_weights).sum();
    // The step at which a weight causes a unit of divergence.
    let unit = |matrix: &Sensitivity| {
        f64::from(matrix.step) * (matrix.n_weights as f64 / (n_weights as f64 * matrix.divergence)).sqrt()
    };
    let steps = |ln: f64| -> Vec<f32> { profile.iter().map(|matrix| (unit(matrix) * ln.exp()) as f32).collect() };
    let mean_bits = |steps: &[f32]| {
        let bits = profile.iter().zip(steps).map(|(matrix, &step)| matrix.bits_at(step) * matrix.n_weights as f64);
        bits.sum::<f64>() / n_weights as f64
    };
    let (mut least, mut most) = (-40.0, 40.0);
    for _ in 0..60 {
        let middle = 0.5 * (least + most);
        if mean_bits(&steps(middle)) > bits { least = middle } else { most = middle }
    }
    steps(most)
}

/// Looks for the steps that pay the most of the budget without exceeding it, by measuring: bisection over bits, with the
/// secant as first guess. `tell` hears of every trial.
///
/// # Errors
/// `Budget` where nothing in [`BITS_RANGE`] meets it; as [`Tuner::measure`].
#[allow(clippy::too_many_arguments)] // what is tuned, on what, by what, for what
pub fn search(
    tuner: &Tuner<'_>,
    model: &mut CpuDecoder,
    recorded: &Recorded,
    profile: &[Sensitivity],
    allocation: Allocation,
    budget: Budget,
    interrupt: &Interrupt,
    tell: &mut dyn FnMut(f64, &Measured),
) -> Result<Plan> {
    let mut best: Option<Plan> = None;
    let mut nearest: Option<f64> = None;
    let [mut low, mut high] = BITS_RANGE;
    let mut bits = if let Budget::Bits(bits) = budget { bits.clamp(low, high) } else { 5.0 };
    for _ in 0..N_TRIALS {
        let steps = allocate(profile, allocation, bits);
        let measured = tuner.measure(model, recorded, &steps, allocation, interrupt)?;
        tell(bits, &measured);
        let paid = budget.paid(&measured);
        nearest = Some(nearest.map_or(paid, |nearest| nearest.min(paid)));
        let is_met = paid <= budget.most();
        let is_close = is_met && paid >= budget.least();
        if is_met == budget.is_of_bits() {
            low = bits
        } else {
            high = bits
        }
        if is_met && best.as_ref().is_none_or(|best| budget.paid(&best.measured) < paid) {
            best = Some(Plan { allocation, steps, measured });
        }
        if is_close || high - low < 0.01 {
            break;
        }
        bits = guess(budget, bits, paid).filter(|guess| (low..high).contains(guess)).unwrap_or(0.5 * (low + high));
    }
    best.ok_or_else(|| Error::Budget { best: format!("{:.6}", nearest.unwrap_or(f64::NAN)) })
}

/// Bits at which the budget would be met, just, if bits were as predicted but for a constant, and loss fell by 4 with
/// each bit.
fn guess(budget: Budget, bits: f64, paid: f64) -> Option<f64> {
    let guess = match budget {
        Budget::Bits(most) => bits + (most - 0.4 * BITS_TOLERANCE) - paid,
        _ => bits + 0.5 * (paid / (budget.most() * (1.0 - 0.4 * LOSS_TOLERANCE))).log2(),
    };
    guess.is_finite().then_some(guess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(n_weights: usize, step: f32, bits: f64, divergence: f64) -> Sensitivity {
        Sensitivity { name: String::new(), n_weights, step, bits, divergence, heads: Vec::new() }
    }

    #[test]
    fn every_weight_causes_the_same_divergence() {
        let profile = [matrix(1000, 0.1, 3.5, 1e-3), matrix(4000, 0.02, 3.4, 1e-5), matrix(500, 3.0, 3.6, 1e-4)];
        let steps = allocate(&profile, Allocation::Sensitivity, 4.0);
        let shares: Vec<f64> =
            profile.iter().zip(&steps).map(|(m, &step)| m.divergence_at(step) / m.n_weights as f64).collect();
        assert!(shares.iter().all(|share| (share / shares[0] - 1.0).abs() < 1e-4), "{shares:?}");
        let bits: f64 = profile.iter().zip(&steps).map(|(m, &step)| m.bits_at(step) * m.n_weights as f64).sum();
        assert!((bits / 5500.0 - 4.0).abs() < 1e-3, "{bits}");
    }

    /// No change of two steps that keeps the bits makes the divergence less.
    #[test]
    fn it_is_the_least_divergence() {
        let profile = [matrix(1000, 0.1, 3.5, 1e-3), matrix(3000, 0.02, 3.4, 1e-5)];
        let steps = allocate(&profile, Allocation::Sensitivity, 4.0);
        let total = |steps: &[f32]| -> f64 { profile.iter().zip(steps).map(|(m, &step)| m.divergence_at(step)).sum() };
        for change in [-0.3f32, -0.03, 0.03, 0.3] {
            let other = [steps[0] * change.exp2(), steps[1] * (-change / 3.0).exp2()];
            assert!(total(&other) > total(&steps), "{change}");
        }
        assert!(total(&allocate(&profile, Allocation::Uniform, 4.0)) > total(&steps));
    }

    #[test]
    fn uniform_is_the_same_bits() {
        let profile = [matrix(10, 0.1, 3.5, 1e-3), matrix(30, 0.02, 3.0, 1e-5)];
        let steps = allocate(&profile, Allocation::Uniform, 5.0);
        assert!(profile.iter().zip(&steps).all(|(m, &step)| (m.bits_at(step) - 5.0).abs() < 1e-4));
    }
}
