//! Benchmarks of the codec against memcpy and against other compressors, in one interleaved run.
//!
//! Goes in: [`Options`], that is, which data sets, levels, threads and rounds. Comes out: a [`Report`], which
//! serialises to JSON and prints as tables. The way: `data` makes or loads a data set, `ours` encodes and
//! decodes it chunk by chunk, `memory` copies and reads the same buffers, `peers` drives the other compressors
//! in a Python process, and [`run`] goes round-robin over all of them, so that a noisy moment meets everyone.
//!
//! [`run_kernels`] and [`run_gpu_model`] measure NVIDIA GPUs; see `gpu`. [`run_model`] is the other benchmark: a language model's speed on netweight's own engine, from raw and from
//! compressed weights, and on other engines. It goes round everyone in the same way; see `model`.
//!
//! What a figure of the codec means: GB (10^9 bytes) of original data per second of CPU time, one thread unless it says
//! otherwise, out of and into memory that is already mapped, checksums included; median, least and most of all
//! rounds. Output is compared with the original in every round, outside the timing.
//!
//! ```
//! use netweight_bench::{Options, run};
//! let options = Options { rounds: 1, ..Options::tiny() };
//! let report = run(&options).unwrap();
//! assert_eq!(report.data_sets.len(), 4);
//! println!("{report}");
//! ```
#![forbid(unsafe_code)]

mod bounds;
mod data;
mod gpu;
mod machine;
mod memory;
mod model;
mod options;
mod ours;
mod peers;
mod report;
mod run;
mod safetensors;
mod stats;
mod table;

pub use gpu::{
    DecodeRow, Gpu, GpuBatch, GpuCheck, GpuModel, GpuModelOptions, GpuModelReport, GpuModelRow, KernelOptions,
    KernelReport, LinearRow, MatrixShape, MemoryRate, PrefillRow, open_gpu, run_gpu_model, run_kernels,
};
pub use machine::Machine;
pub use model::{
    BatchSpeed, LogitsCheck, MemoryUse, ModelOptions, ModelRatio, ModelReport, ModelRow, Speed, WeightsReport,
    measure_memory, run_model,
};
pub use options::{Error, Options};
pub use report::{Bounds, Comparison, DataSetReport, MemoryRow, Ratio, Report, Row};
pub use run::run;
pub use stats::{Rate, Spread};
