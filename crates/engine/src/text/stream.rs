//! Decodes token by token: goes in one id at a time, comes out the text that is certain by then. Next in the flow:
//! chat/mod.rs.
//!
//! What a token adds to a text depends on its neighbours: a character may be spread over several tokens, and some
//! decoders drop the first space. So a *window* of tokens is decoded again and again, and what it has more than last
//! time is given out:
//!
//! ```text
//! window = context, whose text was given | tokens since
//! text = decode(window); give out text - given, but not what could still become another character
//! where all of it was given, the tokens since become the context of the next window
//! ```

use super::Tokenizer;
use crate::Result;

/// Stands for bytes that are no character, or not yet.
const REPLACEMENT: char = '\u{FFFD}';
/// Bytes of a character that is not complete yet; each may stand as one [`REPLACEMENT`].
const MAX_INCOMPLETE_BYTES: usize = 3;
/// Tokens of a prompt's end that are decoded with the text that follows.
const MAX_CONTEXT_TOKENS: usize = 16;
/// Tokens in the window that wait for a decoder to give again what it gave before.
const MAX_WAITING_TOKENS: usize = 16;

/// Decodes token by token. The pieces together are the text of [`Tokenizer::decode`], unless that has bytes that are
/// no UTF-8: then decoders with byte tokens replace more of them than is replaced here.
///
/// ```
/// use netweight_engine::Tokenizer;
///
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
/// let tokenizer = Tokenizer::read(folder)?;
/// let mut stream = tokenizer.stream();
/// let mut text = String::new();
/// for id in tokenizer.encode("a 🐛 in a book")? {
///     text.push_str(stream.push(id)?); // "" until the 🐛 is complete
/// }
/// text.push_str(stream.finish()?);
/// assert_eq!(text, "a 🐛 in a book");
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    with_special: bool,
    window: Vec<u32>,
    n_context_tokens: usize,
    n_context_bytes: usize,
    given: String, // text of the window that was given out, the context's included
    piece: String,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> TextStream<'a> {
        TextStream {
            tokenizer,
            with_special: false,
            window: Vec::new(),
            n_context_tokens: 0,
            n_context_bytes: 0,
            given: String::new(),
            piece: String::new(),
        }
    }

    /// The same stream with special tokens written out.
    #[must_use]
    pub fn with_special(mut self) -> TextStream<'a> {
        self.with_special = true;
        self
    }

    /// The same stream in the middle of a text: after these tokens, so that a space before the first word stays.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn after(
        mut self,
        ids: &[u32], // (n_tokens)
    ) -> Result<TextStream<'a>> {
        self.window = ids[ids.len().saturating_sub(MAX_CONTEXT_TOKENS)..].to_vec();
        self.window_becomes_context()?;
        Ok(self)
    }

    /// Takes one more token; gives the text that is certain now, often that of this token, sometimes none.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, id: u32) -> Result<&str> {
        self.window.push(id);
        self.advance(false)
    }

    /// Gives what was held back, characters that were never completed included, and begins a new text.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<&str> {
        self.advance(true)?;
        self.window.clear();
        self.window_becomes_context()?;
        Ok(&self.piece)
    }

    fn advance(&mut self, is_end: bool) -> Result<&str> {
        self.piece.clear();
        let text = self.tokenizer.decode_with(&self.window, self.with_special)?;
        let Some(new) = text.strip_prefix(self.given.as_str()) else {
            return self.advance_without_context(&text, is_end);
        };
        let certain = if is_end { new } else { &new[..new.len() - uncertain_bytes(new)] };
        self.piece.push_str(certain);
        if certain.len() == new.len() && !new.is_empty() {
            self.window.drain(..self.n_context_tokens);
            self.window_becomes_context()?;
        } else {
            self.given.push_str(certain);
        }
        Ok(&self.piece)
    }

    /// The decoder gives another text now for what was given out already: byte tokens do that while a character is
    /// not complete, and for good where they are no UTF-8. Then the new tokens have to stand for themselves.
    fn advance_without_context(&mut self, text: &str, is_end: bool) -> Result<&str> {
        let n_waiting = self.window.len() - self.n_context_tokens;
        if !is_end && text.ends_with(REPLACEMENT) && n_waiting < MAX_WAITING_TOKENS {
            return Ok(&self.piece);
        }
        self.window.drain(..self.n_context_tokens);
        let new = self.tokenizer.decode_with(&self.window, self.with_special)?;
        let n_given_bytes = self.given.len() - self.n_context_bytes;
        self.piece.push_str(new.get(n_given_bytes..).unwrap_or_default());
        self.window_becomes_context()?;
        Ok(&self.piece)
    }

    fn window_becomes_context(&mut self) -> Result<()> {
        self.given = self.tokenizer.decode_with(&self.window, self.with_special)?;
        self.n_context_tokens = self.window.len();
        self.n_context_bytes = self.given.len();
        Ok(())
    }
}

/// Bytes at the end of a text that the next token may turn into a character.
fn uncertain_bytes(text: &str) -> usize {
    let n_replacements = text.chars().rev().take(MAX_INCOMPLETE_BYTES).take_while(|&c| c == REPLACEMENT).count();
    n_replacements * REPLACEMENT.len_utf8()
}
