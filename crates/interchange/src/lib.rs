//! Checkpoints in the formats of other engines, in and out: GGUF, and compressed-tensors; and out alone: ONNX.
//!
//! Goes in: a GGUF file, a folder of compressed-tensors, or with [`export`] a checkpoint or an archive. Comes out: a
//! folder that Hugging Face's libraries read, or a file or folder of the other format. Tensors stream: memory does not
//! grow with the model. What a format says about a model and this crate does not understand is an error, never left
//! out. Nothing here computes with a model. Next in the flow: `netweight-cli`.
//!
//! ```no_run
//! use std::path::Path;
//!
//! use netweight_interchange::{ExportOptions, ImportOptions, export, import};
//! use netweight_pack::Silent;
//!
//! export(Path::new("bookworm"), Path::new("bookworm.gguf"), &ExportOptions::default(), &Silent)?;
//! let report = import(Path::new("bookworm.gguf"), Path::new("back"), &ImportOptions::default(), &Silent)?;
//! assert_eq!(report.rounded, 0);
//! # Ok::<(), netweight_pack::Error>(())
//! ```
#![forbid(unsafe_code)]

mod blocks;
mod compressed;
mod config;
mod export;
mod floats;
mod gguf;
mod import;
mod keys;
mod model;
mod onnx;
mod options;
mod shards;
mod source;
mod tokens;
mod transcode;
mod types;

pub use export::export;
pub use import::import;
pub use options::{ExportOptions, FloatType, Format, ImportOptions, Report, WeightType};
