//! Perplexity: how surprised a model is by a text. Goes in: a model and tokens. Comes out: a [`Perplexity`].

use netweight_engine::{Decoder, Interrupt};

use crate::score::score;
use crate::stats::mean_and_error;
use crate::windows::{Rows, Windows};
use crate::{Error, Progress};

/// The perplexity of a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    /// Tokens that were predicted.
    pub n_predicted: usize,
    /// Mean negative log-likelihood in nats.
    pub mean_nll: f64,
    /// Standard error of that mean, over windows.
    pub standard_error: f64,
}

impl Perplexity {
    /// exp of the mean negative log-likelihood.
    pub fn value(&self) -> f64 {
        self.mean_nll.exp()
    }

    /// Standard error of the perplexity, to first order.
    pub fn value_error(&self) -> f64 {
        self.value() * self.standard_error
    }
}

/// Scores `tokens` window by window.
///
/// # Errors
/// `InvalidArgument` as of [`Windows::check`]; the model's; `Interrupted`.
pub fn perplexity<D: Decoder>(
    model: &mut D,
    tokens: &[u32],
    windows: Windows,
    interrupt: &Interrupt,
    progress: &mut Progress<'_>,
) -> Result<Perplexity, Error> {
    windows.check(model, tokens)?;
    let n_rows = Rows::fitting(model);
    let mut rows = Rows::new(model, n_rows);
    let mut nlls = Vec::with_capacity(tokens.len() - 1);
    for window in windows.ranges(tokens.len()) {
        let mut at = window.start;
        while at < window.end {
            let inputs = at..(at + n_rows).min(window.end);
            rows.run(model, &tokens[inputs.clone()], at - window.start, interrupt)?;
            nlls.extend(inputs.clone().map(|idx| score(rows.row(idx - at), tokens[idx + 1]).nll));
            at = inputs.end;
            progress(nlls.len(), tokens.len() - 1);
        }
    }
    let (mean_nll, standard_error) = mean_and_error(&nlls, windows.n_inputs);
    Ok(Perplexity { n_predicted: nlls.len(), mean_nll, standard_error })
}
