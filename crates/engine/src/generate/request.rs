//! What goes into a run besides the prompt, and what comes out. Next in the flow: generator.rs.

use super::Statistics;
use crate::Sampling;

/// How to go on from a prompt. The default takes the likeliest tokens, without limits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    /// How to choose tokens.
    pub sampling: Sampling,
    /// Most tokens to generate; `None`: until the model ends or the context is full.
    pub max_new_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it. One that is exactly a special token ends it as such.
    pub stops: Vec<String>,
    /// Whether tokens that end a text do not: the model goes on until another limit. For measuring.
    pub ignore_eos: bool,
    /// Whether the answer continues the prompt's text, so that a space between them belongs to it. Not so for an
    /// answer to a question.
    pub continues_text: bool,
}

/// What happens during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A part of the prompt has run; also the first event, with what the cache had.
    Prefill {
        /// Tokens in the cache.
        n_done: usize,
        /// Tokens of the prompt.
        n_total: usize,
    },
    /// The next piece of the answer, never empty, never half a character.
    Text(&'a str),
    /// A token was chosen; its text may come later.
    Token(u32),
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StopReason {
    /// The model chose this token, which ends a text.
    EndOfText(u32),
    /// The answer came to the stop string of this index.
    StopString(usize),
    /// `max_new_tokens` were generated.
    MaxNewTokens,
    /// The context is full.
    ContextFull,
    /// [`Interrupt`](crate::Interrupt) was set.
    Interrupted,
    /// The caller's function asked for it.
    Caller,
}

impl StopReason {
    /// In the words of common interfaces: `stop`, `length`, or `abort`.
    pub fn name(self) -> &'static str {
        match self {
            StopReason::EndOfText(_) | StopReason::StopString(_) => "stop",
            StopReason::MaxNewTokens | StopReason::ContextFull => "length",
            StopReason::Interrupted | StopReason::Caller => "abort",
        }
    }
}

/// What a run gave.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Its text, all pieces joined.
    pub text: String,
    /// Its tokens, the one that ended it included.
    pub tokens: Vec<u32>, // (n_generated_tokens)
    /// Why it ended.
    pub reason: StopReason,
    /// How much was run and how long it took.
    pub statistics: Statistics,
}
