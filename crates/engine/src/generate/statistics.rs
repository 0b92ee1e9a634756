//! How much was run and how long it took.

/// How much was run and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Statistics {
    /// Tokens of the prompt, those in the cache included.
    pub n_prompt_tokens: usize,
    /// Tokens of the prompt that were in the cache from before and did not run again.
    pub n_cached_tokens: usize,
    /// Seconds from the start until the logits of the prompt's last token were there.
    pub prefill_seconds: f64,
    /// Tokens of the answer, the one that ended it included.
    pub n_generated_tokens: usize,
    /// Forward passes after the prompt's: the first token of an answer needs none.
    pub n_decode_steps: usize,
    /// Seconds for all after the prompt: forward passes, sampling, text, the caller's function.
    pub decode_seconds: f64,
}

impl Statistics {
    /// Tokens of the prompt that ran, per second; 0 where nothing ran.
    pub fn prefill_tokens_per_second(&self) -> f64 {
        rate(self.n_prompt_tokens - self.n_cached_tokens, self.prefill_seconds)
    }

    /// Tokens that ran one by one, per second; 0 where nothing ran.
    pub fn decode_tokens_per_second(&self) -> f64 {
        rate(self.n_decode_steps, self.decode_seconds)
    }
}

fn rate(n: usize, seconds: f64) -> f64 {
    if n > 0 && seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}
