//! CPU kernels: linear layers over tiles, attention, norms, and the pool of threads that runs them.
#![deny(unsafe_code)]

mod error;
mod isa;

#[allow(unsafe_code)]
mod pool;

mod input;
#[allow(unsafe_code)]
mod linear;

pub use error::{Error, Result};
pub use input::{Input, Precision};
pub use isa::Isa;
pub use linear::{Job, Scratch, linear, rows};
pub use pool::{Pool, Work};
