//! The sampler: goes in a row of logits, comes out a token id. The steps and their order are in mod.rs.

use netweight_kernels_cuda::twin::{Draw, MAX_DRAW_WIDTH};
use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::Sampling;
use super::draw::{Drawing, largest};
use super::penalties::Penalties;
use crate::decoder::Choice;
use crate::{Error, Result};

/// Chooses tokens. Allocates nothing after construction.
///
/// ```
/// use netweight_engine::{Sampler, Sampling};
///
/// let logits = [1.0, 3.0, 2.0];
/// let mut greedy = Sampler::new(&Sampling::default(), 3)?;
/// assert_eq!(greedy.sample(&logits)?, 1);
///
/// let sampling = Sampling { temperature: 1.5, top_k: 2, seed: 1, ..Sampling::default() };
/// let mut sampler = Sampler::new(&sampling, 3)?;
/// let ids: Vec<u32> = (0..8).map(|_| sampler.sample(&logits)).collect::<Result<_, _>>()?;
/// assert_eq!(ids, [2, 1, 1, 1, 2, 1, 1, 1]); // on every machine
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct Sampler {
    vocab_size: usize,
    seed: u64,
    random: Xoshiro256StarStar,
    how: Draw,                // but for its random number
    drawing: Option<Drawing>, // unless the likeliest token is always taken
    penalties: Option<Penalties>,
    penalized: Vec<f32>, // (vocab_size), empty without penalties
}

impl Sampler {
    /// A sampler for a model with that many tokens.
    ///
    /// # Errors
    /// `InvalidArgument` as [`Sampling::check`], or where the model has no tokens.
    pub fn new(sampling: &Sampling, vocab_size: usize) -> Result<Sampler> {
        sampling.check()?;
        if vocab_size == 0 || vocab_size >= MAX_DRAW_WIDTH {
            return Err(Error::invalid(format!("a vocabulary of {vocab_size} tokens")));
        }
        let penalties = Penalties::new(sampling, vocab_size);
        Ok(Sampler {
            vocab_size,
            seed: sampling.seed,
            random: Xoshiro256StarStar::seed_from_u64(sampling.seed),
            how: draw_of(sampling),
            drawing: (!sampling.is_greedy()).then(|| Drawing::new(vocab_size)),
            penalized: vec![0.0; if penalties.is_some() { vocab_size } else { 0 }],
            penalties,
        })
    }

    /// How to choose the next token, where its logits are all that counts: then a decoder can do it. `None` with
    /// penalties.
    pub fn choice(&self) -> Option<Choice> {
        let random = self.random.clone().next_u64();
        match (&self.penalties, &self.drawing) {
            (Some(_), _) => None,
            (None, Some(_)) => Some(Choice::Drawn(Draw { random, ..self.how })),
            (None, None) => Some(Choice::Likeliest),
        }
    }

    /// Goes on after a token that was chosen as [`Sampler::choice`] says.
    pub fn skip(&mut self) {
        if self.drawing.is_some() {
            self.random.next_u64();
        }
    }

    /// Begins anew, as if just made, with the prompt's tokens; those count for the repetition penalty.
    pub fn begin(
        &mut self,
        prompt: &[u32], // (n_tokens)
    ) {
        self.random = Xoshiro256StarStar::seed_from_u64(self.seed);
        if let Some(penalties) = &mut self.penalties {
            penalties.clear();
            prompt.iter().for_each(|id| penalties.note(*id, false));
        }
    }

    /// Chooses the next token and takes note of it.
    ///
    /// # Errors
    /// `Logits` where one is NaN or +Inf or none is finite; `InvalidArgument` where there are not as many as tokens.
    pub fn sample(
        &mut self,
        logits: &[f32], // (vocab_size)
    ) -> Result<u32> {
        if logits.len() != self.vocab_size {
            return Err(Error::invalid(format!("{} logits for {} tokens", logits.len(), self.vocab_size)));
        }
        check_logits(logits)?;
        let id = match &self.penalties {
            Some(penalties) => {
                let mut penalized = std::mem::take(&mut self.penalized);
                penalized.copy_from_slice(logits);
                penalties.apply(&mut penalized);
                let id = self.choose(&penalized);
                self.penalized = penalized;
                id
            }
            None => self.choose(logits),
        };
        if let Some(penalties) = &mut self.penalties {
            penalties.note(id, true);
        }
        Ok(id)
    }

    fn choose(
        &mut self,
        logits: &[f32], // (vocab_size)
    ) -> u32 {
        match &mut self.drawing {
            Some(drawing) => {
                let random = self.random.next_u64();
                drawing.draw(logits, &Draw { random, ..self.how })
            }
            None => likeliest(logits),
        }
    }
}

/// How to draw as settings say, but for the random number.
fn draw_of(sampling: &Sampling) -> Draw {
    // Casts saturate: a share of 1, and a number that no vocabulary has, keep all.
    Draw {
        random: 0,
        top_p: (f64::from(sampling.top_p) * 2f64.powi(64)) as u64,
        min_weight: (f64::from(sampling.min_p) * 2f64.powi(40)).ceil() as u64,
        inverse_temperature: (1.0 / sampling.temperature).min(f32::MAX),
        top_k: sampling.top_k.try_into().unwrap_or(u32::MAX),
    }
}

fn check_logits(logits: &[f32]) -> Result<()> {
    // NaN fails every comparison, so both loops are free of branches.
    let n_usable = logits.iter().filter(|logit| **logit < f32::INFINITY).count();
    let n_possible = logits.iter().filter(|logit| **logit > f32::NEG_INFINITY).count();
    if n_usable < logits.len() {
        return Err(Error::Logits("one is NaN or +Inf"));
    }
    if n_possible == 0 { Err(Error::Logits("all are -Inf")) } else { Ok(()) }
}

/// The first of the largest logits.
fn likeliest(logits: &[f32], // (vocab_size)
) -> u32 {
    let largest = largest(logits);
    logits.iter().position(|logit| *logit == largest).unwrap_or(0) as u32
}
