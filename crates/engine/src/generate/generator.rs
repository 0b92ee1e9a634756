//! The generation loop: goes in a prompt, comes out an answer, piece by piece on the way. Next in the flow:
//! session.rs.
//!
//! ```text
//! keep what the cache shares with the prompt; run the rest in chunks
//! loop: sample a token from the last logits, unless the decoder has chosen one
//!       ends the text? tokens become text, text that cannot become a stop string goes to the caller
//!       a limit reached? run the token
//! ```

use std::ops::ControlFlow;
use std::time::Instant;

use super::sequence::Sequence;
use super::{Answer, Event, Options, Statistics, StopMatcher, StopReason};
use crate::{Decoder, Error, Interrupt, Result, Sampler, TextStream, Tokenizer};

/// A model and its tokenizer, ready to generate. The cache stays from run to run, so that a prompt that begins as the
/// one before and its answer only runs from where it differs.
///
/// ```
/// use std::ops::ControlFlow;
/// use netweight_engine::{Event, Generator, Interrupt, Options, Tokenizer};
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
/// let prompt = tokenizer.encode_prompt("A")?;
/// let mut generator = Generator::new(decoder, tokenizer)?; // decoder: any model
/// let options = Options { max_new_tokens: Some(4), ..Options::default() };
/// let answer = generator.generate(&prompt, &options, &Interrupt::new(), |event| {
///     if let Event::Text(piece) = event {
///         print!("{piece}");
///     }
///     ControlFlow::Continue(())
/// })?;
/// assert_eq!(answer.text, "BCDE"); // this model says the alphabet
/// assert_eq!(answer.reason.name(), "length");
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct Generator<D> {
    sequence: Sequence<D>,
    tokenizer: Tokenizer,
}

impl<D: Decoder> Generator<D> {
    /// A generator with an empty cache, in slot 0 of the decoder.
    ///
    /// # Errors
    /// `InvalidArgument` where tokenizer and model do not belong together, as [`Tokenizer::check_fits`].
    pub fn new(decoder: D, mut tokenizer: Tokenizer) -> Result<Generator<D>> {
        tokenizer.check_fits(decoder.vocab_size())?;
        Ok(Generator { sequence: Sequence::new(decoder), tokenizer })
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model.
    pub fn decoder(&self) -> &D {
        &self.sequence.decoder
    }

    /// Tokens that fit into the context.
    pub fn context_len(&self) -> usize {
        self.sequence.decoder.max_positions()
    }

    /// Tokens whose keys and values are in the cache.
    pub fn cached(&self) -> &[u32] {
        self.sequence.cached()
    }

    /// Forgets what the cache has.
    pub fn reset(&mut self) {
        self.sequence.clear();
    }

    /// Generates. `on_event` hears of progress and text, and ends the run with `Break`. An interrupt is no error: the
    /// answer so far comes back with its reason.
    ///
    /// # Errors
    /// Before anything runs: `InvalidArgument`, `PromptTooLong`, `TokenOutOfRange`. On the way: `Logits`, `Backend`,
    /// and what the tokenizer has; the cache stays usable.
    pub fn generate(
        &mut self,
        prompt: &[u32], // (n_prompt_tokens), at least one
        options: &Options,
        interrupt: &Interrupt,
        mut on_event: impl FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let Generator { sequence, tokenizer } = self;
        let run = Run::new(prompt, options, sequence, tokenizer)?;
        run.run(sequence, interrupt, &mut on_event)
    }
}

/// What one answer needs while it grows.
struct Run<'a> {
    prompt: &'a [u32], // (n_prompt_tokens)
    options: &'a Options,
    tokenizer: &'a Tokenizer,
    sampler: Sampler,
    matcher: StopMatcher,
    stop_tokens: Vec<(u32, usize)>, // stop strings that are special tokens, by id
    stream: TextStream<'a>,
    answer: Answer,
}

