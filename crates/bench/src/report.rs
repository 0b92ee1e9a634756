//! What a run found. Next in the flow: table.rs prints it.

use serde::Serialize;

use crate::machine::Machine;
use crate::stats::{Rate, Spread};

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of netweight.
    pub version: String,
    /// Instruction set that the codec used.
    pub isa: String,
    /// Where and when.
    pub machine: Machine,
    /// Rounds that medians are of.
    pub rounds: usize,
    /// One for each data set.
    pub data_sets: Vec<DataSetReport>,
}

/// What was found on one data set.
#[derive(Clone, Debug, Serialize)]
pub struct DataSetReport {
    /// Its name.
    pub name: String,
    /// Bytes of its tensors.
    pub len_bytes: usize,
    /// How many tensors it has.
    pub n_tensors: usize,
    /// Passes over the data in one timing, more than one where the data set is small.
    pub n_repeats: usize,
    /// How small order-0 coding could make it.
    pub bounds: Bounds,
    /// Reads and copies of the same memory.
    pub memory: Vec<MemoryRow>,
    /// The compressors, ours first.
    pub rows: Vec<Row>,
    /// Our levels against the best peer and memcpy, on one thread.
    pub comparisons: Vec<Comparison>,
}

/// Order-0 bounds per tensor in percent of the original, tables not counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bounds {
    /// Exponents entropy-coded, sign and mantissa raw (bytes each on its own where the dtype is no float).
    pub exponent_percent: f64,
    /// The top 16 bits (8 in 8-bit floats) coded together, other bytes each on its own.
    pub joint_percent: f64,
}

/// What the memory did.
#[derive(Clone, Debug, Serialize)]
pub struct MemoryRow {
    /// `memcpy` or `read`.
    pub operation: &'static str,
    /// How many threads.
    pub n_threads: usize,
    /// GB copied or read per second; the rate per CPU-second is the bandwidth per core.
    pub rate: Rate,
}

/// What one compressor did.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Name, version and setting.
    pub tool: String,
    /// Whether it is somebody else's.
    pub peer: bool,
    /// How many threads.
    pub n_threads: usize,
    /// Compressed size in percent of the original.
    pub size_percent: Option<f64>,
    /// Encoding speed.
    pub encode: Option<Rate>,
    /// Decoding speed.
    pub decode: Option<Rate>,
    /// Why there are no figures.
    pub note: Option<String>,
}

/// One of our levels against others, on one thread.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The level's row.
    pub tool: String,
    /// Encoding speed against the peer that encodes fastest.
    pub encode: Option<Ratio>,
    /// Decoding speed against the peer that decodes fastest.
    pub decode: Option<Ratio>,
    /// Decoding speed against memcpy.
    pub decode_to_memcpy: Ratio,
    /// Our size minus that of the peer that gets smallest, in percent of the original, and the peer.
    pub size_points: Option<(f64, String)>,
}

/// Ours over theirs, round by round.
#[derive(Clone, Debug, Serialize)]
pub struct Ratio {
    /// Whose figure is below the line.
    pub to: String,
    /// Above 1: ours is faster.
    pub ratio: Spread,
}
