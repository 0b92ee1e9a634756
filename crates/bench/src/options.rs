//! What to measure, and what can go wrong. Next in the flow: run.rs.

use std::path::PathBuf;

use netweight_codec::Level;
use netweight_synth::{Kind, Shapes};

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Synthetic data sets to make.
    pub synthetic: Vec<Kind>,
    /// Shapes of the synthetic data sets, before they are cut to the budget.
    pub shapes: Shapes,
    /// Seed of the synthetic data sets.
    pub seed: u64,
    /// Safetensors files, and folders of them; each is a data set.
    pub files: Vec<PathBuf>,
    /// Measure f32 tensors of `files` also after rounding them to bf16.
    pub cast_bf16: bool,
    /// Bytes that a data set may have; from larger ones the last rows of each tensor are cut.
    pub budget_bytes: u64,
    /// Levels to measure.
    pub levels: Vec<Level>,
    /// How often everything is measured; at least 1.
    pub rounds: usize,
    /// Besides one thread, powers of two below this and this number of threads are measured.
    pub max_threads: usize,
    /// Whether to measure the other compressors.
    pub peers: bool,
    /// Python interpreter that has the other compressors.
    pub python: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            synthetic: Kind::ALL.to_vec(),
            shapes: Shapes::LLAMA_8B,
            seed: 1,
            files: Vec::new(),
            cast_bf16: false,
            budget_bytes: 256 << 20,
            levels: vec![Level::Default, Level::Max],
            rounds: 7,
            max_threads: std::thread::available_parallelism().map_or(1, usize::from),
            peers: true,
            python: "python3".into(),
        }
    }
}

impl Options {
    /// Seconds instead of minutes, and no other programs: what the tests run.
    pub fn tiny() -> Options {
        let (shapes, budget_bytes) = (Shapes::TINY, 1 << 20);
        Options { shapes, budget_bytes, rounds: 2, max_threads: 2, peers: false, ..Options::default() }
    }

    /// The numbers of threads to measure, ascending, 1 first.
    pub(crate) fn thread_counts(&self) -> Vec<usize> {
        let max_threads = self.max_threads.max(1);
        let mut counts: Vec<usize> = (0..usize::BITS).map(|log| 1 << log).take_while(|&n| n < max_threads).collect();
        counts.push(max_threads);
        counts
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not a safetensors file.
    #[error("{path}: not a safetensors file: {what}")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The codec refused its own output or its input.
    #[error("codec: {0}")]
    Codec(#[from] netweight_codec::Error),
    /// A chunk's checksum is not the one it was stored with.
    #[error("checksum of chunk {chunk_idx} of {data_set} does not match")]
    Checksum {
        /// Name of the data set.
        data_set: String,
        /// Which of its chunks.
        chunk_idx: usize,
    },
    /// Decoded data differ from the original.
    #[error("{tool} changed {data_set}: decoded data differ from the original")]
    Changed {
        /// The tool.
        tool: String,
        /// Name of the data set.
        data_set: String,
    },
    /// A data set has no bytes.
    #[error("{0}: no tensors with data")]
    Empty(String),
    /// A model cannot be loaded or run.
    #[error(transparent)]
    Engine(#[from] netweight_engine::Error),
    /// Two layouts or numbers of threads do not give the same bits.
    #[error("{what} of {one} and {other} differ")]
    Differ {
        /// Logits or tokens.
        what: &'static str,
        /// A contender.
        one: String,
        /// Another contender.
        other: String,
    },
    /// The process in which memory is measured failed.
    #[error("measuring memory in a process of its own: {0}")]
    MemoryUse(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_counts() {
        let check = |max_threads: usize, expected: &[usize]| {
            assert_eq!(Options { max_threads, ..Options::tiny() }.thread_counts(), expected);
        };
        check(0, &[1]);
        check(1, &[1]);
        check(2, &[1, 2]);
        check(6, &[1, 2, 4, 6]);
        check(8, &[1, 2, 4, 8]);
    }
}
