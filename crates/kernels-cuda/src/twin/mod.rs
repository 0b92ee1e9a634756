//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

mod norm;
mod sums;

pub use norm::rms_norm;
