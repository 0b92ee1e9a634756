//! What can go wrong with a file, and where: one enum with the kinds that a caller can act on.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result of this crate and of `netweight-pack`.
pub type Result<T> = std::result::Result<T, Error>;

/// Where something went wrong, as far as known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The file or folder.
    pub path: Option<PathBuf>,
    /// The tensor.
    pub tensor: Option<String>,
    /// Offset in bytes in the file.
    pub offset: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if let Some(path) = &self.path {
            write!(f, "{}", path.display())?;
            separator = ", ";
        }
        if let Some(tensor) = &self.tensor {
            write!(f, "{separator}tensor {tensor:?}")?;
            separator = ", ";
        }
        if let Some(offset) = self.offset {
            write!(f, "{separator}offset {offset}")?;
            separator = ", ";
        }
        if separator.is_empty() { Ok(()) } else { f.write_str(": ") }
    }
}

/// An error with its place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file ends before what it announces.
    #[error("{place}truncated: {expected} bytes expected, {actual} there")]
    Truncated {
        /// Where.
        place: Place,
        /// Bytes that should be there.
        expected: u64,
        /// Bytes that are there.
        actual: u64,
    },
    /// The file breaks a rule of its format.
    #[error("{place}corrupt: {what}")]
    Corrupt {
        /// Where.
        place: Place,
        /// The rule.
        what: Cow<'static, str>,
    },
    /// The file is of a newer format than this program reads.
    #[error("{place}unsupported: {what}")]
    Unsupported {
        /// Where.
        place: Place,
        /// What is not supported, and what is.
        what: Cow<'static, str>,
    },
    /// The caller asked for something that cannot be done.
    #[error("{place}{what}")]
    InvalidArgument {
        /// Where.
        place: Place,
        /// Why not.
        what: Cow<'static, str>,
    },
    /// The operating system refused.
    #[error("{place}{}", io_text(source))]
    Io {
        /// Where.
        place: Place,
        /// What it said.
        source: io::Error,
    },
    /// The caller wants no more of it.
    #[error("{place}interrupted")]
    Interrupted {
        /// Where.
        place: Place,
    },
}

fn io_text(source: &io::Error) -> Cow<'static, str> {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "no space left on this disk; free some or choose another destination, then run the same command \
             again: finished files of a folder are kept"
                .into()
        }
        _ => source.to_string().into(),
    }
}

/// The kinds of [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// See [`Error::Truncated`].
    Truncated,
    /// See [`Error::Corrupt`].
    Corrupt,
    /// See [`Error::Unsupported`].
    Unsupported,
    /// See [`Error::InvalidArgument`].
    InvalidArgument,
    /// See [`Error::Io`].
    Io,
    /// See [`Error::Interrupted`].
    Interrupted,
}

impl Error {
    /// A [`Error::Truncated`] without a place.
    pub fn truncated(expected: u64, actual: u64) -> Error {
        Error::Truncated { place: Place::default(), expected, actual }
    }

    /// A [`Error::Corrupt`] without a place.
    pub fn corrupt(what: impl Into<Cow<'static, str>>) -> Error {
        Error::Corrupt { place: Place::default(), what: what.into() }
    }

    /// A [`Error::Unsupported`] without a place.
    pub fn unsupported(what: impl Into<Cow<'static, str>>) -> Error {
        Error::Unsupported { place: Place::default(), what: what.into() }
    }

    /// A [`Error::InvalidArgument`] without a place.
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Error {
        Error::InvalidArgument { place: Place::default(), what: what.into() }
    }

    /// A [`Error::Io`] at `path`.
    pub fn io(path: &Path, source: io::Error) -> Error {
        Error::Io { place: Place { path: Some(path.to_path_buf()), ..Place::default() }, source }
    }

    /// A [`Error::Interrupted`] without a place.
    pub fn interrupted() -> Error {
        Error::Interrupted { place: Place::default() }
    }

    /// Which kind it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Truncated { .. } => ErrorKind::Truncated,
            Error::Corrupt { .. } => ErrorKind::Corrupt,
            Error::Unsupported { .. } => ErrorKind::Unsupported,
            Error::InvalidArgument { .. } => ErrorKind::InvalidArgument,
            Error::Io { .. } => ErrorKind::Io,
            Error::Interrupted { .. } => ErrorKind::Interrupted,
        }
    }

    /// Where it happened.
    pub fn place(&self) -> &Place {
        match self {
            Error::Truncated { place, .. }
            | Error::Corrupt { place, .. }
            | Error::Unsupported { place, .. }
            | Error::InvalidArgument { place, .. }
            | Error::Io { place, .. }
            | Error::Interrupted { place } => place,
        }
    }

    fn place_mut(&mut self) -> &mut Place {
        match self {
            Error::Truncated { place, .. }
            | Error::Corrupt { place, .. }
            | Error::Unsupported { place, .. }
            | Error::InvalidArgument { place, .. }
            | Error::Io { place, .. }
            | Error::Interrupted { place } => place,
        }
    }

    /// The same error with the file's path, unless it has one.
    #[must_use]
    pub fn in_file(mut self, path: &Path) -> Error {
        self.place_mut().path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// The same error with the tensor's name, unless it has one.
    #[must_use]
    pub fn in_tensor(mut self, name: &str) -> Error {
        self.place_mut().tensor.get_or_insert_with(|| name.to_owned());
        self
    }

    /// The same error with an offset in bytes, unless it has one.
    #[must_use]
    pub fn at_offset(mut self, offset: u64) -> Error {
        self.place_mut().offset.get_or_insert(offset);
        self
    }
}

/// Adds a place to the error of a result.
pub trait Context<T> {
    /// See [`Error::in_file`].
    ///
    /// # Errors
    /// The same error.
    fn in_file(self, path: &Path) -> Result<T>;
    /// See [`Error::in_tensor`].
    ///
    /// # Errors
    /// The same error.
    fn in_tensor(self, name: &str) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn in_file(self, path: &Path) -> Result<T> {
        self.map_err(|error| error.in_file(path))
    }

    fn in_tensor(self, name: &str) -> Result<T> {
        self.map_err(|error| error.in_tensor(name))
    }
}

impl<T> Context<T> for io::Result<T> {
    fn in_file(self, path: &Path) -> Result<T> {
        self.map_err(|source| Error::io(path, source))
    }

    fn in_tensor(self, name: &str) -> Result<T> {
        self.map_err(|source| Error::Io { place: Place::default(), source }.in_tensor(name))
    }
}
