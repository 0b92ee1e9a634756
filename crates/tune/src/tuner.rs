//! A model that is being tuned: its matrices, what feeds them, and the ways to quantise all of them. Goes in: a store
//! and a calibration. Comes out: grids one by one, or a model that runs with them. Next in the flow: profile.rs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::Range;
use std::sync::Arc;

use half::bf16;
use ndarray::{Array2, ArrayView2};
use netweight_engine::{CpuDecoder, Interrupt, Layout, Store};
use netweight_eval::{Comparison, Recorded};
use netweight_model::Spec;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::allocate::Allocation;
use crate::baseline::Baseline;
use crate::calibrate::Calibration;
use crate::error::{Error, Result};
use crate::hessian::{Feedback, Order};
use crate::profile::HeadSensitivity;
use crate::quantize::{Coarseness, Quantized, quantize};
use crate::weights::{MatrixInfo, matrices, read_matrix};

/// What is added to the second moments' diagonal, as a share of its mean.
pub const DAMPING: f64 = 0.01;
/// Tokens of all probes together, fewest of one, and most: what is left to chance there costs little, for precision is
/// dealt out by the root of what is found.
const PROBED_TOKENS: usize = 1 << 17;
const LEAST_PROBED_TOKENS: usize = 512;
const MOST_PROBED_TOKENS: usize = 4096;
/// What a token counts that does not occur, as a share of the mean: other texts have other tokens.
const RARE: f64 = 1.0;
/// Power of a row's weight: less than 1, which would be best for the calibration's own text only.
const FLAT: f64 = 0.3;

/// The matrices of a model and what feeds each.
pub struct Tuner<'a> {
    store: &'a Store,
    matrices: Vec<MatrixInfo>,
    feedbacks: Vec<Arc<Feedback>>, // (matrices)
    rows: Vec<Option<Vec<f32>>>,   // (matrices), each (rows)
    heads: Vec<Option<Vec<f32>>>,  // (matrices), each (rows): for Allocation::Heads
}

