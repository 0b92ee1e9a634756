//! A model's card: what it is, what was measured of it and on which texts, and whose word that is.
//!
//! ```text
//! models, texts -> measure -> Evidence          how far predictions lie from the original's, on text it never saw
//! Evidence, files of the archive -> Card        JSON, `netweight-card.json` in the archive's folder
//! Card, private key -> signed card              Ed25519 over the card's bytes as they stand in the file
//! card's bytes -> check                         that the files are those it speaks of, and whose signature it is
//! ```
//!
//! Suggested reading: `card.rs` (what a card says), `evidence.rs` and `measure.rs`, `sign.rs`, `file.rs`.
#![forbid(unsafe_code)]

mod card;
mod evidence;

mod measure;

mod file;
mod sign;

pub use card::{
    Budget, Calibration, Card, FORMAT, FileDigest, Kind, MatrixPrecision, Method, OtherAllocation, Sizes, TextRecord,
};
pub use evidence::{Distribution, Evidence, FreeRun, Role, Scores};
pub use file::{Signed, differing, digests};
pub use measure::{Text, free_run, measure};
pub use netweight_container::CARD_NAME;
pub use sign::{private_key, public_key};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are no card.
    #[error("not a model's card: {0}")]
    Malformed(String),
    /// A card of a later version of this program.
    #[error("a card of format {0}; this program reads {FORMAT}")]
    Newer(u32),
    /// The key cannot be used.
    #[error("{0}")]
    Key(String),
    /// The card was changed after it was signed, or another key signed it.
    #[error("{0}")]
    Signature(String),
    /// Measuring failed.
    #[error(transparent)]
    Eval(#[from] netweight_eval::Error),
    /// A file could not be read.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// The result of what this crate does.
pub type Result<T> = std::result::Result<T, Error>;
