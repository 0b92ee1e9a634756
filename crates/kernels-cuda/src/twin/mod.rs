//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

pub mod math;
mod norm;
pub mod pointwise;
mod sums;

pub use norm::rms_norm;
