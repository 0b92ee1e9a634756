//! Between logits and a token: goes in one row of logits, comes out a token id, the same on every machine. Next in the
//! flow: ../generate/mod.rs.
//!
//! The steps, in the order of the Python library transformers:
//!
//! ```text
//! penalties      weaken tokens that occurred                                      penalties.rs
//! temperature    divides the logits; 0 takes the likeliest token and ends here
//! top_k          keeps the k likeliest tokens                                     select.rs
//! top_p          keeps the likeliest tokens until their probabilities reach p     select.rs
//! min_p          keeps tokens of at least that share of the likeliest one's probability
//! draw           one of the rest, with its probability
//! ```
//!
//! Of tokens with equal logits the one with the smaller id counts as likelier. Probabilities are f64, computed with
//! additions and multiplications only (exp.rs), in an order that does not depend on the machine; random numbers are
//! those of xoshiro256** 1.0, seeded by SplitMix64, both published and fixed.

mod config;
mod exp;
mod penalties;
mod sample;
mod select;

pub use config::Sampling;
pub use sample::Sampler;
