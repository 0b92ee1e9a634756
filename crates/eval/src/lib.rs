//! Perplexity, and how far one model's predictions lie from another's.
//!
//! Goes in: models as `netweight_engine::Decoder`, and tokens. Comes out: means with standard errors that count a
//! window as one observation, since tokens of one window depend on each other. Knows nothing of how a model is stored.
#![forbid(unsafe_code)]

mod compare;
mod perplexity;
mod score;
mod stats;
mod windows;

pub use compare::{Comparison, Recorded, compare};
pub use perplexity::{Perplexity, perplexity};
pub use score::{Score, argmax, divergence, score};
pub use stats::{Summary, mean_and_error};
pub use windows::Windows;

/// Called with how many tokens are done, of how many.
pub type Progress<'a> = dyn FnMut(usize, usize) + 'a;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text, the window or the models do not fit each other.
    #[error("{0}")]
    InvalidArgument(String),
    /// A model could not be run, or was interrupted.
    #[error(transparent)]
    Engine(#[from] netweight_engine::Error),
}
