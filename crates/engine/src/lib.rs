//! Runs models: loads them, tokenizes, applies chat templates, samples, generates.
#![forbid(unsafe_code)]

mod error;
mod interrupt;

pub mod decoder;
mod text;

mod store;

mod load;

mod cpu;

mod chat;

mod sampler;

pub use chat::{ChatTemplate, Message, Rendering, plain_prompt};
pub use cpu::{CpuDecoder, CpuOptions, DEFAULT_POSITIONS, LoadReport, read_spec};
pub use decoder::Decoder;
pub use store::Store;
pub use error::{Error, Result};
pub use interrupt::Interrupt;
pub use sampler::{Sampler, Sampling};
pub use text::{GenerationConfig, SideFiles, TextStream, Tokenizer};
