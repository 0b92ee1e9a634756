//! Runs a model over a text in windows and shows each position's logits. Next in the flow: perplexity.rs, compare.rs.

use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{Decoder, Interrupt};

use crate::Error;

/// How a text is cut up: consecutive windows of `n_inputs` tokens; each window is seen with nothing before it, and
/// each token after the text's first is predicted once, with the context of its own window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// Tokens that go into the model at once, at least 1 and at most the model's positions.
    pub n_inputs: usize,
}

impl Windows {
    /// Checks that `tokens` can be scored by `model`.
    ///
    /// # Errors
    /// `InvalidArgument` where there is nothing to predict or the window does not fit.
    pub fn check<D: Decoder>(&self, model: &D, tokens: &[u32]) -> Result<(), Error> {
        if tokens.len() < 2 {
            return Err(Error::InvalidArgument(
                "the text is shorter than two tokens: there is nothing to predict".into(),
            ));
        }
        if self.n_inputs == 0 || self.n_inputs > model.max_positions() {
            let most = model.max_positions();
            return Err(Error::InvalidArgument(format!(
                "a window of {} tokens; 1 to {most} are possible",
                self.n_inputs
            )));
        }
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= model.vocab_size()) {
            return Err(Error::InvalidArgument(format!("token {token} is not in the model's vocabulary")));
        }
        Ok(())
    }

    /// The windows of a text of `n_tokens`: ranges of inputs. Input `i` predicts token `i + 1`.
    pub fn ranges(&self, n_tokens: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        let (n_predicted, n_inputs) = (n_tokens.saturating_sub(1), self.n_inputs.max(1));
        (0..n_predicted).step_by(n_inputs).map(move |start| start..(start + n_inputs).min(n_predicted))
    }
}

/// Logits of a few consecutive positions.
pub struct Rows {
    /// (`n_rows`, `vocab_size`)
    logits: Vec<f32>,
    places: Vec<Place>,
    wanted: Vec<usize>,
    vocab_size: usize,
}

impl Rows {
    /// Room for `n_rows` positions of `model`.
    pub fn new<D: Decoder>(model: &D, n_rows: usize) -> Rows {
        let vocab_size = model.vocab_size();
        Rows { logits: vec![0.0; n_rows * vocab_size], places: Vec::new(), wanted: Vec::new(), vocab_size }
    }

    /// How many positions to run at once: what the model takes, in at most 64 MiB of logits.
    pub fn fitting<D: Decoder>(model: &D) -> usize {
        let most = (64 << 20) / (4 * model.vocab_size().max(1));
        model.max_batch_tokens().min(most).max(1)
    }

    /// Runs `tokens`, the first of which stands at `position` of its window, in slot 0.
    ///
    /// # Errors
    /// The model's; `Interrupted`.
    pub fn run<D: Decoder>(
        &mut self,
        model: &mut D,
        tokens: &[u32],
        position: usize,
        interrupt: &Interrupt,
    ) -> Result<(), Error> {
        self.places.clear();
        self.places.extend((0..tokens.len()).map(|idx| Place { slot: 0, position: position + idx }));
        self.wanted.clear();
        self.wanted.extend(0..tokens.len());
        let logits = &mut self.logits[..tokens.len() * self.vocab_size];
        let batch = Batch { tokens, places: &self.places, logits_for: &self.wanted };
        model.forward(&batch, interrupt, logits).map_err(Error::from)
    }

    /// Logits of the `idx`-th token of the last run: (vocab_size).
    pub fn row(&self, idx: usize) -> &[f32] {
        &self.logits[idx * self.vocab_size..(idx + 1) * self.vocab_size]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_after_the_first_is_predicted_once() {
        let check = |n_tokens: usize, n_inputs: usize, expected: &[(usize, usize)]| {
            let found: Vec<(usize, usize)> =
                Windows { n_inputs }.ranges(n_tokens).map(|range| (range.start, range.end)).collect();
            assert_eq!(found, expected, "{n_tokens} tokens in windows of {n_inputs}");
        };
        check(0, 4, &[]);
        check(1, 4, &[]);
        check(2, 4, &[(0, 1)]);
        check(5, 4, &[(0, 4)]);
        check(6, 4, &[(0, 4), (4, 5)]);
        check(10, 3, &[(0, 3), (3, 6), (6, 9)]);
    }
}
