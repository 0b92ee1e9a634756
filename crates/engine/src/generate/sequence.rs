//! One sequence in a decoder's cache: goes in tokens, come out the logits after the last one; what the cache has
//! already does not run again. Next in the flow: generator.rs.

use std::ops::ControlFlow;

use crate::decoder::{Batch, Choice, Place};
use crate::{Decoder, Error, Interrupt, Result};

/// A decoder with the tokens of its slot 0.
pub struct Sequence<D> {
    pub decoder: D,
    cached: Vec<u32>,   // (n_cached_tokens), whose keys and values are in the cache
    places: Vec<Place>, // (max_batch_tokens), scratch
    logits: Vec<f32>,   // (vocab_size)
}

impl<D: Decoder> Sequence<D> {
    /// An empty sequence.
    pub fn new(decoder: D) -> Sequence<D> {
        let places = Vec::with_capacity(decoder.max_batch_tokens());
        let (cached, logits) = (Vec::with_capacity(decoder.max_positions()), vec![0.0; decoder.vocab_size()]);
        Sequence { decoder, cached, places, logits }
    }

    /// Tokens whose keys and values are in the cache.
    pub fn cached(&self) -> &[u32] {
        &self.cached
    }

    /// Whether another token fits.
    pub fn has_room(&self) -> bool {
        self.cached.len() < self.decoder.max_positions()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.cached.clear();
    }

    /// Logits after the token that ran last.
    pub fn logits(&self) -> &[f32] {
        &self.logits
    }

    /// Keeps the beginning that the cache shares with a prompt, but never all of the prompt: the last token has to run
    /// for its logits. Returns how many tokens stay.
    pub fn keep_common(&mut self, prompt: &[u32]) -> usize {
        let most = prompt.len().saturating_sub(1);
        let n_common = self.cached.iter().zip(&prompt[..most]).take_while(|(a, b)| a == b).count();
        self.cached.truncate(n_common);
        n_common
    }

    /// Runs one token, and gives the one that is chosen after it, where the decoder chooses by itself; [`Sequence::logits`]
    /// are then of no token. `None`, and nothing was run, where it does not.
    ///
    /// # Errors
    /// As [`Sequence::run`]; `Logits`.
    pub fn run_and_choose(&mut self, token: u32, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>> {
        let places = [Place { slot: 0, position: self.cached.len() }];
        let batch = Batch { tokens: &[token], places: &places, logits_for: &[0] };
        let chosen = self.decoder.choose(&batch, choice, interrupt)?;
        self.cached.extend(chosen.map(|_| token));
        Ok(chosen)
    }

    /// Runs tokens in chunks, with logits for the last one. After each chunk `progress` hears how many tokens the
    /// cache has, and may end it all.
    ///
    /// # Errors
    /// `Interrupted`, also where `progress` breaks: the cache then has the chunks that were done. `Backend`.
    pub fn run(
        &mut self,
        tokens: &[u32], // (n_tokens)
        interrupt: &Interrupt,
        mut progress: impl FnMut(usize) -> ControlFlow<()>,
    ) -> Result<()> {
        let n_chunks = tokens.len().div_ceil(self.decoder.max_batch_tokens().max(1));
        for (idx, chunk) in tokens.chunks(self.decoder.max_batch_tokens().max(1)).enumerate() {
            interrupt.check()?;
            let begin = self.cached.len();
            self.places.clear();
            self.places.extend((begin..begin + chunk.len()).map(|position| Place { slot: 0, position }));
            let last = [chunk.len() - 1];
            let (logits_for, logits) = if idx + 1 == n_chunks {
                (&last[..], &mut self.logits[..])
            } else {
                (&last[..0], &mut self.logits[..0])
            };
            let batch = Batch { tokens: chunk, places: &self.places, logits_for };
            self.decoder.forward(&batch, interrupt, logits)?;
            self.cached.extend_from_slice(chunk);
            if progress(self.cached.len()).is_break() {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }
}
