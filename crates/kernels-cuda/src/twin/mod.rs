//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

mod experts;
mod linear;
pub mod math;
mod norm;
pub mod pointwise;
mod rope;
mod sums;
mod wide;

pub use experts::combine_experts;
pub use linear::linear;
pub use norm::{head_norm, rms_norm};
pub use rope::rope;
pub use wide::wide_linear;
