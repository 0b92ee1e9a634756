//! Which files a checkpoint has: a single `.safetensors` file, or a folder with shards, indexes, side files.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use walkdir::{DirEntry, WalkDir};

use crate::folder::MAX_REWRITTEN_BYTES;
use crate::input::modified_ns;
use crate::{Context, Error, FOLDER_MANIFEST_NAME, Result};

const SHARD_SUFFIX: &str = ".safetensors";
const INDEX_SUFFIX: &str = ".safetensors.index.json";

/// What a file of a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum FileKind {
    /// A `.safetensors` file.
    Shard,
    /// A `.safetensors.index.json` file: which tensor is in which shard.
    Index,
    /// The `config.json` of a folder, to which an archive adds what its weights are.
    Config,
    /// Any other file.
    Side,
}

/// A file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceFile {
    /// Path relative to the checkpoint, with "/"; the file name for a single file.
    pub relative: String,
    /// Path to open it under.
    pub path: PathBuf,
    /// What it is.
    pub kind: FileKind,
    /// Size in bytes.
    pub bytes: u64,
    /// Time of last modification in nanoseconds since 1970.
    pub modified_ns: u64,
}

/// The files of a checkpoint, or of an archive.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checkpoint {
    /// Path of the file or folder.
    pub root: PathBuf,
    /// Whether it is a folder.
    pub is_folder: bool,
    /// The files, sorted by relative path.
    pub files: Vec<SourceFile>,
    /// Relative paths of folders that are not part of a checkpoint: `.git`, and `.cache` at the top.
    pub left_out: Vec<String>,
}

impl Checkpoint {
    /// Lists the files of a checkpoint. Symbolic links are followed to their content.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no `.safetensors` file, where links form a loop, where an index names a
    /// shard that is not there, for pipes and the like, and for names that are not UTF-8; `Io`.
    pub fn discover(root: &Path) -> Result<Checkpoint> {
        let checkpoint = Checkpoint::list(root)?;
        if !checkpoint.files.iter().any(|file| file.kind == FileKind::Shard) {
            return Err(Error::invalid("no .safetensors file here").in_file(root));
        }
        for file in checkpoint.files.iter().filter(|file| file.kind == FileKind::Index) {
            checkpoint.check_index(file)?;
        }
        Ok(checkpoint)
    }

    /// Lists the files without asking that they be a checkpoint.
    ///
    /// # Errors
    /// As [`Checkpoint::discover`], less what concerns shards.
    pub fn list(root: &Path) -> Result<Checkpoint> {
        let about = std::fs::metadata(root).in_file(root)?;
        let mut checkpoint =
            Checkpoint { root: root.to_path_buf(), is_folder: about.is_dir(), files: Vec::new(), left_out: Vec::new() };
        if about.is_dir() {
            checkpoint.walk()?;
            checkpoint.files.sort_by(|a, b| a.relative.cmp(&b.relative));
        } else {
            let name = root.file_name().and_then(|name| name.to_str());
            let name = name.ok_or_else(|| Error::invalid("the file's name is not UTF-8").in_file(root))?;
            checkpoint.files.push(source_file(name.to_owned(), root, &about)?);
        }
        Ok(checkpoint)
    }

    /// The shards, sorted by relative path.
    pub fn shards(&self) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(|file| file.kind == FileKind::Shard)
    }

    /// Whether this is an archive folder.
    pub fn is_archive_folder(&self) -> bool {
        self.is_folder && self.files.iter().any(|file| file.relative == FOLDER_MANIFEST_NAME)
    }

    fn walk(&mut self) -> Result<()> {
        let root = self.root.clone();
        let mut left_out = Vec::new();
        let is_kept = |entry: &DirEntry| {
            let name = entry.file_name();
            let leave = entry.depth() > 0
                && entry.file_type().is_dir()
                && (name == ".git" || entry.depth() == 1 && name == ".cache");
            if leave && let Ok(relative) = entry.path().strip_prefix(&root) {
                left_out.push(relative.display().to_string());
            }
            !leave
        };
        for entry in WalkDir::new(&root).follow_links(true).sort_by_file_name().into_iter().filter_entry(is_kept) {
            let entry = entry.map_err(|error| walk_error(&root, error))?;
            if entry.file_type().is_dir() {
                continue;
            }
            let relative = relative_path(&root, entry.path())?;
            let about = std::fs::metadata(entry.path()).in_file(entry.path())?;
            self.files.push(source_file(relative, entry.path(), &about)?);
        }
        self.left_out = left_out;
        Ok(())
    }

    fn check_index(&self, index: &SourceFile) -> Result<()> {
        if index.bytes > MAX_REWRITTEN_BYTES {
            return Err(Error::invalid("an index of more than 100 MB").in_file(&index.path)); // No reader would take it.
        }
        let folder = index.relative.rfind('/').map_or("", |slash| &index.relative[..=slash]);
        for shard in index_shards(&index.path)? {
            let relative = format!("{folder}{shard}");
            if !self.files.iter().any(|file| file.relative == relative) {
                return Err(Error::invalid(format!("names the shard {shard}, which is not there")).in_file(&index.path));
            }
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    weight_map: serde_json::Map<String, serde_json::Value>,
}

fn index_shards(path: &Path) -> Result<BTreeSet<String>> {
    let text = std::fs::read(path).in_file(path)?;
    let index: Index = serde_json::from_slice(&text)
        .map_err(|error| Error::corrupt(format!("not an index of shards: {error}")).in_file(path))?;
    Ok(index.weight_map.values().filter_map(|shard| shard.as_str().map(str::to_owned)).collect())
}

fn source_file(relative: String, path: &Path, about: &std::fs::Metadata) -> Result<SourceFile> {
    if !about.is_file() {
        return Err(Error::invalid("neither a file nor a folder; a checkpoint has only those").in_file(path));
    }
    let kind = match relative.as_str() {
        name if name.ends_with(INDEX_SUFFIX) => FileKind::Index,
        name if name.ends_with(SHARD_SUFFIX) => FileKind::Shard,
        _ => FileKind::Side,
    };
    Ok(SourceFile { relative, path: path.to_path_buf(), kind, bytes: about.len(), modified_ns: modified_ns(about) })
}

fn relative_path(root: &Path, path: &Path) -> Result<String> {
    let parts = path.strip_prefix(root).ok().map(Path::components);
    let parts = parts.and_then(|parts| parts.map(|part| part.as_os_str().to_str()).collect::<Option<Vec<&str>>>());
    let relative = parts.map(|parts| parts.join("/")).filter(|relative| crate::check_relative_path(relative).is_ok());
    relative.ok_or_else(|| Error::invalid("a name that is not UTF-8, or has a backslash").in_file(path))
}

fn walk_error(root: &Path, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(root).to_path_buf();
    if let Some(ancestor) = error.loop_ancestor() {
        let what = format!("a symbolic link that leads back to {}", ancestor.display());
        return Error::invalid(what).in_file(&path);
    }
    match error.into_io_error() {
        Some(source) => Error::io(&path, source),
        None => Error::invalid("cannot be listed").in_file(&path),
    }
}
