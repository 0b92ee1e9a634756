//! What a run on a model found. Next in the flow: table.rs prints it.

use serde::Serialize;

use crate::machine::Machine;
use crate::model::memory_use::MemoryUse;
use crate::report::MemoryRow;
use crate::stats::Spread;

/// What a run on a model found.
#[derive(Clone, Debug, Serialize)]
pub struct ModelReport {
    /// Version of netweight.
    pub version: String,
    /// Instruction set that the engine used.
    pub isa: String,
    /// Where and when.
    pub machine: Machine,
    /// Path of the model.
    pub model: String,
    /// Weights of all matrices.
    pub n_weights: u64,
    /// Weights that one token reads: all matrices but the table of embeddings, unless it gives the logits too; of
    /// experts as many as a token is sent to.
    pub weights_per_token: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that each sequence went on by.
    pub generate: usize,
    /// Rounds that medians are of.
    pub rounds: usize,
    /// What made sure that all of ours compute the same.
    pub check: LogitsCheck,
    /// The same of those that compute something else: from the indices of grids, or with other activations.
    pub other_checks: Vec<LogitsCheck>,
    /// Bytes that were read and copied to see what memory can do.
    pub memory_bytes: usize,
    /// Reads and copies of memory.
    pub memory: Vec<MemoryRow>,
    /// Weights in memory: one for each layout, then one for each peer.
    pub weights: Vec<WeightsReport>,
    /// Speed: ours by number of threads and layout, then the peers.
    pub rows: Vec<ModelRow>,
    /// Exact layouts against raw ones, and ours against the fastest peers.
    pub ratios: Vec<ModelRatio>,
}

/// Before the rounds, every layout of ours of one kind with every number of threads gave the same bits of logits, after the
/// prompt and after one step of the largest batch; and in every round they chose the same tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LogitsCheck {
    /// What they compute with: `weights with bf16 activations`, or indices.
    pub of: String,
    /// Layouts times numbers of threads.
    pub n_contenders: usize,
    /// Logits that each of them computed.
    pub n_logits: usize,
    /// FNV-1a over the bits of the logits after the prompt, in hexadecimal.
    pub prompt_hash: String,
    /// The same over those after the step of a batch.
    pub batch_hash: String,
}

/// How a model lies in memory.
#[derive(Clone, Debug, Default, Serialize)]
pub struct WeightsReport {
    /// Engine and layout.
    pub tool: String,
    /// Whether it is somebody else's.
    pub peer: bool,
    /// Version, of a peer.
    pub version: Option<String>,
    /// Seconds from opening the files to being ready. One load; the files may be in the page cache or not.
    pub load_s: Option<f64>,
    /// Bits in memory for each weight; of a peer, in its file.
    pub bits_per_weight: Option<f64>,
    /// MiB of all matrices in memory; of a peer, of its file.
    pub weights_mib: Option<f64>,
    /// Memory of a process that loads the model and runs it.
    pub memory: Option<MemoryUse>,
    /// Cosine between a peer's logits after the prompt and ours: the same model was run.
    pub cosine: Option<f64>,
    /// Why there are no figures.
    pub note: Option<String>,
}

/// How fast one of them was.
#[derive(Clone, Debug, Serialize)]
pub struct ModelRow {
    /// Engine and layout.
    pub tool: String,
    /// Whether it is somebody else's.
    pub peer: bool,
    /// How many threads.
    pub n_threads: usize,
    /// Reading the prompt.
    pub prefill: Speed,
    /// Decoding, for each size of batch; of peers, one sequence.
    pub decode: Vec<BatchSpeed>,
    /// Decoding one sequence: GB of the weights that a token reads, as if in bf16, per second of CPU time.
    pub gigabytes_per_core: Option<Spread>,
    /// The same over what one core reads in the same round, with as many threads.
    pub of_read: Option<Spread>,
}

/// Tokens per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Speed {
    /// Tokens of all sequences per second that passed.
    pub tokens_per_second: Spread,
    /// CPU time over the time that passed and the number of threads, median. Well under 1: others had the cores.
    pub cpu_share: f64,
}

/// Speed of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BatchSpeed {
    /// Sequences.
    pub n_sequences: usize,
    /// Their speed together.
    pub speed: Speed,
}

/// Ours over another's, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct ModelRatio {
    /// Ours.
    pub tool: String,
    /// How many threads both have.
    pub n_threads: usize,
    /// `prefill`, or `decode x8` for a batch of 8.
    pub what: String,
    /// Whose figure is below the line.
    pub to: String,
    /// Of speed. Above 1: ours is faster.
    pub per_second: Spread,
    /// Of speed per CPU time, which other programs on the machine change less.
    pub per_cpu_second: Spread,
}
