//! How far a model's predictions lie from another's on the same tokens. Goes in: two models and a text. Comes out: a
//! [`Comparison`], each figure paired token by token.

use netweight_engine::{Decoder, Interrupt};
use rayon::prelude::*;

use crate::perplexity::Perplexity;
use crate::score::{distance, score};
use crate::stats::{Summary, mean_and_error};
use crate::windows::{Rows, Windows};
use crate::{Error, Progress};

/// A model against a base, on the same tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The base's perplexity.
    pub base: Perplexity,
    /// The other model's.
    pub other: Perplexity,
    /// ln of the other's perplexity over the base's, token by token.
    pub ln_ratio: Summary,
    /// Kullback-Leibler divergence of the other from the base, in nats.
    pub divergence: Summary,
    /// The other's probability of the token that came, less the base's.
    pub probability_change: Summary,
    /// Root of the mean square of that change.
    pub probability_change_rms: f64,
    /// Share of positions where both find the same token most likely.
    pub same_top: f64,
    /// Standard error of that share, over windows.
    pub same_top_error: f64,
    /// Expected share of the other's tokens that the base accepts in speculative sampling: mean of sum min(p, q)
    /// (Leviathan et al. 2023, section 3.3).
    pub acceptance: Summary,
    /// Positions at which all logits have the same bits.
    pub n_identical: usize,
}

#[derive(Default)]
struct Columns {
    base_nll: Vec<f64>,
    other_nll: Vec<f64>,
    divergence: Vec<f64>,
    change: Vec<f64>,
    same_top: Vec<f64>,
    acceptance: Vec<f64>,
    n_identical: usize,
}

/// What one position says of both models.
struct Pair {
    base_nll: f64,
    other_nll: f64,
    divergence: f64,
    same_top: bool,
    acceptance: f64,
    is_identical: bool,
}

impl Pair {
    fn of(base_row: &[f32], other_row: &[f32], token: u32) -> Pair {
        let (base, other) = (score(base_row, token), score(other_row, token));
        let is_identical = base_row.iter().zip(other_row).all(|(a, b)| a.to_bits() == b.to_bits());
        let (mut divergence, mut acceptance) = (0.0, 1.0);
        if !is_identical {
            (divergence, acceptance) = distance((base_row, base.ln_total), (other_row, other.ln_total));
        }
        let same_top = base.top == other.top;
        Pair { base_nll: base.nll, other_nll: other.nll, divergence, same_top, acceptance, is_identical }
    }
}

impl Columns {
    fn push(&mut self, pair: &Pair) {
        self.base_nll.push(pair.base_nll);
        self.other_nll.push(pair.other_nll);
        self.change.push((-pair.other_nll).exp() - (-pair.base_nll).exp());
        self.same_top.push(if pair.same_top { 1.0 } else { 0.0 });
        self.divergence.push(pair.divergence);
        self.acceptance.push(pair.acceptance);
        self.n_identical += usize::from(pair.is_identical);
    }

    fn finish(&self, block: usize) -> Comparison {
        let perplexity = |nlls: &[f64]| {
            let (mean_nll, standard_error) = mean_and_error(nlls, block);
            Perplexity { n_predicted: nlls.len(), mean_nll, standard_error }
        };
        let ln_ratio: Vec<f64> = self.base_nll.iter().zip(&self.other_nll).map(|(base, other)| other - base).collect();
        let squares: f64 = self.change.iter().map(|change| change * change).sum();
        let (same_top, same_top_error) = mean_and_error(&self.same_top, block);
        Comparison {
            base: perplexity(&self.base_nll),
            other: perplexity(&self.other_nll),
            ln_ratio: Summary::of(&ln_ratio, block),
            divergence: Summary::of(&self.divergence, block),
            probability_change: Summary::of(&self.change, block),
            probability_change_rms: (squares / self.change.len().max(1) as f64).sqrt(),
            same_top,
            same_top_error,
            acceptance: Summary::of(&self.acceptance, block),
            n_identical: self.n_identical,
        }
    }
}

