//! One safe function for each kernel: it checks lengths, and issues. What a kernel computes is in `twin`.

mod buffer;
mod decode;
pub(crate) mod encode;
mod experts;
mod heads;
mod linear;
mod norm;
mod pointwise;
mod prefill;

pub use buffer::Buffer;
pub use decode::{decode, embed};
pub use experts::{ExpertTable, MAX_TOP_K, Sent, combine_experts};
pub use heads::{Heads, head_norm, rope};
pub use linear::{Epilogue, MAX_PARTS, Part, gated_linear, is_gate_and_up, linear};
pub use norm::{add_rms_norm, rms_norm};
pub use pointwise::{Activation, add, gate, gather, scale, scatter_add, softcap, zero};
pub use prefill::Prefill;
