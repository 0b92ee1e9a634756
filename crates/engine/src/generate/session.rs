//! A conversation: goes in what a person says, comes out the answer, with all that was said before in mind.

use std::ops::ControlFlow;

use super::{Answer, Event, Generator, Options};
use crate::{ChatTemplate, Decoder, Interrupt, Message, Rendering, Result, plain_prompt};

/// A conversation with a model. For each turn all messages are rendered again, as the template wants; what the cache
/// shares with the new prompt does not run again.
///
/// ```
/// use std::ops::ControlFlow;
/// use netweight_engine::{ChatTemplate, Generator, Interrupt, Message, Options, Session, Tokenizer};
/// # use netweight_engine::{Decoder, Result, decoder::Batch};
/// # struct Parrot; // says after each token the one with the next id
/// # impl Decoder for Parrot {
/// #     fn vocab_size(&self) -> usize { 4096 }
/// #     fn max_positions(&self) -> usize { 64 }
/// #     fn max_batch_tokens(&self) -> usize { 8 }
/// #     fn forward(&mut self, batch: &Batch, _: &Interrupt, logits: &mut [f32]) -> Result<()> {
/// #         for (row, &idx) in logits.chunks_mut(4096).zip(batch.logits_for) {
/// #             row.fill(0.0);
/// #             row[(batch.tokens[idx] as usize + 1) % 4096] = 9.0;
/// #         }
/// #         Ok(())
/// #     }
/// # }
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
/// # let decoder = Parrot;
///
/// let tokenizer = Tokenizer::read(folder)?;
/// let template = ChatTemplate::read(folder, &tokenizer, None)?;
/// let mut session = Session::new(Generator::new(decoder, tokenizer)?, template); // decoder: any model
/// let options = Options { max_new_tokens: Some(3), ..Options::default() };
/// let answer = session.send("Hello", &options, &Interrupt::new(), |_| ControlFlow::Continue(()))?;
/// assert_eq!(session.messages(), [Message::user("Hello"), Message::assistant(&*answer.text)]);
/// session.reset();
/// assert!(session.messages().is_empty());
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct Session<D> {
    generator: Generator<D>,
    template: Option<ChatTemplate>,
    /// How messages are rendered: tools and variables of the template.
    pub rendering: Rendering,
    system: Option<Message>,
    messages: Vec<Message>, // without the system message
}

impl<D: Decoder> Session<D> {
    /// A conversation in which nothing was said yet. Without a template [`plain_prompt`] has to do.
    pub fn new(generator: Generator<D>, template: Option<ChatTemplate>) -> Session<D> {
        Session { generator, template, rendering: Rendering::for_answer(), system: None, messages: Vec::new() }
    }

    /// Says what the model should be, from the next turn on. Not every template takes it: the next turn tells.
    pub fn set_system(&mut self, text: Option<&str>) {
        self.system = text.map(Message::system);
    }

    /// Whether the model has a chat template. One without was hardly trained to converse.
    pub fn has_template(&self) -> bool {
        self.template.is_some()
    }

    /// What was said, without the system message.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The generator.
    pub fn generator(&self) -> &Generator<D> {
        &self.generator
    }

    /// Forgets what was said, not what the model should be. The cache keeps what the next prompt may share.
    pub fn reset(&mut self) {
        self.messages.clear();
    }

    /// Says something and generates the answer; both are then part of the conversation. On an error, and where the
    /// answer was interrupted before it began, the conversation is as before.
    ///
    /// # Errors
    /// `Refused`, `Template`; `PromptTooLong` where the conversation with this message does not fit into the context:
    /// [`Session::reset`] makes room; else as [`Generator::generate`].
    pub fn send(
        &mut self,
        text: &str,
        options: &Options,
        interrupt: &Interrupt,
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        self.messages.push(Message::user(text));
        let answered = self.answer(options, interrupt, on_event);
        match &answered {
            Ok(answer) if !(answer.text.is_empty() && answer.reason.name() == "abort") => {
                self.messages.push(Message::assistant(answer.text.as_str()));
            }
            _ => _ = self.messages.pop(),
        }
        answered
    }

    fn answer(
        &mut self,
        options: &Options,
        interrupt: &Interrupt,
        on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let prompt = self.prompt()?;
        let options = Options { continues_text: false, ..options.clone() };
        self.generator.generate(&prompt, &options, interrupt, on_event)
    }

    /// Tokens of all that was said, ready for an answer.
    ///
    /// # Errors
    /// `Refused`, `Template`, and what the tokenizer has.
    pub fn prompt(&self) -> Result<Vec<u32>> {
        let messages: Vec<Message> = self.system.iter().chain(&self.messages).cloned().collect();
        let tokenizer = self.generator.tokenizer();
        match &self.template {
            Some(template) => tokenizer.encode_bare(&template.render(&messages, &self.rendering)?),
            None => tokenizer.encode_prompt(&plain_prompt(&messages)),
        }
    }
}
