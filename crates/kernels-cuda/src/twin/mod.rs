//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

pub mod attention;
pub mod math;
mod norm;
pub mod pointwise;
mod rope;
mod sums;

pub use norm::{head_norm, rms_norm};
pub use rope::rope;
