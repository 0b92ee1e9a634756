//! Where results may be written: never over or into what is read, and over what is there only when told to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use netweight_container::{
    CARD_NAME, Checkpoint, Context, Error, FOLDER_MANIFEST_NAME, REFINEMENT_SUFFIX, Result, foreign_entry,
};

/// Refuses a destination that is the source, in it, or around it; makes the destination's parent folder.
///
/// # Errors
/// `InvalidArgument` where it is refused; `Io`.
pub fn check_apart(source: &Path, destination: &Path) -> Result<()> {
    let source = source.canonicalize().in_file(source)?;
    let name =
        destination.file_name().ok_or_else(|| Error::invalid("is not a name to write to").in_file(destination))?;
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let found = nearest_existing(parent)?.join(name);
    let found = found.canonicalize().unwrap_or(found);
    if found == source {
        return Err(Error::invalid("is both what is read and what is written").in_file(destination));
    }
    if found.starts_with(&source) {
        return Err(Error::invalid("lies inside what is read").in_file(destination));
    }
    if source.starts_with(&found) {
        return Err(Error::invalid("what is read lies inside it").in_file(destination));
    }
    std::fs::create_dir_all(parent).in_file(parent)
}

/// The canonical path of a folder that may not be there yet.
fn nearest_existing(folder: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(folder).in_file(folder)?;
    let mut missing = Vec::new();
    let mut here = absolute.as_path();
    loop {
        if let Ok(found) = here.canonicalize() {
            return Ok(missing.iter().rev().fold(found, |path, name| path.join(name)));
        }
        match (here.parent(), here.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                here = parent;
            }
            _ => return Err(Error::invalid("cannot be found").in_file(folder)),
        }
    }
}

/// Refuses a destination folder that is there already, unless `force` is set and every file in it is one of
/// `outputs`, which will be written again.
///
/// # Errors
/// `InvalidArgument` where it is refused; `Io`.
pub fn check_folder_free(destination: &Path, force: bool, outputs: &BTreeSet<String>) -> Result<()> {
    let Ok(about) = std::fs::symlink_metadata(destination) else { return Ok(()) };
    if !force {
        return Err(Error::invalid("is already there; it is replaced only with force").in_file(destination));
    }
    if !about.is_dir() {
        return Err(Error::invalid("is not a folder and will not be replaced by one").in_file(destination));
    }
    match foreign_entry(destination, outputs)? {
        None => Ok(()),
        Some(entry) => {
            Err(Error::invalid("would be lost: it is not among what is written, so its folder is not replaced")
                .in_file(&entry))
        }
    }
}

/// Refuses a destination file that is there already, unless `force` is set and it is a regular file.
///
/// # Errors
/// `InvalidArgument` where it is refused.
pub fn check_file_free(destination: &Path, force: bool) -> Result<()> {
    match std::fs::symlink_metadata(destination) {
        Err(_) => Ok(()),
        Ok(_) if !force => Err(Error::invalid("is already there; it is replaced only with force").in_file(destination)),
        Ok(about) if about.is_file() => Ok(()),
        Ok(_) => Err(Error::invalid("is not a regular file and will not be replaced by one").in_file(destination)),
    }
}

/// Moves an archive's folder, which lies beside `destination`, to that place. With `force` what is there is replaced; it
/// stays until the new one is in its place.
///
/// # Errors
/// `InvalidArgument` where something is there and `force` is not set, or it is no folder; `Io`.
pub fn move_archive(from: &Path, destination: &Path, force: bool) -> Result<()> {
    let old = from.with_extension("old");
    match std::fs::symlink_metadata(destination) {
        Err(_) => return std::fs::rename(from, destination).in_file(destination),
        Ok(about) if force && about.is_dir() => std::fs::rename(destination, &old).in_file(destination)?,
        Ok(_) => return Err(Error::invalid("is already there; it is replaced only with force").in_file(destination)),
    }
    if let Err(error) = std::fs::rename(from, destination) {
        let _ = std::fs::rename(&old, destination);
        return Err(Error::io(destination, error));
    }
    let _ = std::fs::remove_dir_all(&old); // The destination is in place; a leftover is no failure.
    Ok(())
}

/// Checks that an archive of the folder `source` may be written to `destination`.
///
/// # Errors
/// As [`crate::compress`] where it may not.
pub fn check_destination(source: &Path, destination: &Path, force: bool) -> Result<()> {
    let checkpoint = Checkpoint::discover(source)?;
    if checkpoint.is_archive_folder() {
        return Err(Error::invalid("is a netweight archive already").in_file(source));
    }
    check_apart(source, destination)?;
    check_folder_free(destination, force, &outputs(&checkpoint))
}

/// The files that an archive of a checkpoint may have.
pub(crate) fn outputs(checkpoint: &Checkpoint) -> BTreeSet<String> {
    let mut outputs: BTreeSet<String> = checkpoint.files.iter().map(|file| file.relative.clone()).collect();
    outputs.extend(checkpoint.shards().map(|shard| format!("{}{REFINEMENT_SUFFIX}", shard.relative)));
    outputs.extend([FOLDER_MANIFEST_NAME.to_owned(), CARD_NAME.to_owned()]);
    outputs
}
