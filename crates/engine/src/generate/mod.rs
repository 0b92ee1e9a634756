//! Runs a model: goes in a prompt's tokens, comes out text, piece by piece. Next in the flow: generator.rs, then
//! session.rs, which holds a conversation.

mod generator;
mod request;
mod sequence;
mod session;
mod statistics;
mod stop;

pub use generator::Generator;
pub use request::{Answer, Event, Options, StopReason};
pub use session::Session;
pub use statistics::Statistics;
pub use stop::StopMatcher;
