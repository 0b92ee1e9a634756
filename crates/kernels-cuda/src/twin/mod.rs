//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

mod linear;
mod norm;
mod sums;

pub use linear::linear;
pub use norm::rms_norm;
