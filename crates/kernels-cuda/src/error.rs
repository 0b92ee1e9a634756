//! What can go wrong with a GPU.

/// A result with this crate's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a GPU.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No driver is installed, or it has no GPU.
    #[error("{0}")]
    NoDevice(String),
    /// The driver or the GPU is too old.
    #[error("{0}")]
    Unsupported(String),
    /// Memory of the GPU, or pinned memory of the host, is short.
    #[error("{wanted_bytes} bytes of {what} are not to be had{}", free_bytes.map_or(String::new(), |free| format!("; {free} bytes are free")))]
    OutOfMemory {
        /// "GPU memory" or "pinned host memory".
        what: &'static str,
        /// Bytes that were asked for.
        wanted_bytes: usize,
        /// Bytes that are free, where known.
        free_bytes: Option<usize>,
    },
    /// A call of the driver failed.
    #[error("{call}: {what}")]
    Driver {
        /// The call.
        call: &'static str,
        /// Name and text of the driver's error.
        what: String,
    },
    /// The cache of keys and values has too few free pages for a sequence.
    #[error("{n_positions} positions of a sequence do not fit the cache; {n_fitting} do now")]
    CacheFull {
        /// Positions that were asked for.
        n_positions: usize,
        /// Positions that this sequence could have now.
        n_fitting: usize,
    },
    /// Arguments that contradict each other.
    #[error("{0}")]
    InvalidArgument(String),
}
