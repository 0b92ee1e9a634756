//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod buffer;
mod decode;
pub(crate) mod encode;
mod experts;
mod linear;
mod norm;
mod prefill;

pub use buffer::Buffer;
pub use decode::{decode, embed};
pub use experts::{ExpertTable, MAX_TOP_K, Sent, combine_experts};
pub use linear::{Activation, Epilogue, MAX_PARTS, Part, gated_linear, is_gate_and_up, linear};
pub use norm::rms_norm;
pub use prefill::Prefill;
