//! Runs a model over text and keeps what its linear layers see. Goes in: a model and tokens. Comes out: the second
//! moments of every layer's input. Next in the flow: hessian.rs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{Activations, CpuDecoder, Decoder, Interrupt};
use netweight_eval::Windows;
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::gram::Gram;

/// Fewest tokens of a calibration text.
pub const MIN_TOKENS: usize = 256;

/// What enters each linear layer, on average.
#[derive(Debug, Default)]
pub struct Calibration {
    grams: Vec<Gram>,
    by_name: HashMap<String, usize>,
    /// Tokens that were run.
    pub n_tokens: usize,
    /// How often each token was run.
    pub token_counts: Vec<u64>, // (vocab)
    /// The sum, over positions, of each token's `p (1 - p)`: how much divergence an error of its logit causes.
    pub logit_weights: Vec<f64>, // (vocab)
}

impl Calibration {
    /// Of the layer whose matrix has that name; `None` where nothing ever entered it, as with an expert that no token
    /// was sent to.
    pub fn gram(&mut self, name: &str) -> Option<&mut Gram> {
        self.by_name.get(name).map(|&idx| &mut self.grams[idx])
    }

    /// Which of the inputs a matrix has: those with the same number share it.
    pub fn input_idx(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    fn see(&mut self, seen: &Activations<'_>) -> Result<()> {
        let Some(first) = seen.names.first() else { return Ok(()) };
        let idx = match self.by_name.get(*first) {
            Some(&idx) => idx,
            None => {
                self.grams.push(Gram::new(seen.cols));
                let idx = self.grams.len() - 1;
                self.by_name.extend(seen.names.iter().map(|name| ((*name).to_owned(), idx)));
                idx
            }
        };
        for row in seen.rows() {
            if !row.iter().all(|value| value.is_finite()) {
                return Err(Error::NotFinite { layer: (*first).to_owned() });
            }
            self.grams[idx].push(row);
        }
        Ok(())
    }
}

/// What the observer shares with the loop that runs the model.
#[derive(Default)]
struct Shared {
    calibration: Calibration,
    error: Option<Error>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `tokens` through the model in `windows`. `progress` hears of tokens done, of how many.
///
/// # Errors
/// `TextTooShort`; `NotFinite`, which names the layer; the engine's; `Interrupted`.
pub fn calibrate(
    model: &mut CpuDecoder,
    tokens: &[u32],
    windows: Windows,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Calibration> {
    if tokens.len() < MIN_TOKENS {
        return Err(Error::TextTooShort { n_tokens: tokens.len(), least: MIN_TOKENS });
    }
    windows.check(model, tokens)?;
    let shared = Arc::new(Mutex::new(Shared::default()));
    let seeing = Arc::clone(&shared);
    model.observe(move |seen| {
        let Shared { calibration, error } = &mut *lock(&seeing);
        if error.is_none() {
            *error = calibration.see(&seen).err();
        }
    });
    let mut logit_weights = vec![0.0; model.vocab_size()];
    let mut seen = |logits: &[f32]| add_variances(logits, &mut logit_weights);
    let done = run(model, tokens, windows, interrupt, &shared, &mut seen, progress);
    model.stop_observing();
    done?;
    let mut calibration = std::mem::take(&mut lock(&shared).calibration);
    calibration.grams.iter_mut().for_each(Gram::flush);
    calibration.n_tokens = tokens.len() - 1;
    calibration.token_counts = vec![0; logit_weights.len()];
    tokens.iter().for_each(|&token| calibration.token_counts[token as usize] += 1);
    calibration.logit_weights = logit_weights;
    Ok(calibration)
}

/// Adds `p (1 - p)` of each token over rows of logits.
fn add_variances(logits: &[f32], sums: &mut [f64]) {
    let vocab_size = sums.len();
    let rows: Vec<(f32, f32)> = logits
        .par_chunks_exact(vocab_size)
        .map(|row| {
            let most = row.iter().fold(f32::NEG_INFINITY, |most, &logit| most.max(logit));
            let total: f64 = row.iter().map(|&logit| f64::from((logit - most).exp())).sum();
            (most, (1.0 / total) as f32)
        })
        .collect();
    // By spans of tokens, so that every sum is added up in the order of rows.
    const SPAN: usize = 512;
    sums.par_chunks_mut(SPAN).enumerate().for_each(|(idx, sums)| {
        for (row, (most, factor)) in logits.chunks_exact(vocab_size).zip(&rows) {
            for (sum, logit) in sums.iter_mut().zip(&row[idx * SPAN..]) {
                let probability = (logit - most).exp() * factor;
                *sum += f64::from(probability * (1.0 - probability).max(0.0));
            }
        }
    });
}

#[allow(clippy::too_many_arguments)] // a loop's inputs, and who hears of it
fn run(
    model: &mut CpuDecoder,
    tokens: &[u32],
    windows: Windows,
    interrupt: &Interrupt,
    shared: &Mutex<Shared>,
    seen: &mut dyn FnMut(&[f32]),
    progress: &mut dyn FnMut(usize, usize),
) -> Result<()> {
    let (vocab_size, n_at_once) = (model.vocab_size(), model.max_batch_tokens());
    let mut logits = vec![0.0; vocab_size * n_at_once];
    for window in windows.ranges(tokens.len()) {
        for begin in window.clone().step_by(n_at_once) {
            let tokens = &tokens[begin..window.end.min(begin + n_at_once)];
            let place = |idx: usize| Place { slot: 0, position: begin - window.start + idx };
            let places: Vec<Place> = (0..tokens.len()).map(place).collect();
            // Logits of all tokens, so that what enters the head is seen.
            let wanted: Vec<usize> = (0..tokens.len()).collect();
            let batch = Batch { tokens, places: &places, logits_for: &wanted };
            model.forward(&batch, interrupt, &mut logits[..tokens.len() * vocab_size])?;
            if let Some(error) = lock(shared).error.take() {
                return Err(error);
            }
            seen(&logits[..tokens.len() * vocab_size]);
        }
        progress(window.end, tokens.len() - 1);
    }
    Ok(())
}
