//! Files that appear whole or not at all: written beside their place, synced, then renamed into it.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use crate::input::write_all_at;
use crate::{Context, Error, Result};

/// A file being written. Dropped without [`AtomicFile::commit`], it leaves nothing behind.
#[derive(Debug)]
pub struct AtomicFile {
    file: File,
    temporary: PathBuf,
    destination: PathBuf,
    overwrite: bool,
    is_done: bool,
}

impl AtomicFile {
    /// Begins a file that [`AtomicFile::commit`] will move to `destination`.
    ///
    /// # Errors
    /// `InvalidArgument` where something is there already and `overwrite` is not set, or it is no file; `Io`.
    pub fn create(destination: &Path, overwrite: bool) -> Result<AtomicFile> {
        check_free(destination, overwrite)?;
        let name = destination.file_name().ok_or_else(|| Error::invalid("not a file name").in_file(destination))?;
        let mut prefix = OsString::from(".");
        // Not all of a long name: the temporary one must still be a legal one.
        prefix.push(name.to_string_lossy().chars().take(40).collect::<String>());
        prefix.push(".netweight-tmp-");
        let folder = parent(destination);
        remove_stale(folder, &prefix);
        prefix.push(std::process::id().to_string());
        let (file, temporary) = create_new(folder, &prefix)?;
        let _ = file.try_lock(); // Where files cannot be locked, a file left by a crash stays; nothing else is lost.
        Ok(AtomicFile { file, temporary, destination: destination.to_path_buf(), overwrite, is_done: false })
    }

    /// Writes `bytes` at `offset`.
    ///
    /// # Errors
    /// `Io`, with the destination's path.
    pub fn write_all_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        write_all_at(&self.file, bytes, offset).in_file(&self.destination)
    }

    /// Cuts or extends the file to `len_bytes` bytes.
    ///
    /// # Errors
    /// `Io`, with the destination's path.
    pub fn set_len(&self, len_bytes: u64) -> Result<()> {
        self.file.set_len(len_bytes).in_file(&self.destination)
    }

    /// Path that the file will have.
    pub fn destination(&self) -> &Path {
        &self.destination
    }

    /// Syncs the file and moves it to its place.
    ///
    /// # Errors
    /// `InvalidArgument` where something appeared there meanwhile and `overwrite` is not set; `Io`.
    pub fn commit(mut self) -> Result<()> {
        self.file.sync_all().in_file(&self.destination)?;
        if self.overwrite {
            std::fs::rename(&self.temporary, &self.destination).in_file(&self.destination)?;
        } else {
            rename_new(&self.temporary, &self.destination)?;
        }
        self.is_done = true;
        sync_folder(parent(&self.destination));
        Ok(())
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Makes renames in a folder last through a power cut, where the system can do that.
pub fn sync_folder(folder: &Path) {
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all(); // Some systems cannot sync folders; there is nothing else to do then.
    }
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn check_free(destination: &Path, overwrite: bool) -> Result<()> {
    match std::fs::symlink_metadata(destination) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Error::io(destination, error)),
        Ok(_) if !overwrite => Err(already_there(destination)),
        Ok(about) if about.is_file() => Ok(()),
        Ok(_) => Err(Error::invalid("is not a regular file and will not be replaced").in_file(destination)),
    }
}

fn already_there(destination: &Path) -> Error {
    Error::invalid("is already there; it is replaced only with force").in_file(destination)
}

fn create_new(folder: &Path, prefix: &OsString) -> Result<(File, PathBuf)> {
    for attempt in 0..1000 {
        let mut name = prefix.clone();
        name.push(format!("-{attempt}"));
        let path = folder.join(name);
        match OpenOptions::new().read(true).write(true).create_new(true).open(&path) {
            Ok(file) => return Ok((file, path)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::io(&path, error)),
        }
    }
    Err(Error::invalid("a thousand unfinished files stand in the way").in_file(folder))
}

/// A temporary file that nobody holds a lock on was left by a run that ended early.
fn remove_stale(folder: &Path, prefix: &OsString) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes());
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_ours && is_file && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Renames without ever replacing: a hard link fails where its name is taken, a rename does not.
fn rename_new(temporary: &Path, destination: &Path) -> Result<()> {
    match std::fs::hard_link(temporary, destination) {
        Ok(()) => {
            let _ = std::fs::remove_file(temporary);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(already_there(destination)),
        Err(_) => {
            check_free(destination, false)?; // A file system without hard links.
            std::fs::rename(temporary, destination).in_file(destination)
        }
    }
}
