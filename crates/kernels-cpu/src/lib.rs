//! CPU kernels: linear layers over tiles, attention, norms, and the pool of threads that runs them.
#![deny(unsafe_code)]

mod error;
mod isa;

#[allow(unsafe_code)]
mod pool;

pub use error::{Error, Result};
pub use isa::Isa;
pub use pool::{Pool, Work};
