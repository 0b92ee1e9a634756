//! How fast a language model runs: on netweight's own engine, from raw and from compressed weights, and on others.
//!
//! Goes in: [`ModelOptions`]. Comes out: a [`ModelReport`]. The way: `contender` is a model loaded in one layout,
//! `memory_use` loads it once more in a process of its own to see how much memory that takes, `peers` drives the
//! other engines in Python processes, and [`run_model`] first makes sure that all of ours give the same bits of
//! logits, then goes round-robin over everyone.
//!
//! What a figure means: prefill is the prompt of one sequence, from an empty cache to the logits of its last token.
//! Decode is the likeliest token so far in, logits out and their maximum found, for each of a batch of sequences that
//! stand at positions of their own. Tokens are counted over all sequences, per second that passed; median, least and
//! most of all rounds. GB per second and core are those of the weights that one token reads, as if in bf16, per
//! second of CPU time: who stores weights in fewer bits can be faster than memory.

mod options;

pub(crate) mod contender;
mod memory_use;
mod peers;

mod run;
mod timings;

mod report;
mod table;

pub use memory_use::{MemoryUse, measure_memory};
pub use options::ModelOptions;
pub use report::{BatchSpeed, LogitsCheck, ModelRatio, ModelReport, ModelRow, Speed, WeightsReport};
pub use run::run_model;
