//! What each kernel computes, in scalar Rust: its definition. Rows are slices, one token each.

pub mod attention;
mod draw;
mod likeliest;
mod linear;
pub mod math;
mod norm;
pub mod pointwise;
mod random;
mod rope;
pub mod routing;
mod sums;
mod wide;

pub use draw::{Draw, MAX_DRAW_WIDTH, draw, short_of, weight};
pub use likeliest::likeliest;
pub use linear::linear;
pub use norm::{head_norm, rms_norm};
pub use random::random_half;
pub(crate) use random::step_of;
pub use rope::rope;
pub use wide::wide_linear;
