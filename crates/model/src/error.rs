//! What can go wrong with a configuration or a batch, as an enum that a caller can act on.

use std::error::Error as StdError;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text is not JSON, or not an object.
    #[error("config.json is not a JSON object: {0}")]
    NotJson(String),
    /// No family of that name is declared.
    #[error("unknown architecture {found:?}; known: {}", known.join(", "))]
    UnknownArchitecture {
        /// What the configuration names.
        found: String,
        /// Names of all declared families.
        known: Vec<&'static str>,
    },
    /// A field without which the model is not defined is missing or null.
    #[error("config.json has no {field:?}")]
    Missing {
        /// Path of the field, as `text_config.hidden_size`.
        field: String,
    },
    /// A field has the wrong type, is out of range, or contradicts another one.
    #[error("config.json: {field:?} is {found}, expected {expected}")]
    Invalid {
        /// Path of the field.
        field: String,
        /// Its value, shortened.
        found: String,
        /// What would be right.
        expected: String,
    },
    /// The configuration asks for something that is not built.
    #[error("config.json: {field:?} asks for {found}, which is not supported")]
    Unsupported {
        /// Path of the field.
        field: String,
        /// What it asks for, shortened.
        found: String,
    },
    /// A batch or a size does not fit the model, the workspace or the cache: the caller's mistake.
    #[error("{0}")]
    InvalidArgument(String),
    /// The backend failed; only backends on devices do.
    #[error("the backend failed: {0}")]
    Backend(#[source] Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// An `Invalid`, with the found value shortened.
    pub(crate) fn invalid(field: impl Into<String>, found: impl ToString, expected: impl Into<String>) -> Error {
        Error::Invalid { field: field.into(), found: shortened(&found.to_string()), expected: expected.into() }
    }

    /// An `Unsupported`, with the found value shortened.
    pub(crate) fn unsupported(field: impl Into<String>, found: impl ToString) -> Error {
        Error::Unsupported { field: field.into(), found: shortened(&found.to_string()) }
    }
}

/// Characters of a found value that are quoted: a file must not fill the terminal.
const MAX_QUOTED_CHARS: usize = 60;

pub(crate) fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let start: String = chars.by_ref().take(MAX_QUOTED_CHARS).collect();
    if chars.next().is_some() { format!("{start}...") } else { start }
}
