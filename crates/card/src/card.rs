//! What a card says. Next in the flow: evidence.rs.

use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, FreeRun};

/// The version of what a card holds.
pub const FORMAT: u32 = 1;

/// What is said of a model. Only an exact one has the bits of its original: the word for a tuned one is "tuned".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Card {
    /// [`FORMAT`].
    pub format: u32,
    /// Name and version of the program that measured.
    pub writer: String,
    /// Exact or tuned.
    pub kind: Kind,
    /// How it was tuned.
    pub method: Option<Method>,
    /// What each matrix could bear, and how precise it became; in the order of the forward pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub precision: Vec<MatrixPrecision>,
    /// How large it is.
    pub sizes: Sizes,
    /// Files that the card speaks of, sorted by path: all of the archive but the card itself, and but its refinement.
    pub files: Vec<FileDigest>,
    /// Files that give the original back, sorted by path. They may be left out: nothing that was measured needs them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refinement: Vec<FileDigest>,
    /// On each text.
    pub evidence: Vec<Evidence>,
    /// How long both say the same where each reads only itself.
    pub free_run: Option<FreeRun>,
}

/// Whether the original's bits are all there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// They are.
    Exact,
    /// Weights were changed, within a budget.
    Tuned,
}

/// How a model was tuned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Method {
    /// The quantiser, in words.
    pub quantizer: String,
    /// How precision was dealt out: by `sensitivity` of matrices, of their attention `heads` too, or `uniform`.
    pub allocation: String,
    /// The other ways, which were worse.
    pub others: Vec<OtherAllocation>,
    /// What was asked for.
    pub budget: Budget,
    /// Which windows of the calibration text were taken depends on it.
    pub seed: u64,
    /// What it was calibrated on.
    pub calibration: Calibration,
}

/// Another way to deal precision out, at the same budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OtherAllocation {
    /// Which.
    pub allocation: String,
    /// Bits for each weight of the tuned matrices.
    pub bits_per_weight: f64,
    /// Mean divergence on the text of the search, nats.
    pub divergence: f64,
}

/// How precise a matrix became, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MatrixPrecision {
    /// The tensor's name.
    pub name: String,
    /// Its weights.
    pub n_weights: u64,
    /// Bits of each of them, as its indices' entropy and its steps.
    pub bits: f64,
    /// Bits of each in the probe, where it alone was so coarse.
    pub probe_bits: f64,
    /// Mean divergence that the probe caused, nats.
    pub divergence: f64,
    /// The same of each attention head, with noise in its rows alone; none where it has none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<f64>,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Budget {
    /// Bits for each weight of the tuned matrices.
    Bits(f64),
    /// Bytes of the whole archive.
    Size(u64),
    /// Mean divergence, nats.
    MaxKl(f64),
    /// Rise of perplexity: 0.005 is half a percent.
    MaxPplRise(f64),
}

/// The text that inputs of layers were taken from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// The text.
    pub text: TextRecord,
    /// Tokens that were run.
    pub n_tokens: u64,
    /// Mean negative log likelihood of the original on what of it the search measured on, nats.
    pub mean_nll: f64,
}

/// Which text it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TextRecord {
    /// Names of the files.
    pub name: String,
    /// Bytes of all.
    pub bytes: u64,
    /// SHA-256 of all, one after the other; hex.
    pub sha256: String,
}

/// Bytes of files that were written, read back and decoded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    /// The checkpoint.
    pub original_bytes: u64,
    /// The archive: all of its files but the card, and but its refinement.
    pub archive_bytes: u64,
    /// Weights of the matrices.
    pub n_weights: u64,
    /// Bits of each of these, in the archive, its refinement aside.
    pub bits_per_weight: f64,
    /// The refinement's files, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refinement_bytes: Option<u64>,
    /// `bits_per_weight`, and the refinement's files: what the original takes where both are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bits_per_weight_with_refinement: Option<f64>,
}

/// A file as it is in the archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDigest {
    /// Relative to the archive, with "/".
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, hex.
    pub sha256: String,
}
