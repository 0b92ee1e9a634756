//! Models on the CPU.

mod backend;
mod decoder;
mod source;

pub use decoder::CpuDecoder;
