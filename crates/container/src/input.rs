//! Files that are read by position: no mapping, so a file cut short meanwhile is an error and not a signal.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use crate::{Context, Error, Result};

/// An open file and the size it had then.
#[derive(Debug)]
pub struct InputFile {
    file: File,
    path: PathBuf,
    len_bytes: u64,
    modified_ns: u64,
}

impl InputFile {
    /// Opens a regular file for reading.
    ///
    /// # Errors
    /// `Io`; `InvalidArgument` for what is not a regular file.
    pub fn open(path: &Path) -> Result<InputFile> {
        let about = std::fs::metadata(path).in_file(path)?; // Before opening: opening a pipe would wait.
        if !about.is_file() {
            return Err(Error::invalid("not a regular file").in_file(path));
        }
        let file = File::open(path).in_file(path)?;
        let about = file.metadata().in_file(path)?;
        Ok(InputFile { file, path: path.to_path_buf(), len_bytes: about.len(), modified_ns: modified_ns(&about) })
    }

    /// Path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Size in bytes when opened.
    pub fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Time of last modification when opened, in nanoseconds since 1970 (0 where unknown).
    pub fn modified_ns(&self) -> u64 {
        self.modified_ns
    }

    /// Fills `dst` from `offset` on.
    ///
    /// # Errors
    /// `Truncated` where the file ends before; `Io`.
    pub fn read_exact_at(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(dst.len() as u64).filter(|&end| end <= self.len_bytes);
        let Some(end) = end else {
            let expected = offset.saturating_add(dst.len() as u64);
            return Err(Error::truncated(expected, self.len_bytes).in_file(&self.path));
        };
        read_exact_at(&self.file, dst, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                let actual = self.file.metadata().map_or(offset, |about| about.len());
                Error::truncated(end, actual).in_file(&self.path)
            }
            _ => Error::io(&self.path, error).at_offset(offset),
        })
    }

    /// Reads `len_bytes` bytes from `offset` into a new buffer; the range is checked before allocating.
    ///
    /// # Errors
    /// As [`InputFile::read_exact_at`].
    pub fn read_vec(&self, offset: u64, len_bytes: u64) -> Result<Vec<u8>> {
        let end = offset.saturating_add(len_bytes);
        if end > self.len_bytes {
            return Err(Error::truncated(end, self.len_bytes).in_file(&self.path));
        }
        let n = usize::try_from(len_bytes).map_err(|_| Error::invalid("too large for this machine"))?;
        let mut bytes = vec![0; n];
        self.read_exact_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// Checks that size and modification time are still those of the moment of opening.
    ///
    /// # Errors
    /// `InvalidArgument` where the file was changed meanwhile; `Io`.
    pub fn check_unchanged(&self) -> Result<()> {
        let about = std::fs::metadata(&self.path).in_file(&self.path)?;
        if about.len() == self.len_bytes && modified_ns(&about) == self.modified_ns {
            return Ok(());
        }
        Err(Error::invalid("was changed while it was being read; run again when nothing writes to it")
            .in_file(&self.path))
    }
}

/// Modification time in nanoseconds since 1970, 0 where unknown.
pub(crate) fn modified_ns(about: &std::fs::Metadata) -> u64 {
    let since = about.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.and_then(|duration| u64::try_from(duration.as_nanos()).ok()).unwrap_or(0)
}

#[cfg(unix)]
fn read_exact_at(file: &File, dst: &mut [u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, dst, offset)
}

#[cfg(windows)]
fn read_exact_at(file: &File, mut dst: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !dst.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, dst, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(n) => {
                dst = &mut dst[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, src: &[u8], offset: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, src, offset)
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut src: &[u8], mut offset: u64) -> io::Result<()> {
    while !src.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, src, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                src = &src[n..];
                offset += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
