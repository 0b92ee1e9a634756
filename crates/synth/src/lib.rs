//! Synthetic checkpoints: tensors with the shapes of a Llama-3.1-8B layer and the statistics of trained
//! weights, for tests and benchmarks that must not download anything.
//!
//! Goes in: a [`Kind`] of checkpoint, [`Shapes`] and a seed. Comes out: tensors in memory ([`generate`]), one
//! safetensors file ([`write_file`]) or a sharded folder ([`write_checkpoint`]); the writers stream, so memory
//! stays at some tens of MiB per thread however large the output is. A weight is
//! `sigma * row_scale * column_scale * student_t(nu)`, with parameters per tensor ([`recipe`]) chosen so that
//! the bf16 exponent has about 2.64 bits of entropy.
//!
//! The bytes are a function of (kind, shapes, seed) alone, not of the number of threads; a tensor's rows are a
//! function of (seed, tensor name, row), so cutting rows off leaves the others as they were.
//!
//! ```
//! use netweight_synth::{Kind, Shapes, generate};
//! let tensors = generate(Kind::Bf16, &Shapes::TINY, 1);
//! assert_eq!(tensors[0].name, "model.embed_tokens.weight");
//! assert_eq!(tensors[0].bytes.len() as u64, 2 * tensors[0].shape.iter().product::<u64>());
//! ```
#![forbid(unsafe_code)]

mod e4m3;
mod recipe;
mod row;
mod tensor;
mod write;

pub use e4m3::{e4m3_from_f32, e4m3_to_f32};
pub use recipe::{Distribution, Shapes, TensorRecipe, recipe};
pub use tensor::{Kind, Tensor, generate, generate_recipes};
pub use write::{Written, write_checkpoint, write_file};
