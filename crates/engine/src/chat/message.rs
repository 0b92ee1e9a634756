//! What a template renders: messages and options. Next in the flow: template.rs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation.
///
/// ```
/// use netweight_engine::Message;
///
/// let message = Message::user("Who wrote Emma?");
/// assert_eq!(message.role, "user");
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Further fields that templates may read, such as `tool_calls` or `reasoning_content`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: content.into(), more: Map::new() }
    }

    /// What the model should be.
    pub fn system(content: impl Into<String>) -> Message {
        Message::new("system", content)
    }

    /// What a person says.
    pub fn user(content: impl Into<String>) -> Message {
        Message::new("user", content)
    }

    /// What the model said.
    pub fn assistant(content: impl Into<String>) -> Message {
        Message::new("assistant", content)
    }
}

/// How messages are rendered.
#[derive(Clone, Debug, Default)]
pub struct Rendering {
    /// Whether the prompt ends with what opens an answer. Not wanted where the last message is itself an answer.
    pub add_generation_prompt: bool,
    /// Descriptions of tools that the model may call, in the form that the template wants; mostly a list of JSON
    /// schemas.
    pub tools: Option<Value>,
    /// Further variables that some templates read, such as `enable_thinking`.
    pub variables: Map<String, Value>,
}

impl Rendering {
    /// For a prompt that the model should answer.
    ///
    /// ```
    /// assert!(netweight_engine::Rendering::for_answer().add_generation_prompt);
    /// ```
    pub fn for_answer() -> Rendering {
        Rendering { add_generation_prompt: true, ..Rendering::default() }
    }
}

/// A prompt for models that have no chat template: the messages' texts, a blank line between them. Such a model was
/// not trained to converse, so nothing more can be expected than a continuation; callers should say so.
///
/// ```
/// use netweight_engine::{Message, plain_prompt};
///
/// assert_eq!(plain_prompt(&[Message::system("Facts."), Message::user("Water boils at")]), "Facts.\n\nWater boils at");
/// ```
pub fn plain_prompt(messages: &[Message]) -> String {
    let texts: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
    texts.join("\n\n")
}
