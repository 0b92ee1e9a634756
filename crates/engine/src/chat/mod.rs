//! Between messages and a prompt: goes in a conversation, comes out the text that the model was trained to answer, by
//! the template that its publisher ships. Next in the flow: generate/mod.rs.

mod find;
mod functions;
mod message;
mod methods;
mod python;
mod template;

pub use message::{Message, Rendering, plain_prompt};
pub use template::ChatTemplate;
