//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod buffer;
mod norm;

pub use buffer::Buffer;
pub use norm::rms_norm;
