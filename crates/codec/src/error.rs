//! What can be wrong with a chunk. The container adds file, tensor and offset; only the front ends make text of it.

/// Why a chunk was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The chunk ends before what it announces.
    #[error("truncated: {expected} bytes expected, {actual} there")]
    Truncated {
        /// Bytes that were to be read.
        expected: usize,
        /// Bytes that were left.
        actual: usize,
    },
    /// The chunk breaks a rule of docs/format.md.
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    /// The chunk uses a split or a coder that this version does not know.
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    /// The caller passed something that no chunk can stand for.
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
}
