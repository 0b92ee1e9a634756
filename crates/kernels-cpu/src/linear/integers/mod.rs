//! Linear layers of indices and int8 activations. Goes in: tiles of an index layout, and activations of precision int8.
//! Comes out: (n_tokens, 16) sums, the same bits on every instruction set. Suggested reading: `scalar.rs` (the
//! definition), `dots.rs` (the same for registers of any width), one of `avx512.rs`, `avx2.rs`, `neon.rs`, then `amx.rs`.

pub(super) mod scalar;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod dots;

#[cfg(target_arch = "x86_64")]
pub(super) mod amx;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(super) mod neon;

#[cfg(test)]
mod tests;
