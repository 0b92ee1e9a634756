//! Files and folders of checkpoints and archives; nothing here knows what a codec does.
//!
//! Goes in: a path. Comes out: a [`Checkpoint`] (which files are there), a [`Header`] (which tensors a
//! `.safetensors` file holds, checked), a [`Manifest`] and a [`FolderManifest`] (what an archive says about
//! its original), and files that appear whole or not at all ([`AtomicFile`], [`Staging`]).
//! Names of sections refer to docs/format.md. Next in the flow: `netweight-pack`.
//!
//! ```
//! use netweight_container::Header;
//! let json = br#"{"w":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}"#;
//! let mut file = (json.len() as u64).to_le_bytes().to_vec();
//! file.extend_from_slice(json);
//! let header = Header::parse(&file, file.len() as u64 + 4)?;
//! assert_eq!(header.tensors[0].name, "w");
//! # Ok::<(), netweight_container::Error>(())
//! ```
#![deny(unsafe_code)]

mod archive_header;
mod atomic;
mod checkpoint;
mod digest;
mod error;
mod folder;
mod header;
mod input;
mod manifest;

// Maps files; says why its `unsafe` is sound.
#[allow(unsafe_code)]
mod mapped;

mod payload;
mod staging;

pub use archive_header::{
    ArchiveHeader, MANIFEST_NAME, METADATA_KEY, OPAQUE_NAME, RESERVED_PREFIX, STEPS_NAME, check_format_shown,
};
pub use atomic::{AtomicFile, sync_folder};
pub use checkpoint::{Checkpoint, FileKind, SourceFile};
pub use digest::Digest;
pub use error::{Context, Error, ErrorKind, Place, Result};
pub use folder::{
    CARD_NAME, FOLDER_MANIFEST_NAME, FolderFile, FolderManifest, MAX_REWRITTEN_BYTES, REFINEMENT_SUFFIX, Refined,
    check_relative_path, join_without_links,
};
pub use header::{Entry, Header, MAX_HEADER_BYTES};
pub use input::InputFile;
pub use manifest::{FORMAT, Manifest, Mode, Original, Refines, Resident, SameAs, check_format_mark};
pub use mapped::MappedFile;
pub use payload::{
    ALIGNMENT, ChunkRef, check_padding, chunks_offset, directory_bytes, encode_directory, n_chunks, padded,
    read_directory,
};
pub use staging::{Staging, foreign_entry};
