//! Where a model is sensitive. Goes in: a tuner, a model and a text that its predictions were recorded on. Comes out:
//! for each matrix, the divergence that coarser weights cause, by forward passes alone. Next in the flow: allocate.rs.
//!
//! A matrix is quantised to some [`PROBE_BITS`], alone, and the divergence is measured. It goes with the square of the
//! step, as long as the step is fine; which is why the step is first brought to where the bits are as wished.

use netweight_engine::{CpuDecoder, Interrupt, Layout};
use netweight_eval::Recorded;

use crate::error::Result;
use crate::quantize::Coarseness;
use crate::tuner::{Tuner, value_bytes};

/// Bits of a weight at which a matrix is probed.
pub const PROBE_BITS: f64 = 3.5;
/// How far from those bits a probe may be.
const NEAR_ENOUGH: f64 = 0.25;
/// Times that the step is corrected.
const N_CORRECTIONS: usize = 6;
/// Divergence below which a probe says no more than rounding does.
const LEAST_DIVERGENCE: f64 = 1e-7;

/// What one matrix can bear.
#[derive(Clone, Debug, PartialEq)]
pub struct Sensitivity {
    /// Its name.
    pub name: String,
    /// Its weights.
    pub n_weights: usize,
    /// The step of the probe.
    pub step: f32,
    /// Bits of a weight at that step.
    pub bits: f64,
    /// Mean divergence of the model with this matrix alone so coarse, in nats.
    pub divergence: f64,
}

impl Sensitivity {
    /// Bits that a step will take, for fine steps.
    pub fn bits_at(&self, step: f32) -> f64 {
        (self.bits - f64::from(step / self.step).log2()).max(0.0)
    }

    /// The step that takes so many bits.
    pub fn step_of(&self, bits: f64) -> f32 {
        self.step * ((self.bits - bits) as f32).exp2()
    }

    /// Divergence that a step will cause.
    pub fn divergence_at(&self, step: f32) -> f64 {
        self.divergence * f64::from(step / self.step).powi(2)
    }
}

/// Probes every matrix, one after the other. `progress` hears of matrices done, of how many.
///
/// # Errors
/// As [`Tuner::quantize`]; the engine's; `Interrupted`.
pub fn profile(
    tuner: &Tuner<'_>,
    model: &mut CpuDecoder,
    recorded: &Recorded,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Sensitivity>> {
    let infos = tuner.matrices();
    let mut found = Vec::with_capacity(infos.len());
    for (idx, info) in infos.iter().enumerate() {
        interrupt.check()?;
        let mut step = 0.01;
        let mut quantized = tuner.quantize(idx, &Coarseness { n_passes: 1, ..Coarseness::of_step(step) })?;
        for _ in 0..N_CORRECTIONS {
            let off = quantized.bits_per_weight() - PROBE_BITS;
            if off.abs() < NEAR_ENOUGH {
                break;
            }
            step *= (off as f32).exp2();
            quantized = tuner.quantize(idx, &Coarseness { n_passes: 1, ..Coarseness::of_step(step) })?;
        }
        let original = model.matrix(&info.name)?;
        model.replace(&info.name, Layout::Bf16, &value_bytes(&quantized))?;
        let comparison = recorded.compare(model, interrupt);
        model.put(&info.name, original)?;
        let divergence = comparison?.divergence.mean.max(LEAST_DIVERGENCE);
        let (name, n_weights, bits) = (info.name.clone(), info.rows * info.cols, quantized.bits_per_weight());
        found.push(Sensitivity { name, n_weights, step, bits, divergence });
        progress(idx + 1, infos.len());
    }
    Ok(found)
}
