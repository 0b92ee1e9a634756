//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod buffer;
mod norm;
mod pointwise;

pub use buffer::Buffer;
pub use norm::rms_norm;
pub use pointwise::{Activation, add, gate, gather, scale, scatter_add, softcap, zero};
