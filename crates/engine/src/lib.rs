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

mod generate;

pub use chat::{ChatTemplate, Message, Rendering, plain_prompt};
pub use cpu::{CpuDecoder, CpuOptions, DEFAULT_POSITIONS, LoadReport, read_spec};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use generate::{Answer, Event, Generator, Options, Session, Statistics, StopMatcher, StopReason};
pub use interrupt::Interrupt;
pub use netweight_kernels_cpu::{Isa, KvType, Precision};
pub use netweight_layout::Layout;
pub use sampler::{Sampler, Sampling};
pub use store::Store;
pub use text::{GenerationConfig, SideFiles, TextStream, Tokenizer};
