//! How far a model's predictions lie from another's on the same tokens. Goes in: two models and a text. Comes out: a
//! [`Comparison`], each figure paired token by token.

use netweight_engine::{Decoder, Interrupt};

use crate::perplexity::Perplexity;
use crate::score::{divergence, score};
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

impl Columns {
    fn push(&mut self, base_row: &[f32], other_row: &[f32], token: u32) {
        let (base, other) = (score(base_row, token), score(other_row, token));
        self.base_nll.push(base.nll);
        self.other_nll.push(other.nll);
        self.change.push((-other.nll).exp() - (-base.nll).exp());
        self.same_top.push(if base.top == other.top { 1.0 } else { 0.0 });
        if base_row.iter().zip(other_row).all(|(a, b)| a.to_bits() == b.to_bits()) {
            self.n_identical += 1;
            self.divergence.push(0.0);
            self.acceptance.push(1.0);
            return;
        }
        self.divergence.push(divergence((base_row, base.ln_total), (other_row, other.ln_total)));
        let pairs = base_row.iter().zip(other_row);
        let probability = |logit: f32, ln_total: f64| (f64::from(logit) - ln_total).exp();
        self.acceptance
            .push(pairs.map(|(&p, &q)| probability(p, base.ln_total).min(probability(q, other.ln_total))).sum());
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
    if base.vocab_size() != other.vocab_size() {
        let (ours, theirs) = (other.vocab_size(), base.vocab_size());
        return Err(Error::InvalidArgument(format!("vocabularies of {ours} and {theirs} tokens cannot be compared")));
    }
    let n_rows = Rows::fitting(base).min(Rows::fitting(other));
    let (mut base_rows, mut other_rows) = (Rows::new(base, n_rows), Rows::new(other, n_rows));
    let mut columns = Columns::default();
    for window in windows.ranges(tokens.len()) {
        let mut at = window.start;
        while at < window.end {
            let inputs = at..(at + n_rows).min(window.end);
            base_rows.run(base, &tokens[inputs.clone()], at - window.start, interrupt)?;
            other_rows.run(other, &tokens[inputs.clone()], at - window.start, interrupt)?;
            for idx in inputs.clone() {
                columns.push(base_rows.row(idx - at), other_rows.row(idx - at), tokens[idx + 1]);
            }
            at = inputs.end;
            progress(columns.change.len(), tokens.len() - 1);
        }
    }
    Ok(columns.finish(windows.n_inputs))
}
