//! What the verbs report, ready to be written as JSON.

use std::collections::BTreeMap;

use netweight_container::{Digest, FileKind, Mode};
use serde::Serialize;

/// What `compress` or `restore` did.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// The files, in the order of their paths.
    pub files: Vec<FileReport>,
    /// Size of all originals in bytes.
    pub original_bytes: u64,
    /// Size of the archive in bytes, refinements that `compress_grids` writes beside it aside.
    pub archive_bytes: u64,
    /// What `compress_grids` wrote beside the archive for the original to come back.
    pub refinement: Option<RefinementReport>,
    /// Wall-clock time.
    pub seconds: f64,
    /// Tensors in all shards.
    pub n_tensors: u64,
    /// Tensors without payload, because their bytes are those of another.
    pub n_tied: u64,
    /// How chunks were coded: description -> how many and how large. Empty for `restore` and for resumed shards.
    pub coders: BTreeMap<String, CoderUse>,
    /// Folders that were left out.
    pub left_out: Vec<String>,
}

/// One file of a [`Report`].
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct FileReport {
    /// Relative path; the file name for a single file.
    pub path: String,
    /// What it is.
    pub kind: FileKind,
    /// Size of the original in bytes.
    pub original_bytes: u64,
    /// Size in the archive in bytes.
    pub archive_bytes: u64,
    /// SHA-256 of the original.
    pub sha256: Digest,
    /// For a shard: how it stands in the archive.
    pub mode: Option<Mode>,
    /// Whether an earlier run had finished it.
    pub is_resumed: bool,
}

/// The refinements of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefinementReport {
    /// Files: one for each shard with grids.
    pub n_files: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// Chunks coded alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CoderUse {
    /// How many.
    pub n_chunks: u64,
    /// Their original size in bytes.
    pub bytes: u64,
    /// Their coded size in bytes.
    pub stored_bytes: u64,
}

impl Report {
    /// Archive size divided by original size; 1 where there is nothing.
    pub fn ratio(&self) -> f64 {
        if self.original_bytes == 0 { 1.0 } else { self.archive_bytes as f64 / self.original_bytes as f64 }
    }

    pub(crate) fn push(&mut self, file: FileReport) {
        self.original_bytes = self.original_bytes.saturating_add(file.original_bytes); // Ties can announce any size.
        self.archive_bytes += file.archive_bytes;
        self.files.push(file);
    }
}
