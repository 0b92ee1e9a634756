//! One HTML page about a checkpoint or an archive, for `netweight inspect --html`.
//!
//! Goes in: an [`Inspection`](netweight_pack::Inspection). Comes out: a page that holds everything it needs, reaches
//! for nothing outside itself, and trusts nothing that it shows (tensor names come from a stranger's file). The
//! headline is written here (`headline.rs`); the charts and the table are drawn by the scripts in `assets/` from the
//! inspection, which the page holds as JSON. Nothing here reads a checkpoint.
//!
//! ```
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("model.safetensors");
//! # std::fs::write(&path, [&2u64.to_le_bytes()[..], b"{}"].concat()).unwrap();
//! use netweight_pack::{InspectOptions, Silent, inspect};
//! let options = InspectOptions { bounds: true, ..InspectOptions::default() };
//! let page = netweight_report::html(&inspect(&path, &options, &Silent)?, &[]);
//! assert!(page.starts_with("<!doctype html>"));
//! # Ok::<(), netweight_pack::Error>(())
//! ```
#![forbid(unsafe_code)]

mod escape;
mod format;
mod headline;
mod page;

pub use page::{Sensitivity, html};
