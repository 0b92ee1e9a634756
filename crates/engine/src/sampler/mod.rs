//! Between logits and a token: goes in one row of logits, comes out a token id, the same on every machine. Next in the
//! flow: ../generate/mod.rs.
//!
//! The steps, in the order of the Python library transformers:
//!
//! ```text
//! penalties      weaken tokens that occurred                                      penalties.rs
//! temperature    divides the logits; 0 takes the likeliest token and ends here
//! top_k          keeps the k likeliest tokens, and those as likely as the last    draw.rs
//! top_p          keeps the likeliest tokens until their probabilities reach p, and those as likely as the last
//! min_p          keeps tokens of at least that share of the likeliest one's probability
//! draw           one of the rest, with its probability
//! ```
//!
//! Probabilities are integers, 2^40 of the likeliest token, so that their sums are the same in any order: a decoder that
//! draws on a GPU ([`Choice`](crate::decoder::Choice)) chooses the token that is chosen here. The definition is
//! [`twin::draw`](netweight_kernels_cuda::twin::draw). Random numbers are those of xoshiro256** 1.0, seeded by SplitMix64,
//! both published and fixed, one for each token.

mod config;
mod draw;
mod penalties;
mod sample;

pub use config::Sampling;
pub use sample::Sampler;
