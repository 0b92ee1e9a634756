//! What was measured on one text. Next in the flow: measure.rs.

use netweight_eval::{Comparison, Perplexity, Summary};
use serde::{Deserialize, Serialize};

use crate::card::TextRecord;

/// What a text is to the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Of the kind that it was calibrated on, and not seen there.
    HeldOut,
    /// Of another kind.
    OutOfDomain,
}

/// A tuned model, and what rounding activations does, against the original.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What the text is to the model.
    pub role: Role,
    /// The text.
    pub text: TextRecord,
    /// Tokens that the model sees at once, at most.
    pub window: u64,
    /// Tokens that were predicted.
    pub n_predicted: u64,
    /// Of the model.
    pub model: Scores,
    /// Of the original with activations in bf16 instead of f32: differences below this mean nothing.
    pub noise_floor: Scores,
    /// SHA-256 of the original's logits, as f32 in little endian; hex.
    pub original_logits: String,
    /// SHA-256 of the model's logits: the same for an exact one.
    pub model_logits: String,
}

/// A model against its original, paired on the same tokens. Errors are standard errors, over windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Perplexity of the original.
    pub original_perplexity: f64,
    /// Its error; null with one window.
    pub original_perplexity_error: Option<f64>,
    /// Perplexity of the model.
    pub perplexity: f64,
    /// Its error.
    pub perplexity_error: Option<f64>,
    /// ln of the ratio of both, token by token.
    pub ln_ratio: f64,
    /// Its error.
    pub ln_ratio_error: Option<f64>,
    /// Kullback-Leibler divergence of the model from the original, nats.
    pub divergence: Distribution,
    /// Share of tokens where both find the same one likeliest.
    pub same_top: f64,
    /// Its error.
    pub same_top_error: Option<f64>,
    /// Change of the probability of the token that came.
    pub probability_change: Distribution,
    /// Root of its mean square.
    pub probability_change_rms: f64,
    /// Expected share of the model's tokens that the original accepts in speculative sampling.
    pub acceptance: f64,
    /// Positions at which all logits have the same bits.
    pub n_identical: u64,
}

/// How a figure is distributed over tokens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Distribution {
    /// Mean.
    pub mean: f64,
    /// Its standard error, over windows; null with one window.
    pub error: Option<f64>,
    /// Median.
    pub median: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 99 % are.
    pub p99: f64,
    /// 99.9 % are.
    pub p999: f64,
    /// The largest.
    pub max: f64,
}

/// Both models go on from the same prompts, each reading only what it said itself, always the likeliest token.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct FreeRun {
    /// Prompts.
    pub n_prompts: u64,
    /// Tokens of each prompt.
    pub prompt_tokens: u64,
    /// Tokens that were said after each, at most.
    pub n_tokens: u64,
    /// Share of prompts after which both said the same to the end.
    pub same_to_the_end: f64,
    /// Mean of the tokens before the first that differs; those that never differ count in full.
    pub mean_same: f64,
}

impl Scores {
    /// Of a comparison.
    pub fn of(found: &Comparison) -> Scores {
        let error = |perplexity: &Perplexity| some(perplexity.value_error());
        Scores {
            original_perplexity: found.base.value(),
            original_perplexity_error: error(&found.base),
            perplexity: found.other.value(),
            perplexity_error: error(&found.other),
            ln_ratio: found.ln_ratio.mean,
            ln_ratio_error: some(found.ln_ratio.standard_error),
            divergence: Distribution::of(&found.divergence),
            same_top: found.same_top,
            same_top_error: some(found.same_top_error),
            probability_change: Distribution::of(&found.probability_change),
            probability_change_rms: found.probability_change_rms,
            acceptance: found.acceptance.mean,
            n_identical: found.n_identical as u64,
        }
    }
}

impl Distribution {
    fn of(summary: &Summary) -> Distribution {
        Distribution {
            mean: summary.mean,
            error: some(summary.standard_error),
            median: summary.median,
            p90: summary.p90,
            p99: summary.p99,
            p999: summary.p999,
            max: summary.max,
        }
    }
}

/// JSON has no NaN: an error of a single window is not known.
fn some(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}