impl<'a> Tuner<'a> {
    /// Factors the input of every matrix, and lets go of the moments. Rows of embeddings are looked up one at a time, so
    /// their columns count alike, unless logits are computed with them. An expert that no token was sent to takes the
    /// mean input of the other experts of its layer as nobody's: its columns count alike, too. Routers stay as they are.
    ///
    /// # Errors
    /// `InvalidArgument` where moments cannot be factored.
    pub fn new(store: &'a Store, spec: &Spec, mut calibration: Calibration, order: Order) -> Result<Tuner<'a>> {
        let is_router =
            |info: &MatrixInfo| info.name.ends_with(".gate.weight") || info.name.ends_with(".router.weight");
        let matrices: Vec<MatrixInfo> = matrices(store, spec).into_iter().filter(|info| !is_router(info)).collect();
        let rows = matrices.iter().map(|info| row_factors(info, spec, &calibration)).collect();
        let heads = vec![None; matrices.len()];
        let mut known: HashMap<(Option<usize>, usize), Arc<Feedback>> = HashMap::new();
        let mut feedbacks = Vec::with_capacity(matrices.len());
        for info in &matrices {
            let key = (calibration.input_idx(&info.name), info.cols);
            let feedback = match known.entry(key) {
                Entry::Occupied(known) => Arc::clone(known.get()),
                Entry::Vacant(new) => {
                    let mean = calibration.gram(&info.name).map_or_else(|| Array2::eye(info.cols), |gram| gram.mean());
                    let feedback = Feedback::new(&mean, DAMPING, order)
                        .map_err(|error| Error::invalid(format!("{}: {error}", info.name)))?;
                    Arc::clone(new.insert(Arc::new(feedback)))
                }
            };
            feedbacks.push(feedback);
        }
        Ok(Tuner { store, matrices, feedbacks, rows, heads })
    }

    /// The matrices, in the order of the forward pass.
    pub fn matrices(&self) -> &[MatrixInfo] {
        &self.matrices
    }

    /// Weights of all matrices.
    pub fn n_weights(&self) -> usize {
        self.matrices.iter().map(|info| info.rows * info.cols).sum()
    }

    /// Tokens of a probe: fewer where there are many probes, in whole windows.
    pub fn probe_tokens(&self, window: usize) -> usize {
        let n_probes: usize = self.matrices.iter().map(|info| 1 + info.heads().count()).sum();
        (PROBED_TOKENS / n_probes.max(1)).clamp(LEAST_PROBED_TOKENS, MOST_PROBED_TOKENS).next_multiple_of(window)
    }

    /// Quantises the matrix of that index.
    ///
    /// # Errors
    /// As [`read_matrix`].
    pub fn quantize(&self, idx: usize, how: &Coarseness) -> Result<Quantized> {
        let weights = read_matrix(self.store, &self.matrices[idx])?;
        let how = Coarseness { rows: how.rows.clone().or_else(|| self.rows[idx].clone()), ..how.clone() };
        Ok(quantize(weights.view(), &self.feedbacks[idx], &how))
    }

    /// The matrix with noise in some rows: what rounding to steps of `step` would do to them. An index's error is even
    /// in a step, and error feedback spreads it by the factor, so `E = n U` with even `n`.
    ///
    /// # Errors
    /// As [`read_matrix`].
    pub fn noisy(&self, idx: usize, step: f32, rows: Range<usize>) -> Result<Array2<f32>> {
        let mut weights = read_matrix(self.store, &self.matrices[idx])?;
        let feedback = &self.feedbacks[idx];
        let mut random = Xoshiro256PlusPlus::seed_from_u64((idx as u64) << 32 | rows.start as u64);
        let noise =
            Array2::from_shape_simple_fn((rows.len(), weights.ncols()), || step * (random.random::<f32>() - 0.5));
        let errors = noise.dot(&feedback.upper);
        for (row, errors) in rows.zip(errors.rows()) {
            let factor = self.rows[idx].as_ref().map_or(1.0, |factors| factors[row]);
            feedback.order.iter().zip(errors).for_each(|(&col, error)| weights[[row, col]] += factor * error);
        }
        Ok(weights)
    }

    /// What each of the matrix's attention heads bears: by it, [`Allocation::Heads`] gives their rows steps, such that
    /// every weight causes the same divergence.
    pub fn set_heads(&mut self, idx: usize, heads: &[HeadSensitivity]) {
        let of_row = |head: &HeadSensitivity| vec![-0.5 * head.divergence.ln(); head.rows.len()];
        self.heads[idx] = (!heads.is_empty()).then(|| even(heads.iter().flat_map(of_row).collect()));
    }

    /// Whether any matrix has heads that were probed.
    pub fn has_heads(&self) -> bool {
        self.heads.iter().any(Option::is_some)
    }

    /// How a matrix is quantised with that step.
    pub fn coarseness(&self, idx: usize, step: f32, allocation: Allocation) -> Coarseness {
        let heads = self.heads[idx].as_ref().filter(|_| allocation == Allocation::Heads);
        Coarseness { rows: heads.or(self.rows[idx].as_ref()).cloned(), ..Coarseness::of_step(step) }
    }

    /// Quantises every matrix and hands each over.
    ///
    /// # Errors
    /// As [`read_matrix`]; `each`'s own; `Interrupted`.
    pub fn quantize_all(
        &self,
        steps: &[f32], // (matrices)
        allocation: Allocation,
        interrupt: &Interrupt,
        each: &mut dyn FnMut(&MatrixInfo, Quantized) -> Result<()>,
    ) -> Result<()> {
        for (idx, (info, &step)) in self.matrices.iter().zip(steps).enumerate() {
            interrupt.check()?;
            each(info, self.quantize(idx, &self.coarseness(idx, step, allocation))?)?;
        }
        Ok(())
    }

    /// Quantises every matrix, runs the model with them, and puts the model's own back.
    ///
    /// # Errors
    /// As [`Tuner::quantize_all`]; the engine's.
    pub fn measure(
        &self,
        model: &mut CpuDecoder,
        recorded: &Recorded,
        steps: &[f32], // (matrices)
        allocation: Allocation,
        interrupt: &Interrupt,
    ) -> Result<Measured> {
        let mut originals = Vec::new();
        let (mut bits, mut of_each) = (0.0, Vec::new());
        let done = self.quantize_all(steps, allocation, interrupt, &mut |info, found| {
            bits += found.bits;
            of_each.push(found.bits_per_weight());
            originals.push((info.name.clone(), model.matrix(&info.name)?));
            Ok(model.replace(&info.name, Layout::Bf16, &value_bytes(&found))?)
        });
        let comparison = done.and_then(|()| Ok(recorded.compare(model, interrupt)?));
        for (name, matrix) in originals {
            model.put(&name, matrix)?;
        }
        Ok(Measured { bits_per_weight: bits / self.n_weights() as f64, of_each, comparison: comparison? })
    }

    /// The same with another's quantiser.
    ///
    /// # Errors
    /// As [`Tuner::measure`].
    pub fn measure_baseline(
        &self,
        model: &mut CpuDecoder,
        recorded: &Recorded,
        baseline: &Baseline,
        interrupt: &Interrupt,
    ) -> Result<Measured> {
        let (mut bits, mut of_each, mut originals) = (0.0, Vec::new(), Vec::new());
        for (info, feedback) in self.matrices.iter().zip(&self.feedbacks) {
            interrupt.check()?;
            let found = baseline.run(read_matrix(self.store, info)?.view(), feedback);
            bits += found.bits;
            of_each.push(found.bits / found.weights.len() as f64);
            originals.push((info.name.clone(), model.matrix(&info.name)?));
            model.replace(&info.name, Layout::F32, &f32_bytes(found.weights.view()))?;
        }
        let comparison = recorded.compare(model, interrupt);
        for (name, matrix) in originals {
            model.put(&name, matrix)?;
        }
        Ok(Measured { bits_per_weight: bits / self.n_weights() as f64, of_each, comparison: comparison? })
    }
}

/// Steps of the rows of embeddings and head. A row of the head counts by how much divergence its logit causes, a row of
/// the embeddings by how often it is looked up, on either side with [`RARE`] on top; steps go with the inverse root of
/// that to the power of [`FLAT`].
fn row_factors(info: &MatrixInfo, spec: &Spec, calibration: &Calibration) -> Option<Vec<f32>> {
    let is_head = info.rows == spec.vocab && (!info.is_embedding || spec.is_tied);
    let counts: Vec<f64> = match (is_head, info.is_embedding) {
        (true, _) => calibration.logit_weights.clone(),
        (_, true) => calibration.token_counts.iter().map(|&count| count as f64).collect(),
        _ => return None,
    };
    let mean = counts.iter().sum::<f64>() / counts.len() as f64;
    Some(even(counts.iter().map(|count| -0.5 * FLAT * (count / mean + RARE).ln()).collect()))
}

/// Factors of those logarithms, of geometric mean 1.
fn even(ln: Vec<f64>) -> Vec<f32> {
    let middle = ln.iter().sum::<f64>() / ln.len().max(1) as f64;
    ln.iter().map(|ln| (ln - middle).exp() as f32).collect()
}

/// A tuned model beside its original.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Bits of all matrices, for each of their weights. Norms and biases stay as they are and are not counted.
    pub bits_per_weight: f64,
    /// The same of each matrix.
    pub of_each: Vec<f64>, // (matrices)
    /// How far predictions lie apart.
    pub comparison: Comparison,
}

/// Weights as little-endian bf16.
pub(crate) fn bf16_bytes(weights: ArrayView2<'_, f32>) -> Vec<u8> {
    weights.iter().flat_map(|weight| bf16::from_f32(*weight).to_le_bytes()).collect()
}

/// Values as little-endian bf16.
pub(crate) fn value_bytes(found: &Quantized) -> Vec<u8> {
    found.grid.dequantize().into_iter().flat_map(u16::to_le_bytes).collect()
}

fn f32_bytes(weights: ArrayView2<'_, f32>) -> Vec<u8> {
    weights.iter().flat_map(|weight| weight.to_le_bytes()).collect()
}
