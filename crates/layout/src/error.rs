//! What can be wrong with a group of tiles, or with a call. Callers add the tensor's name; only the front ends make
//! text of it.

/// Why bytes or arguments were refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A group ends before what its header announces.
    #[error("truncated: {expected} bytes expected, {actual} there")]
    Truncated {
        /// Bytes that the header announces, or that a header takes.
        expected: usize,
        /// Bytes that are there.
        actual: usize,
    },
    /// A group breaks a rule of its layout.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// The caller passed lengths or shapes that do not fit each other.
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
