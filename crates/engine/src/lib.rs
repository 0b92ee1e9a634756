//! Runs models: loads them, tokenizes, applies chat templates, samples, generates.
//!
//! ```text
//! checkpoint or archive -> Store -> CpuDecoder                    weights, transcoded once; logits for tokens
//!                          Store -> Tokenizer, ChatTemplate       text for tokens, a prompt for messages
//! prompt -> Generator -> logits -> Sampler -> token -> TextStream -> StopMatcher -> text, piece by piece
//! messages -> Session -> ChatTemplate -> Generator                a conversation; what the cache has stays
//! ```
//!
//! The text side knows the model only as a [`Decoder`]. A conversation with the small model of the repository:
//!
//! ```
//! use std::ops::ControlFlow;
//! use netweight_engine::{
//!     ChatTemplate, CpuDecoder, LoadOptions, Event, Generator, Interrupt, Options, Session, Store, Tokenizer,
//! };
//!
//! # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
//! let store = Store::open(folder)?;
//! let interrupt = Interrupt::new(); // a handler of Ctrl-C holds a clone
//! let decoder = CpuDecoder::load(&store, &LoadOptions::default(), &interrupt, &|_| ())?;
//! let tokenizer = Tokenizer::read(&store)?;
//! let template = ChatTemplate::read(&store, &tokenizer, None)?;
//!
//! let mut session = Session::new(Generator::new(decoder, tokenizer)?, template);
//! let options = Options { max_new_tokens: Some(8), ..Options::default() };
//! let answer = session.send("Tell me about the sea.", &options, &interrupt, |event| {
//!     if let Event::Text(piece) = event {
//!         print!("{piece}");
//!     }
//!     ControlFlow::Continue(())
//! })?;
//! assert!(answer.statistics.n_generated_tokens > 0);
//! # Ok::<(), netweight_engine::Error>(())
//! ```
#![forbid(unsafe_code)]

mod error;
mod interrupt;

pub mod decoder;
mod text;

mod store;

mod load;
mod options;

mod cpu;

mod cuda;

mod any;

mod chat;

mod sampler;

mod generate;

pub use any::AnyDecoder;
pub use chat::{ChatTemplate, Message, Rendering, plain_prompt};
pub use cpu::{Activations, CpuDecoder};
pub use cuda::{CudaDecoder, is_of_gpus};
pub use decoder::Decoder;
pub use error::{Error, Result};
pub use generate::{Answer, Event, Generator, Options, Session, Statistics, StopMatcher, StopReason};
pub use interrupt::Interrupt;
pub use load::read_spec;
pub use netweight_kernels_cpu::{Isa, KvType, Precision};
pub use netweight_layout::Layout;
pub use options::{DEFAULT_POSITIONS, DeviceChoice, LoadOptions, LoadReport};
pub use sampler::{Sampler, Sampling};
pub use store::Store;
pub use text::{GenerationConfig, SideFiles, TextStream, Tokenizer};
