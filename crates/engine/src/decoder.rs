//! What the text side asks of a model: tokens and their places go in, logits come out. Next in the flow:
//! generate/mod.rs.

pub use netweight_kernels_cuda::twin::Draw;

use crate::{Interrupt, Result};

/// Where a token stands: in which sequence, and at which position of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the sequence in the cache.
    pub slot: usize,
    /// Position in that sequence, from 0.
    pub position: usize,
}

/// Tokens that run together.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids.
    pub tokens: &'a [u32], // (n_tokens)
    /// Where each stands. Positions of a slot ascend without gaps and may go back to any that was written before:
    /// from there on the cache is written anew.
    pub places: &'a [Place], // (n_tokens)
    /// Which of the tokens to compute logits for, ascending indices into `tokens`.
    pub logits_for: &'a [usize], // (n_wanted)
}

/// How to choose a token from its logits alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// The likeliest token, the lowest id among equals.
    Likeliest,
    /// One drawn by its probability.
    Drawn(Draw),
}

/// A model that predicts the next token, with its cache of what it has read.
pub trait Decoder {
    /// Tokens that the model knows; logits have this many columns.
    fn vocab_size(&self) -> usize;

    /// Tokens that fit into one slot's cache.
    fn max_positions(&self) -> usize;

    /// Largest number of tokens in a batch, at least 1.
    fn max_batch_tokens(&self) -> usize;

    /// Runs a batch, writes its keys and values into the cache and the wanted logits into `logits`.
    /// Polls `interrupt` at least every 100 ms.
    ///
    /// # Errors
    /// `Interrupted`: the cache beyond the batch's first position of each slot is then undefined. `Backend`.
    fn forward(
        &mut self,
        batch: &Batch<'_>,
        interrupt: &Interrupt,
        logits: &mut [f32], // (n_wanted, vocab_size)
    ) -> Result<()>;

    /// Runs a batch that wants logits after one token, and chooses the token that is next, as a [`Sampler`](crate::Sampler)
    /// would by those logits, where the model can do it without giving them; `None`, and nothing was run, where it cannot.
    ///
    /// # Errors
    /// As [`forward`](Decoder::forward); `Logits` where no token can be chosen.
    fn choose(&mut self, batch: &Batch<'_>, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>> {
        let _ = (batch, choice, interrupt);
        Ok(None)
    }
}

impl<D: Decoder + ?Sized> Decoder for &mut D {
    fn vocab_size(&self) -> usize {
        (**self).vocab_size()
    }

    fn max_positions(&self) -> usize {
        (**self).max_positions()
    }

    fn max_batch_tokens(&self) -> usize {
        (**self).max_batch_tokens()
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<()> {
        (**self).forward(batch, interrupt, logits)
    }

    fn choose(&mut self, batch: &Batch<'_>, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>> {
        (**self).choose(batch, choice, interrupt)
    }
}
