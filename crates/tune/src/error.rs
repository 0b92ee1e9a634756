//! What can go wrong while a model is tuned.

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for something that cannot be done.
    #[error("{0}")]
    InvalidArgument(String),
    /// What enters a linear layer is infinite or not a number.
    #[error(
        "what enters {layer} is not finite: the weights before it are damaged, or the model overflows on this text"
    )]
    NotFinite {
        /// The first matrix that it enters.
        layer: String,
    },
    /// Too few tokens.
    #[error("the calibration text has {n_tokens} tokens; at least {least} are needed, so give a longer one")]
    TextTooShort {
        /// Tokens there are.
        n_tokens: usize,
        /// Tokens that are needed.
        least: usize,
    },
    /// No allocation meets the budget.
    #[error("no precision meets the budget; the best that can be reached is {best}")]
    Budget {
        /// What can be reached, in the budget's words.
        best: String,
    },
    /// The model could not be run, or was interrupted.
    #[error(transparent)]
    Engine(#[from] netweight_engine::Error),
    /// A text could not be scored.
    #[error(transparent)]
    Eval(#[from] netweight_eval::Error),
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] netweight_container::Error),
}

impl Error {
    /// An [`Error::InvalidArgument`].
    pub fn invalid(what: impl Into<String>) -> Error {
        Error::InvalidArgument(what.into())
    }
}