/// Runs both models over `tokens`, window by window.
///
/// # Errors
/// `InvalidArgument` where the vocabularies differ in size, or as of [`Windows::check`]; the models'; `Interrupted`.
pub fn compare<B: Decoder, O: Decoder>(
    base: &mut B,
    other: &mut O,
    tokens: &[u32],
    windows: Windows,
    interrupt: &Interrupt,
    progress: &mut Progress<'_>,
) -> Result<Comparison, Error> {
    windows.check(base, tokens)?;
    windows.check(other, tokens)?;
    check_vocabularies(base.vocab_size(), other.vocab_size())?;
    let n_rows = Rows::fitting(base).min(Rows::fitting(other));
    let (mut base_rows, mut other_rows) = (Rows::new(base, n_rows), Rows::new(other, n_rows));
    let mut columns = Columns::default();
    for window in windows.ranges(tokens.len()) {
        for at in window.clone().step_by(n_rows) {
            let inputs = at..(at + n_rows).min(window.end);
            base_rows.run(base, &tokens[inputs.clone()], at - window.start, interrupt)?;
            other_rows.run(other, &tokens[inputs.clone()], at - window.start, interrupt)?;
            let pair = |idx: usize| Pair::of(base_rows.row(idx - at), other_rows.row(idx - at), tokens[idx + 1]);
            let pairs: Vec<Pair> = inputs.into_par_iter().map(pair).collect();
            pairs.iter().for_each(|pair| columns.push(pair));
            progress(columns.change.len(), tokens.len() - 1);
        }
    }
    Ok(columns.finish(windows.n_inputs))
}

/// A base's logits on a text, kept in memory for comparing many models with it.
pub struct Recorded {
    tokens: Vec<u32>,
    windows: Windows,
    vocab_size: usize,
    logits: Vec<f32>, // (tokens - 1, vocab_size)
}

impl Recorded {
    /// Runs `base` over `tokens`, window by window.
    ///
    /// # Errors
    /// As [`Windows::check`]; the model's; `Interrupted`.
    pub fn new<B: Decoder>(
        base: &mut B,
        tokens: &[u32],
        windows: Windows,
        interrupt: &Interrupt,
    ) -> Result<Recorded, Error> {
        windows.check(base, tokens)?;
        let (n_rows, vocab_size) = (Rows::fitting(base), base.vocab_size());
        let (mut rows, mut logits) = (Rows::new(base, n_rows), Vec::new());
        for window in windows.ranges(tokens.len()) {
            for at in window.clone().step_by(n_rows) {
                let inputs = at..(at + n_rows).min(window.end);
                rows.run(base, &tokens[inputs.clone()], at - window.start, interrupt)?;
                inputs.for_each(|idx| logits.extend_from_slice(rows.row(idx - at)));
            }
        }
        Ok(Recorded { tokens: tokens.to_vec(), windows, vocab_size, logits })
    }

    /// Runs `other` over the same tokens: what [`compare`] finds.
    ///
    /// # Errors
    /// `InvalidArgument` where the vocabularies differ in size; as [`compare`].
    pub fn compare<O: Decoder>(&self, other: &mut O, interrupt: &Interrupt) -> Result<Comparison, Error> {
        self.windows.check(other, &self.tokens)?;
        check_vocabularies(self.vocab_size, other.vocab_size())?;
        let n_rows = Rows::fitting(other);
        let (mut rows, mut columns) = (Rows::new(other, n_rows), Columns::default());
        for window in self.windows.ranges(self.tokens.len()) {
            for at in window.clone().step_by(n_rows) {
                let inputs = at..(at + n_rows).min(window.end);
                rows.run(other, &self.tokens[inputs.clone()], at - window.start, interrupt)?;
                let base_row = |idx: usize| &self.logits[idx * self.vocab_size..(idx + 1) * self.vocab_size];
                let pair = |idx: usize| Pair::of(base_row(idx), rows.row(idx - at), self.tokens[idx + 1]);
                let pairs: Vec<Pair> = inputs.into_par_iter().map(pair).collect();
                pairs.iter().for_each(|pair| columns.push(pair));
            }
        }
        Ok(columns.finish(self.windows.n_inputs))
    }
}

fn check_vocabularies(base: usize, other: usize) -> Result<(), Error> {
    if base == other {
        return Ok(());
    }
    Err(Error::InvalidArgument(format!("vocabularies of {other} and {base} tokens cannot be compared")))
}
