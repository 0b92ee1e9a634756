//! Where a model is sensitive. Goes in: a tuner, a model and a text that its predictions were recorded on. Comes out:
//! for each matrix, the divergence that coarser weights cause, by forward passes alone. Next in the flow: allocate.rs.
//!
//! A matrix, alone, gets noise of the kind that rounding to some [`PROBE_BITS`] makes, but more, and the divergence is
//! measured. It goes with the square of the noise; more, because a change of activations' rounding causes a divergence,
//! too, which finer probes of one matrix do not exceed. Attention heads of queries, keys and values come first, each
//! alone: a head's rows get steps by what it bears.

use std::ops::Range;

use netweight_engine::{CpuDecoder, Interrupt, Layout};
use netweight_eval::Recorded;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::quantize::{Coarseness, Quantized};
use crate::tuner::{Tuner, bf16_bytes};
use crate::weights::MatrixInfo;

/// Bits of a weight at which a matrix is probed.
pub const PROBE_BITS: f64 = 3.5;
/// How much more noise than at these bits a matrix gets, and a head.
const NOISE: f32 = 2.0;
const HEAD_NOISE: f32 = 4.0;
/// How far from those bits a probe may be.
const NEAR_ENOUGH: f64 = 0.25;
/// Times that the step is corrected.
const N_CORRECTIONS: usize = 6;
/// Divergence below which a probe says no more than rounding does.
const LEAST_DIVERGENCE: f64 = 1e-7;

/// What one matrix can bear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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
    /// Attention heads of queries, keys or values, each of them alone; none for other matrices.
    pub heads: Vec<HeadSensitivity>,
}

/// What one attention head can bear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadSensitivity {
    /// Its rows.
    pub rows: Range<usize>,
    /// Mean divergence of the model with noise in these rows, as steps of the whole matrix's probe make it; nats.
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

/// Probes every matrix, one after the other, and its heads before it: rows of heads that count more get finer steps in
/// `tuner` from then on. `known` are the first matrices' findings of an earlier run that was the same; `each` hears of
/// every one that is new.
///
/// # Errors
/// As [`Tuner::quantize`]; the engine's; `Interrupted`.
pub fn profile(
    tuner: &mut Tuner<'_>,
    model: &mut CpuDecoder,
    recorded: &Recorded,
    known: &[Sensitivity],
    interrupt: &Interrupt,
    each: &mut dyn FnMut(&Sensitivity),
) -> Result<Vec<Sensitivity>> {
    let is_same = |(known, info): &(&Sensitivity, &MatrixInfo)| known.name == info.name;
    let n_known = known.iter().zip(tuner.matrices()).take_while(is_same).count();
    let mut found = known[..n_known].to_vec();
    for (idx, known) in found.iter().enumerate() {
        tuner.set_heads(idx, &known.heads);
    }
    for idx in n_known..tuner.matrices().len() {
        interrupt.check()?;
        let sensitivity = probe(tuner, model, recorded, idx, interrupt)?;
        each(&sensitivity);
        found.push(sensitivity);
    }
    Ok(found)
}

fn probe(
    tuner: &mut Tuner<'_>,
    model: &mut CpuDecoder,
    recorded: &Recorded,
    idx: usize,
    interrupt: &Interrupt,
) -> Result<Sensitivity> {
    let (step, quantized) = coarse(tuner, idx)?;
    let info = tuner.matrices()[idx].clone();
    let mut divergence = |values: &[u8]| -> Result<f64> {
        let original = model.matrix(&info.name)?;
        model.replace(&info.name, Layout::Bf16, values)?;
        let comparison = recorded.compare(model, interrupt);
        model.put(&info.name, original)?;
        Ok(comparison?.divergence.mean.max(LEAST_DIVERGENCE))
    };
    let mut heads = Vec::new();
    for rows in info.heads().filter(|rows| rows.len() < info.rows) {
        let noisy = tuner.noisy(idx, step * HEAD_NOISE, rows.clone())?;
        let divergence = divergence(&bf16_bytes(noisy.view()))? / f64::from(HEAD_NOISE).powi(2);
        heads.push(HeadSensitivity { rows, divergence });
    }
    tuner.set_heads(idx, &heads);
    let noisy = tuner.noisy(idx, step * NOISE, 0..info.rows)?;
    let divergence = divergence(&bf16_bytes(noisy.view()))? / f64::from(NOISE).powi(2);
    let bits = quantized.bits_per_weight();
    Ok(Sensitivity { n_weights: info.rows * info.cols, name: info.name, step, bits, divergence, heads })
}

/// A step at which the matrix has about [`PROBE_BITS`].
fn coarse(tuner: &Tuner<'_>, idx: usize) -> Result<(f32, Quantized)> {
    let mut step = 0.01;
    for _ in 0..N_CORRECTIONS {
        let quantized = tuner.quantize(idx, &Coarseness { n_passes: 1, ..Coarseness::of_step(step) })?;
        let off = quantized.bits_per_weight() - PROBE_BITS;
        if off.abs() < NEAR_ENOUGH {
            return Ok((step, quantized));
        }
        step *= (off as f32).exp2();
    }
    Ok((step, tuner.quantize(idx, &Coarseness { n_passes: 1, ..Coarseness::of_step(step) })?))
}
