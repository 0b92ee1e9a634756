//! The verbs of netweight over whole checkpoints: compress, restore, verify, inspect, estimate.
//!
//! Goes in: a checkpoint (a `.safetensors` file, or a folder of them) or an archive. Comes out: the other one, or
//! a report about it. [`compress`] and [`restore`] write whole files and folders or nothing; [`Archive`] reads any
//! range of an original, any tensor, any rows, without restoring the rest. Nothing here knows what a model is.
//! Next in the flow: `netweight-cli`.
//!
//! ```
//! use netweight_pack::{CompressOptions, RestoreOptions, Silent, VerifyOptions, compress, restore, verify};
//! # let folder = tempfile::tempdir().unwrap();
//! # let (source, archive, back) = (folder.path().join("a"), folder.path().join("b"), folder.path().join("c"));
//! # std::fs::create_dir(&source).unwrap();
//! # let json = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
//! # let mut file = (json.len() as u64).to_le_bytes().to_vec();
//! # file.extend_from_slice(json);
//! # file.extend_from_slice(&[0x80, 0x3f, 0x00, 0x40]);
//! # std::fs::write(source.join("model.safetensors"), file).unwrap();
//! compress(&source, &archive, &CompressOptions::default(), &Silent)?;
//! assert!(verify(&archive, &VerifyOptions::default(), &Silent)?.is_ok());
//! restore(&archive, &back, &RestoreOptions::default(), &Silent)?;
//! # Ok::<(), netweight_pack::Error>(())
//! ```
#![forbid(unsafe_code)]

mod archive;
mod batch;
mod chunk;
mod coding;
mod compress;
mod config;
mod decode;
mod encode;
mod estimate;
mod grid;
mod grid_source;
mod index;
mod inspect;
mod parts;
mod payload_writer;
mod places;
mod progress;
mod refined;
mod refinement;
mod report;
mod resident;
mod restore;
mod rows;
mod shard_file;
mod side;
mod tensors;
mod ties;
mod verify;
mod workers;

pub use archive::{Archive, ArchiveShard};
pub use compress::{CompressOptions, compress, compress_grids};
pub use estimate::{Estimate, EstimateOptions, estimate};
pub use grid::GridSteps;
pub use grid_source::Grids;
pub use inspect::{InspectOptions, InspectedKind, InspectedRefinement, Inspection, TensorReport, Totals, inspect};
pub use netweight_codec::Level;
pub use netweight_container::{Digest, Error, ErrorKind, FileKind, Mode, Place, Result};
pub use netweight_layout::Layout;
pub use places::{check_apart, check_destination, check_file_free, check_folder_free, move_archive};
pub use progress::{Progress, Silent};
pub use report::{CoderUse, FileReport, RefinementReport, Report};
pub use resident::ResidentTensor;
pub use restore::{RestoreOptions, restore};
pub use rows::{RowsReport, restore_rows};
pub use tensors::{TensorBytes, compress_tensors};
pub use verify::{Problem, VerifyOptions, VerifyReport, verify};

/// Name and version of this program, as archives record it.
pub const WRITER: &str = concat!("netweight ", env!("CARGO_PKG_VERSION"));

#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
