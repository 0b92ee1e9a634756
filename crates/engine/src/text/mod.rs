//! Between text and token ids: goes in a checkpoint's side files, comes out a [`Tokenizer`] that encodes, decodes and
//! streams. Next in the flow: chat/mod.rs.

mod files;
mod generation_config;
mod settings;
mod stream;
mod tokenizer;

pub use files::SideFiles;
pub use generation_config::GenerationConfig;
pub use stream::TextStream;
pub use tokenizer::Tokenizer;

pub(crate) use files::{json_file, text_file};
pub(crate) use settings::Settings;
