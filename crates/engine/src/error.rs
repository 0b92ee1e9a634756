//! What can go wrong between a model's files and its answer: one enum, with the kinds that a caller can act on.

use std::borrow::Cow;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is missing, broken or of an unknown kind; the error inside names it.
    #[error(transparent)]
    File(#[from] netweight_container::Error),
    /// The config is not that of a model that can be run, or a batch does not fit the model.
    #[error(transparent)]
    Config(netweight_model::Error),
    /// The caller asked for something that cannot be done.
    #[error("{0}")]
    InvalidArgument(Cow<'static, str>),
    /// The chat template refused these messages, for example a system message where the model knows none.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// The chat template is broken, or uses what is not supported.
    #[error("the model's chat template cannot be used: {0}")]
    Template(String),
    /// The prompt does not fit into the context. Nothing was run.
    #[error("the prompt has {n_tokens} tokens, but only {n_fit} fit into the context")]
    PromptTooLong {
        /// Tokens of the prompt.
        n_tokens: usize,
        /// Tokens that fit.
        n_fit: usize,
    },
    /// A token id beyond the model's vocabulary.
    #[error("token {id} is beyond the model's vocabulary of {vocab_size} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// Tokens that the model knows.
        vocab_size: usize,
    },
    /// The model computed a logit that is NaN or +Inf, or no token at all is possible.
    #[error("the model's logits are not usable: {0}")]
    Logits(&'static str),
    /// [`Interrupt`](crate::Interrupt) was set while the model ran.
    #[error("interrupted")]
    Interrupted,
    /// A GPU, its driver or its memory.
    #[error(transparent)]
    Device(#[from] netweight_kernels_cuda::Error),
    /// The weights do not fit into a GPU's memory, even where all stream in that can.
    #[error(
        "the weights take {needed_bytes} bytes of GPU memory, at least {least_bytes} where they stream in; besides \
         a context of {context} tokens and what runs on it, {free_bytes} are to be had"
    )]
    GpuTooSmall {
        /// Bytes of all weights.
        needed_bytes: u64,
        /// Bytes where as much streams in from the host as can.
        least_bytes: u64,
        /// Bytes that weights may take.
        free_bytes: u64,
        /// Tokens of context.
        context: usize,
        /// Tokens of context with which they would fit; `None` where that is not enough.
        fitting_context: Option<usize>,
    },
    /// The backend failed.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
}

/// What a backend failed with comes out as what it is.
impl From<netweight_model::Error> for Error {
    fn from(error: netweight_model::Error) -> Error {
        let netweight_model::Error::Backend(error) = error else { return Error::Config(error) };
        match error.downcast::<netweight_kernels_cuda::Error>() {
            Ok(error) => Error::Device(*error),
            Err(error) => error.downcast::<Error>().map_or_else(Error::Backend, |error| *error),
        }
    }
}

impl Error {
    /// An [`Error::InvalidArgument`].
    pub fn invalid(what: impl Into<Cow<'static, str>>) -> Error {
        Error::InvalidArgument(what.into())
    }
}
