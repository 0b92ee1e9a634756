//! Models on the CPU.

mod backend;
mod decoder;
mod observe;
mod source;

pub use decoder::CpuDecoder;
pub use observe::Activations;
