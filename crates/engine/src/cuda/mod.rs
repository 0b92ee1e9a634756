//! Models on NVIDIA GPUs.

mod backend;
mod decoder;
mod experts;
mod graphs;
mod inputs;
mod linear;
mod residence;
mod source;

pub use decoder::CudaDecoder;
