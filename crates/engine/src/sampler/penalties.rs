//! Tokens that occurred, and what that takes from their logits. Next in the flow: draw.rs.

use super::Sampling;

/// Which tokens occurred, and how often in the answer. Nothing is allocated after construction.
pub struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    n_in_answer: Vec<u32>,   // (vocab_size)
    has_occurred: Vec<bool>, // (vocab_size)
    occurred: Vec<u32>,      // (n_distinct), room for vocab_size
}

impl Penalties {
    /// For a model with that many tokens; `None` where nothing is to be weakened.
    pub fn new(sampling: &Sampling, vocab_size: usize) -> Option<Penalties> {
        let (repetition, presence, frequency) =
            (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty);
        let is_active = repetition != 1.0 || presence != 0.0 || frequency != 0.0;
        is_active.then(|| Penalties {
            repetition,
            presence,
            frequency,
            n_in_answer: vec![0; vocab_size],
            has_occurred: vec![false; vocab_size],
            occurred: Vec::with_capacity(vocab_size),
        })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for id in self.occurred.drain(..) {
            self.n_in_answer[id as usize] = 0;
            self.has_occurred[id as usize] = false;
        }
    }

    /// Takes note of a token; ids beyond the vocabulary do not count.
    pub fn note(&mut self, id: u32, is_answer: bool) {
        let Some(has_occurred) = self.has_occurred.get_mut(id as usize) else { return };
        if !*has_occurred {
            *has_occurred = true;
            self.occurred.push(id);
        }
        self.n_in_answer[id as usize] += u32::from(is_answer);
    }

    /// Weakens the tokens that occurred.
    pub fn apply(
        &self,
        logits: &mut [f32], // (vocab_size)
    ) {
        for &id in &self.occurred {
            let (logit, n) = (&mut logits[id as usize], self.n_in_answer[id as usize]);
            let was_impossible = *logit == f32::NEG_INFINITY;
            *logit = if *logit < 0.0 { *logit * self.repetition } else { *logit / self.repetition };
            if n > 0 {
                *logit -= self.presence + self.frequency * n as f32;
            }
            // A tiny penalty must not make infinities out of finite logits.
            if !was_impossible {
                *logit = logit.clamp(f32::MIN, f32::MAX);
            }
        }
    }
}
