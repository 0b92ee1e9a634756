//! How to choose tokens: goes in what a person or a publisher asked for, comes out settings that make sense. Next in
//! the flow: sample.rs.

use crate::{Error, GenerationConfig, Result};

/// How to choose tokens. The default takes the likeliest one.
///
/// ```
/// use netweight_engine::Sampling;
///
/// let sampling = Sampling { temperature: 0.8, top_p: 0.95, seed: 7, ..Sampling::default() };
/// assert!(sampling.check().is_ok());
/// assert!(Sampling { top_p: 1.5, ..sampling }.check().is_err());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divides the logits; 0 takes the likeliest token. From 0 on, 1 leaves the model's own probabilities.
    pub temperature: f32,
    /// Keeps that many of the likeliest tokens, and those that are as likely as the last of them; 0 keeps all. Fan et al.
    /// 2018, arXiv:1805.04833.
    pub top_k: usize,
    /// Keeps the likeliest tokens until their probabilities reach this, and those that are as likely as the last of them;
    /// 1 keeps all. Above 0 and up to 1. Holtzman et al. 2019, arXiv:1904.09751.
    pub top_p: f32,
    /// Keeps tokens of at least this share of the likeliest one's probability; 0 keeps all. From 0 to 1. Nguyen et al.
    /// 2024, arXiv:2407.01082.
    pub min_p: f32,
    /// Divides positive logits of tokens that occurred in prompt or answer, and multiplies negative ones; 1 changes
    /// nothing. Above 0.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that occurred in the answer. From -2 to 2; 0 changes nothing.
    pub presence_penalty: f32,
    /// Taken from a token's logit for each time it occurred in the answer. From -2 to 2; 0 changes nothing.
    pub frequency_penalty: f32,
    /// Where the random numbers begin. The same seed gives the same answer.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl Sampling {
    /// What the publisher recommends: greedy unless `do_sample` is set; where it is, temperature 1 and 50 tokens are
    /// what transformers takes for values that are not given.
    ///
    /// # Errors
    /// `InvalidArgument`: a value makes no sense.
    pub fn recommended(config: &GenerationConfig) -> Result<Sampling> {
        const TRANSFORMERS_TOP_K: usize = 50;
        let default = Sampling::default();
        let mut sampling =
            Sampling { repetition_penalty: config.repetition_penalty.unwrap_or(default.repetition_penalty), ..default };
        if config.do_sample == Some(true) {
            sampling.temperature = config.temperature.unwrap_or(1.0);
            sampling.top_k = config.top_k.unwrap_or(TRANSFORMERS_TOP_K);
            sampling.top_p = config.top_p.unwrap_or(sampling.top_p);
            sampling.min_p = config.min_p.unwrap_or(sampling.min_p);
        }
        sampling.check()?;
        Ok(sampling)
    }

    /// Whether all values make sense.
    ///
    /// # Errors
    /// `InvalidArgument` with the first that does not.
    pub fn check(&self) -> Result<()> {
        type Row = (&'static str, f32, fn(f32) -> bool, &'static str);
        let rows: [Row; 6] = [
            ("temperature", self.temperature, |t| t >= 0.0, "0 or more"),
            ("top_p", self.top_p, |p| p > 0.0 && p <= 1.0, "above 0 and at most 1"),
            ("min_p", self.min_p, |p| (0.0..=1.0).contains(&p), "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty, |p| p > 0.0, "above 0"),
            ("presence_penalty", self.presence_penalty, |p| (-2.0..=2.0).contains(&p), "between -2 and 2"),
            ("frequency_penalty", self.frequency_penalty, |p| (-2.0..=2.0).contains(&p), "between -2 and 2"),
        ];
        match rows.iter().find(|(_, value, is_fine, _)| !value.is_finite() || !is_fine(*value)) {
            Some((name, value, _, range)) => Err(Error::invalid(format!("{name} is {value}, but must be {range}"))),
            None => Ok(()),
        }
    }

    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_values_are_named() {
        let check = |change: fn(&mut Sampling), name: &str| {
            let mut sampling = Sampling::default();
            change(&mut sampling);
            match sampling.check() {
                Ok(()) => assert_eq!(name, ""),
                Err(error) => assert!(!name.is_empty() && error.to_string().starts_with(name), "{error}"),
            }
        };
        check(|_| (), "");
        check(|s| s.temperature = 1e-9, "");
        check(|s| s.temperature = 1e9, "");
        check(|s| s.temperature = -0.1, "temperature");
        check(|s| s.temperature = f32::NAN, "temperature");
        check(|s| s.temperature = f32::INFINITY, "temperature");
        check(|s| s.top_k = usize::MAX, "");
        check(|s| s.top_p = 0.0, "top_p");
        check(|s| s.top_p = -0.5, "top_p");
        check(|s| s.top_p = 1.01, "top_p");
        check(|s| s.top_p = f32::NAN, "top_p");
        check(|s| s.top_p = 0.001, "");
        check(|s| s.min_p = 1.0, "");
        check(|s| s.min_p = 1.1, "min_p");
        check(|s| s.min_p = -0.1, "min_p");
        check(|s| s.min_p = f32::NAN, "min_p");
        check(|s| s.repetition_penalty = 0.0, "repetition_penalty");
        check(|s| s.repetition_penalty = f32::NAN, "repetition_penalty");
        check(|s| s.presence_penalty = 2.5, "presence_penalty");
        check(|s| s.frequency_penalty = f32::NEG_INFINITY, "frequency_penalty");
    }

    #[test]
    fn recommendations_of_publishers() {
        let config = GenerationConfig { temperature: Some(0.6), top_k: Some(20), ..GenerationConfig::default() };
        assert_eq!(Sampling::recommended(&config).unwrap(), Sampling::default());
        let config = GenerationConfig { do_sample: Some(true), ..config };
        let expected = Sampling { temperature: 0.6, top_k: 20, ..Sampling::default() };
        assert_eq!(Sampling::recommended(&config).unwrap(), expected);
        let config = GenerationConfig { top_p: Some(7.0), ..config };
        assert!(Sampling::recommended(&config).is_err());
    }
}
