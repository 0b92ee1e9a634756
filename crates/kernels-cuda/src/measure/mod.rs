//! How fast a GPU is, by its own clock: memory, and linear layers in every layout and way. Goes in: a shape. Comes out: a
//! [`Timing`] for each way. What is compared takes turns, round by round; launches are captured where that is possible, so
//! that a timing has no gaps between them; weights stand in memory several times, more than the second-level cache holds.

mod linear;
mod memory;
mod timing;

pub use linear::{Linears, Setup, Way};
pub use memory::{Bandwidth, bandwidth};
pub use timing::{Contender, Effort, Timing, time};