impl<'a> Run<'a> {
    /// Checks everything that can be checked before work begins.
    fn new<D: Decoder>(
        prompt: &'a [u32], // (n_prompt_tokens)
        options: &'a Options,
        sequence: &Sequence<D>,
        tokenizer: &'a Tokenizer,
    ) -> Result<Run<'a>> {
        let (vocab_size, n_fit) = (sequence.decoder.vocab_size(), sequence.decoder.max_positions());
        let n_tokens = prompt.len();
        if n_tokens == 0 {
            return Err(Error::invalid("the prompt is empty: there is nothing to continue"));
        }
        if n_tokens > n_fit {
            return Err(Error::PromptTooLong { n_tokens, n_fit });
        }
        if let Some(&id) = prompt.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::TokenOutOfRange { id, vocab_size });
        }
        let mut sampler = Sampler::new(&options.sampling, vocab_size)?;
        sampler.begin(prompt);
        let stop_token = |(idx, stop): (usize, &String)| Some((tokenizer.special_id(stop)?, idx));
        let stream = if options.continues_text { tokenizer.stream().after(prompt)? } else { tokenizer.stream() };
        let statistics = Statistics { n_prompt_tokens: n_tokens, ..Statistics::default() };
        Ok(Run {
            prompt,
            options,
            tokenizer,
            sampler,
            matcher: StopMatcher::new(&options.stops)?,
            stop_tokens: options.stops.iter().enumerate().filter_map(stop_token).collect(),
            stream,
            answer: Answer { text: String::new(), tokens: Vec::new(), reason: StopReason::MaxNewTokens, statistics },
        })
    }

    fn run<D: Decoder>(
        mut self,
        sequence: &mut Sequence<D>,
        interrupt: &Interrupt,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<Answer> {
        let begin = Instant::now();
        let prefilled = self.prefill(sequence, interrupt, on_event)?;
        self.answer.statistics.prefill_seconds = begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        self.answer.reason = match prefilled {
            ControlFlow::Break(reason) => reason,
            ControlFlow::Continue(()) => self.decode(sequence, interrupt, on_event)?,
        };
        self.finish_text(on_event)?;
        self.answer.statistics.decode_seconds = begin.elapsed().as_secs_f64();
        self.answer.statistics.n_generated_tokens = self.answer.tokens.len();
        Ok(self.answer)
    }

    fn prefill<D: Decoder>(
        &mut self,
        sequence: &mut Sequence<D>,
        interrupt: &Interrupt,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<StopReason>> {
        let prompt = self.prompt;
        let n_cached = sequence.keep_common(prompt);
        self.answer.statistics.n_cached_tokens = n_cached;
        let mut is_ended = false;
        let mut progress = |n_done: usize| {
            let flow = on_event(Event::Prefill { n_done, n_total: prompt.len() });
            is_ended = flow.is_break();
            flow
        };
        if progress(n_cached).is_break() {
            return Ok(ControlFlow::Break(StopReason::Caller));
        }
        match sequence.run(&prompt[n_cached..], interrupt, &mut progress) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(Error::Interrupted) if is_ended => Ok(ControlFlow::Break(StopReason::Caller)),
            Err(Error::Interrupted) => Ok(ControlFlow::Break(StopReason::Interrupted)),
            Err(error) => Err(error),
        }
    }

    fn decode<D: Decoder>(
        &mut self,
        sequence: &mut Sequence<D>,
        interrupt: &Interrupt,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<StopReason> {
        let max_new_tokens = self.options.max_new_tokens.unwrap_or(usize::MAX);
        let mut chosen = None; // by the decoder, where it does that
        while self.answer.tokens.len() < max_new_tokens {
            if interrupt.is_set() {
                return Ok(StopReason::Interrupted);
            }
            let id = match chosen.take() {
                Some(id) => id,
                None => self.sampler.sample(sequence.logits())?,
            };
            if let ControlFlow::Break(reason) = self.take(id, on_event)? {
                return Ok(reason);
            }
            if self.answer.tokens.len() == max_new_tokens {
                break; // the last token's logits are of no use
            }
            if !sequence.has_room() {
                return Ok(StopReason::ContextFull);
            }
            let ran = match self.sampler.choice() {
                Some(choice) => sequence.run_and_choose(id, &choice, interrupt),
                None => Ok(None),
            };
            let ran = match ran {
                Ok(None) => sequence.run(&[id], interrupt, |_| ControlFlow::Continue(())),
                Ok(found) => {
                    chosen = found;
                    self.sampler.skip();
                    Ok(())
                }
                Err(error) => Err(error),
            };
            match ran {
                Ok(()) => self.answer.statistics.n_decode_steps += 1,
                Err(Error::Interrupted) => return Ok(StopReason::Interrupted),
                Err(error) => return Err(error),
            }
        }
        Ok(StopReason::MaxNewTokens)
    }

    /// Takes a chosen token: does it end the answer, and what text is certain now?
    fn take(
        &mut self,
        id: u32,
        on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<StopReason>> {
        self.answer.tokens.push(id);
        let flow = on_event(Event::Token(id));
        if self.tokenizer.is_eos(id) && !self.options.ignore_eos {
            return Ok(ControlFlow::Break(StopReason::EndOfText(id)));
        }
        if let Some((_, idx)) = self.stop_tokens.iter().find(|(stop_id, _)| *stop_id == id) {
            return Ok(ControlFlow::Break(StopReason::StopString(*idx)));
        }
        let text = self.matcher.push(self.stream.push(id)?);
        let is_ended = flow.is_break() || give(&mut self.answer, text, on_event).is_break();
        Ok(match self.matcher.stopped_by() {
            Some(idx) => ControlFlow::Break(StopReason::StopString(idx)),
            None if is_ended => ControlFlow::Break(StopReason::Caller),
            None => ControlFlow::Continue(()),
        })
    }

    /// Gives what was held back, unless the caller wants no more. It may complete a stop string.
    fn finish_text(&mut self, on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> Result<()> {
        if self.matcher.stopped_by().is_some() || self.answer.reason == StopReason::Caller {
            return Ok(());
        }
        let text = self.matcher.push(self.stream.finish()?);
        _ = give(&mut self.answer, text, on_event);
        match self.matcher.stopped_by() {
            Some(idx) => self.answer.reason = StopReason::StopString(idx),
            None => _ = give(&mut self.answer, self.matcher.finish(), on_event),
        }
        Ok(())
    }
}

/// Adds a piece to the answer and tells the caller.
fn give(answer: &mut Answer, text: &str, on_event: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>) -> ControlFlow<()> {
    if text.is_empty() {
        return ControlFlow::Continue(());
    }
    answer.text.push_str(text);
    on_event(Event::Text(text))
}
