//! What can be wrong with a request to this crate. Kernels themselves cannot fail: they assert what their callers
//! promised. Only the front ends make text of an error.

use crate::isa;

/// Why something was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No instruction set has that name.
    #[error("unknown instruction set `{name}`: it is one of {}", isa::names())]
    UnknownIsa {
        /// The name that was asked for.
        name: String,
    },
    /// The instruction set is known, but this machine, or its system, does not have it.
    #[error("this machine cannot run the instruction set `{name}`: it has {}", isa::available_names())]
    UnavailableIsa {
        /// The name that was asked for.
        name: &'static str,
    },
    /// The caller passed shapes that this crate does not support.
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
}

/// Results of this crate.
pub type Result<T> = std::result::Result<T, Error>;
