//! A whole file as bytes in memory, without reading it: how an engine starts at once on weights that lie in the file
//! as they are multiplied. Everything else reads by position ([`InputFile`](crate::InputFile)).

use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::{Context, InputFile, Result};

/// A file mapped for reading. Its bytes are read from the file system when they are first touched, and the system may
/// drop them again, so that they do not count as memory in use.
///
/// # When someone changes the file meanwhile
///
/// Nobody should: archives are written beside their destination and renamed, which leaves an old map as it was. If
/// another program writes into the file, or cuts it short, nonetheless:
///
/// * bytes that it writes may show through, at any moment. Whatever reads them must be right with any bytes;
/// * touching a page beyond the new end raises SIGBUS, on Windows an exception, which ends the process. No memory of
///   the process is harmed. Windows refuses to shorten a mapped file.
#[derive(Debug)]
pub struct MappedFile {
    map: Mmap,
    path: PathBuf,
}

impl MappedFile {
    /// Maps a regular file. Nothing of it is read; huge pages are asked for where the system has them for files.
    ///
    /// # Errors
    /// `Io`; `InvalidArgument` for what is not a regular file.
    pub fn open(path: &Path) -> Result<MappedFile> {
        let input = InputFile::open(path)?;
        // SAFETY: the bytes of a map are ordinary memory as long as nobody changes the file, which this type's
        // documentation asks of its users. If somebody does, readers see other bytes, or a signal ends the process.
        let map = unsafe { Mmap::map(input.file()) }.in_file(path)?;
        // Without huge pages the bytes are the same, only slower to read at first.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        Ok(MappedFile { map, path: path.to_path_buf() })
    }

    /// Path it was opened under.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Asks the system to read the whole file now, so that touching its bytes later does not wait. Returns once that
    /// is under way, which for many GB that are not in memory yet takes seconds: call it where that does no harm. Does
    /// nothing where the system cannot.
    pub fn read_ahead(&self) {
        #[cfg(unix)]
        let _ = self.map.advise(memmap2::Advice::WillNeed);
    }
}

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn bytes_are_those_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let check = |bytes: &[u8]| {
            let path = folder.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            let file = MappedFile::open(&path).unwrap();
            file.read_ahead();
            assert_eq!(file.path(), path);
            // Replaced by a rename, as archives are: the map still has the old bytes.
            std::fs::write(folder.path().join("new"), b"new").unwrap();
            std::fs::rename(folder.path().join("new"), &path).unwrap();
            assert!(std::thread::spawn(move || file.as_ref().to_vec()).join().unwrap() == bytes);
        };
        check(b"");
        check(b"x");
        check(&[7; 100_001]);
        assert_eq!(MappedFile::open(folder.path()).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(MappedFile::open(&folder.path().join("gone")).unwrap_err().kind(), ErrorKind::Io);
    }
}
