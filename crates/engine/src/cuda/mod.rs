//! Models on NVIDIA GPUs.

mod backend;
mod choose;
mod decoder;
mod experts;
mod graphs;
mod inputs;
mod known;
mod linear;
mod measured;
mod residence;
mod source;
mod times;

pub use decoder::CudaDecoder;
pub use times::is_of_gpus;
