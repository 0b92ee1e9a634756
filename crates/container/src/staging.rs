//! Folders that appear whole or not at all, and that a second run finishes where a first one stopped.
//!
//! Beside `DST` stands `.DST.netweight-partial/` with `resume.json` (what is being made of which files) and
//! `tree/`, which becomes `DST` at the end.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::{AtomicFile, Context, Error, Result, join_without_links, sync_folder};

/// A folder being written.
#[derive(Debug)]
pub struct Staging {
    destination: PathBuf,
    folder: PathBuf,
    tree: PathBuf,
    lock: File,
    is_resumed: bool,
}

impl Staging {
    /// Begins the folder `destination`, or goes on with it where an earlier run left the same `record`. A staging
    /// folder with another record is emptied. The staging folder stays after errors.
    ///
    /// # Errors
    /// `InvalidArgument` where another run is writing the same folder; `Io`.
    pub fn open(destination: &Path, record: &[u8]) -> Result<Staging> {
        let folder = sibling(destination, ".netweight-partial")?;
        if std::fs::symlink_metadata(&folder).is_ok_and(|about| !about.is_dir()) {
            return Err(Error::invalid("stands where a staging folder is needed").in_file(&folder));
        }
        std::fs::create_dir_all(&folder).in_file(&folder)?;
        let tree = folder.join("tree");
        let record_path = join_without_links(&folder, "resume.json")?;
        let mut lock = open_locked(&record_path)?;
        let mut found = Vec::new();
        (&mut lock).take(record.len() as u64 + 1).read_to_end(&mut found).in_file(&record_path)?;
        let is_resumed = found == record && std::fs::symlink_metadata(&tree).is_ok_and(|about| about.is_dir());
        if !is_resumed {
            restart(&mut lock, &tree, record).in_file(&record_path)?;
        }
        Ok(Staging { destination: destination.to_path_buf(), folder, tree, lock, is_resumed })
    }

    /// Whether an earlier run's files may be kept.
    pub fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Path of a file of the new folder, its folders made.
    ///
    /// # Errors
    /// `Corrupt` for a path that leaves the folder, `InvalidArgument` for a symbolic link on the way; `Io`.
    pub fn place(&self, relative: &str) -> Result<PathBuf> {
        let path = join_without_links(&self.tree, relative)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).in_file(parent)?;
        }
        Ok(path)
    }

    /// Begins a file of the new folder; what an earlier run left under its name is replaced.
    ///
    /// # Errors
    /// As [`Staging::place`] and [`AtomicFile::create`].
    pub fn create(&self, relative: &str) -> Result<AtomicFile> {
        AtomicFile::create(&self.place(relative)?, true)
    }

    /// Moves the folder to its place. Where something is there already, `replace` says whether to swap it.
    ///
    /// # Errors
    /// `InvalidArgument` where the destination is there and `replace` is not set; `Io`.
    pub fn commit(self, replace: bool) -> Result<()> {
        sync_folder(&self.tree);
        match std::fs::symlink_metadata(&self.destination) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                std::fs::rename(&self.tree, &self.destination).in_file(&self.destination)?;
            }
            Err(error) => return Err(Error::io(&self.destination, error)),
            Ok(about) if replace && about.is_dir() => self.swap()?,
            Ok(_) => return Err(Error::invalid("is already there").in_file(&self.destination)),
        }
        sync_folder(self.folder.parent().unwrap_or(Path::new(".")));
        drop(self.lock);
        let _ = std::fs::remove_dir_all(&self.folder); // The destination is in place; a leftover is no failure.
        Ok(())
    }

    fn swap(&self) -> Result<()> {
        let old = self.folder.join("old");
        let _ = std::fs::remove_dir_all(&old); // Of a run that ended between the two renames and was made good.
        std::fs::rename(&self.destination, &old).in_file(&self.destination)?;
        if let Err(error) = std::fs::rename(&self.tree, &self.destination) {
            let _ = std::fs::rename(&old, &self.destination);
            return Err(Error::io(&self.destination, error));
        }
        Ok(())
    }
}

fn sibling(destination: &Path, suffix: &str) -> Result<PathBuf> {
    let name = destination.file_name().ok_or_else(|| Error::invalid("not a name for a folder").in_file(destination))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(suffix);
    Ok(destination.with_file_name(hidden))
}

fn open_locked(path: &Path) -> Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).in_file(path)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(Error::invalid("another run is writing this folder").in_file(path)),
        // Where files cannot be locked, two runs at once are the user's to avoid.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

fn restart(lock: &mut File, tree: &Path, record: &[u8]) -> io::Result<()> {
    // The record goes first and comes last: a crash in between leaves nothing to resume from.
    lock.set_len(0)?;
    match std::fs::symlink_metadata(tree) {
        Ok(about) if about.is_dir() => std::fs::remove_dir_all(tree)?,
        Ok(_) => std::fs::remove_file(tree)?,
        Err(_) => {}
    }
    std::fs::create_dir(tree)?;
    lock.seek(SeekFrom::Start(0))?;
    lock.write_all(record)?;
    lock.sync_all()
}

/// The first entry of `folder` that is neither a folder nor one of the files `known`, relative paths with "/".
///
/// # Errors
/// `Io`.
pub fn foreign_entry(folder: &Path, known: &BTreeSet<String>) -> Result<Option<PathBuf>> {
    for entry in WalkDir::new(folder).min_depth(1).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::io(folder, error.into()))?;
        let relative = entry.path().strip_prefix(folder).unwrap_or(entry.path());
        let parts: Vec<_> = relative.components().map(|part| part.as_os_str().to_string_lossy()).collect();
        let is_known = entry.file_type().is_file() && known.contains(&parts.join("/"));
        if !is_known && !entry.file_type().is_dir() {
            return Ok(Some(entry.into_path()));
        }
    }
    Ok(None)
}
