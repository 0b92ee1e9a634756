//! The sampler: goes in a row of logits, comes out a token id. The steps and their order are in mod.rs.

use rand_xoshiro::Xoshiro256StarStar;
use rand_xoshiro::rand_core::{RngCore, SeedableRng};

use super::Sampling;
use super::exp::exp_nonpositive;
use super::penalties::Penalties;
use super::select::{Candidate, top_k, top_weight, top_weight_sorted};
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
    sampling: Sampling,
    vocab_size: usize,
    random: Xoshiro256StarStar,
    penalties: Option<Penalties>,
    penalized: Vec<f32>,        // (vocab_size), empty without penalties
    candidates: Vec<Candidate>, // (n_candidates), room for vocab_size or top_k
    border: Vec<Candidate>,     // room for as many, where top_p works without top_k
}

impl Sampler {
    /// A sampler for a model with that many tokens.
    ///
    /// # Errors
    /// `InvalidArgument` as [`Sampling::check`], or where the model has no tokens.
    pub fn new(sampling: &Sampling, vocab_size: usize) -> Result<Sampler> {
        sampling.check()?;
        if vocab_size == 0 || u32::try_from(vocab_size).is_err() {
            return Err(Error::invalid(format!("a vocabulary of {vocab_size} tokens")));
        }
        let penalties = Penalties::new(sampling, vocab_size);
        let n_candidates = match (sampling.is_greedy(), sampling.top_k) {
            (true, _) => 0,
            (false, 0) => vocab_size,
            (false, k) => k.min(vocab_size),
        };
        Ok(Sampler {
            sampling: sampling.clone(),
            vocab_size,
            random: Xoshiro256StarStar::seed_from_u64(sampling.seed),
            penalized: vec![0.0; if penalties.is_some() { vocab_size } else { 0 }],
            penalties,
            candidates: Vec::with_capacity(n_candidates),
            border: Vec::with_capacity(if sampling.top_k == 0 && sampling.top_p < 1.0 { n_candidates } else { 0 }),
        })
    }

    /// Whether it takes the likeliest token each time, whatever came before: then it need not be asked.
    pub fn takes_the_likeliest(&self) -> bool {
        self.sampling.is_greedy() && self.penalties.is_none()
    }

    /// Begins anew, as if just made, with the prompt's tokens; those count for the repetition penalty.
    pub fn begin(
        &mut self,
        prompt: &[u32], // (n_tokens)
    ) {
        self.random = Xoshiro256StarStar::seed_from_u64(self.sampling.seed);
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
        if self.sampling.is_greedy() {
            return likeliest(logits);
        }
        self.keep_top_k(logits);
        let mut sum = self.weigh();
        if self.sampling.top_p < 1.0 {
            let enough = f64::from(self.sampling.top_p) * sum;
            match self.sampling.top_k {
                0 => top_weight(&mut self.candidates, enough, &mut self.border),
                _ => top_weight_sorted(&mut self.candidates, enough),
            }
            sum = self.sum();
        }
        if self.sampling.min_p > 0.0 {
            // The likeliest token has weight 1.
            let lowest = f64::from(self.sampling.min_p);
            self.candidates.retain(|candidate| candidate.weight >= lowest);
            sum = self.sum();
        }
        self.draw(sum)
    }

    fn keep_top_k(
        &mut self,
        logits: &[f32], // (vocab_size)
    ) {
        if self.sampling.top_k > 0 {
            top_k(logits, self.sampling.top_k.min(logits.len()), &mut self.candidates);
        } else {
            let candidate = |(id, &logit): (usize, &f32)| Candidate { logit, id: id as u32, weight: 0.0 };
            self.candidates.clear();
            self.candidates.extend(logits.iter().enumerate().map(candidate));
        }
    }

    /// Gives each candidate exp((logit - largest) / temperature); returns the sum.
    fn weigh(&mut self) -> f64 {
        let largest = self.candidates.iter().fold(f32::NEG_INFINITY, |largest, next| largest.max(next.logit));
        let (largest, temperature) = (f64::from(largest), f64::from(self.sampling.temperature));
        for candidate in &mut self.candidates {
            candidate.weight = exp_nonpositive((f64::from(candidate.logit) - largest) / temperature);
        }
        self.sum()
    }

    fn sum(&self) -> f64 {
        self.candidates.iter().map(|candidate| candidate.weight).sum()
    }

    /// The first candidate at which the weights, added up, exceed a random share of their sum.
    fn draw(&mut self, sum: f64) -> u32 {
        let share = (self.random.next_u64() >> 11) as f64 / (1u64 << 53) as f64; // [0, 1), 53 bits
        let target = share * sum;
        let mut reached = 0.0;
        let mut chosen = 0;
        for candidate in self.candidates.iter().filter(|candidate| candidate.weight > 0.0) {
            reached += candidate.weight;
            chosen = candidate.id;
            if reached > target {
                break;
            }
        }
        chosen // the last possible one where rounding left the target just out of reach
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
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    logits.iter().position(|logit| *logit == largest).unwrap_or(0) as u32
}
