//! Exact entropy coding of neural-network weights.
//!
//! A trained weight is a sign and a mantissa that are all but random, and an exponent that is not: of the eight
//! exponent bits of a bf16 weight fewer than three carry information. This crate takes a chunk of a tensor
//! apart into planes ([`Encoder`]), codes the planes that are worth it with asymmetric numeral systems, and puts
//! it together again bit for bit ([`Decoder`]), at about the speed of a memory copy.
//!
//! It knows bytes and dtypes only: no files, no threads. `docs/format.md` (sections 4 and 5) is its contract;
//! the scalar files are the same in code; the other files are faster spellings of those.
//!
//! Suggested reading: [`split`](self) (what a chunk is made of), `decode.rs`, `rans8/`, `rans12/`, then
//! `choose.rs` and `encode.rs`; `kernels/mod.rs` is the table of instruction sets.
#![deny(unsafe_code)]

mod split;

mod decode;
mod error;
mod reader;

// Vector code; each file says why its `unsafe` is sound.
#[allow(unsafe_code)]
mod kernels;
#[allow(unsafe_code)]
mod rans12;
#[allow(unsafe_code)]
mod rans8;

mod choose;
mod encode;
mod escapes;
mod level;
mod log2;
mod normalize;

mod bound;
mod describe;

pub use bound::{Bound, BoundReport};
pub use decode::{Decoder, MAX_CHUNK_BYTES};
pub use describe::{ChunkInfo, PlaneInfo, checksum, describe_chunk, isa, isas};
pub use encode::Encoder;
pub use error::Error;
pub use level::Level;

#[cfg(test)]
mod tests;
