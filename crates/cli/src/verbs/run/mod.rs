//! `netweight run`: answers a prompt, or chats. The main path is [`run`]; what is typed and how a conversation goes is
//! in chat.rs.

mod chat;

use std::io::{self, IsTerminal, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use netweight_engine::{
    Answer, ChatTemplate, Event, GenerationConfig, Generator, Interrupt, Message, Options as GenerateOptions,
    Rendering, Sampling, StopReason, Tokenizer,
};
use serde_json::json;

use crate::failure::{Failure, Kind};
use crate::models::{self, Loaded, ModelArgs, loaded_json, loaded_line};
use crate::signals;
use crate::ui::{self, Ui};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight run Llama-3.1-8B.nw                             Chat; /help lists what can be typed
  netweight run Llama-3.1-8B.nw 'Who wrote Emma?'           One answer
  netweight run Llama-3.1-8B.nw --raw 'It was a dark'       Continue a text, without the chat template
  git diff | netweight run Llama-3.1-8B.nw --system 'Summarise this change.'

Sampling follows the checkpoint's generation_config.json unless a flag says otherwise; --temperature 0 takes the
likeliest token each time. The answer goes to standard output, everything else to standard error.";

/// Answer a prompt, or chat, with a checkpoint or an archive
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a checkpoint or an archive.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// What to answer [default: standard input where that is a file or a pipe, else a chat].
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// What the model should be.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Continue the text as it is, without a chat template.
    #[arg(long)]
    pub raw: bool,
    /// Tokens to generate at most.
    #[arg(long, short = 'n', value_name = "N")]
    pub max_tokens: Option<usize>,
    /// A text that ends the answer; may be given several times.
    #[arg(long = "stop", value_name = "TEXT")]
    pub stops: Vec<String>,
    /// How to choose tokens.
    #[command(flatten)]
    pub sampling: SamplingArgs,
    /// How to run it.
    #[command(flatten)]
    pub how: ModelArgs,
}

/// How to choose tokens; what is not given is the checkpoint's.
#[derive(Clone, Debug, clap::Args)]
pub struct SamplingArgs {
    /// Divides the logits; 0 takes the likeliest token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep that many of the likeliest tokens; 0 for all.
    #[arg(long, value_name = "K")]
    pub top_k: Option<usize>,
    /// Keep the likeliest tokens up to this probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens of at least this share of the likeliest one's probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Weaken tokens that occurred; 1 for not at all.
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Where the random numbers begin: the same seed gives the same answer [default: another one each time].
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,
}

impl SamplingArgs {
    fn sampling(&self, config: &GenerationConfig) -> netweight_engine::Result<Sampling> {
        let of_model = Sampling::recommended(config)?;
        // Who asks for a way of drawing tokens, or for a seed, wants them drawn.
        let asks_to_draw = self.top_k.is_some() || self.top_p.is_some() || self.min_p.is_some() || self.seed.is_some();
        let temperature = if asks_to_draw && of_model.temperature == 0.0 { 1.0 } else { of_model.temperature };
        let sampling = Sampling {
            temperature: self.temperature.unwrap_or(temperature),
            top_k: self.top_k.unwrap_or(of_model.top_k),
            top_p: self.top_p.unwrap_or(of_model.top_p),
            min_p: self.min_p.unwrap_or(of_model.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(of_model.repetition_penalty),
            seed: self.seed.unwrap_or_else(any_seed),
            ..of_model
        };
        sampling.check()?;
        Ok(sampling)
    }
}

/// A seed that differs from run to run.
fn any_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::time::SystemTime::now())
}

/// Checks what was asked for, loads the model, answers.
///
/// # Errors
/// What is wrong with the request, found before the weights are read; what keeps the model from running.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let prompt = prompt(args)?;
    if args.stops.iter().any(String::is_empty) {
        return Err(Failure::new(Kind::Usage, "an empty --stop would end every answer", "name a text that ends it"));
    }
    if prompt.is_none() && ui.is_json() {
        return Err(Failure::new(Kind::Usage, "a chat has no JSON", "pass a prompt, or pipe it in"));
    }
    if prompt.is_none() && args.raw {
        return Err(Failure::new(
            Kind::Usage,
            "--raw needs a text to continue",
            "pass it behind the model, or pipe it in",
        ));
    }
    let store = netweight_engine::Store::open(&args.model).map_err(|error| Failure::running(error.into()))?;
    let failed = |error| Failure::running(error).at(&args.model);
    let spec = netweight_engine::read_spec(&store).map_err(failed)?;
    let tokenizer = models::tokenizer(&store, spec.vocab)?;
    let template = if args.raw { None } else { ChatTemplate::read(&store, &tokenizer, None).map_err(failed)? };
    let config = GenerationConfig::read(&store).map_err(failed)?;
    let options = GenerateOptions {
        sampling: args.sampling.sampling(&config).map_err(failed)?,
        max_new_tokens: args.max_tokens,
        stops: args.stops.clone(),
        ..GenerateOptions::default()
    };
    let interrupt = Interrupt::new();
    signals::interrupting(&interrupt);
    let (tokenizer, prompt) = match prompt {
        None => (tokenizer, None),
        Some(prompt) => {
            let text = text_of(args, template.as_ref(), &prompt).map_err(failed)?;
            let (tokenizer, tokens) = encode(tokenizer, text, template.is_none(), &interrupt).map_err(failed)?;
            let n_fit = args.how.context.unwrap_or(spec.max_positions.min(netweight_engine::DEFAULT_POSITIONS));
            if tokens.len() > n_fit {
                return Err(failed(netweight_engine::Error::PromptTooLong { n_tokens: tokens.len(), n_fit }));
            }
            (tokenizer, Some(tokens))
        }
    };
    let loaded = models::load_from(store, &args.how.options(), &interrupt, ui)?;
    let Loaded { decoder, .. } = loaded;
    let report = decoder.report().clone();
    if !ui.is_quiet() && !ui.is_json() {
        ui::complain(&loaded_line(&report));
    }
    let generator = Generator::new(decoder, tokenizer).map_err(failed)?;
    match prompt {
        None => chat::chat(args, generator, template, &options, &interrupt, ui),
        Some(tokens) => {
            let options = GenerateOptions { continues_text: template.is_none(), ..options };
            Once { args, ui, report: loaded_json(&report) }.answer(&tokens, generator, &options, &interrupt)
        }
    }
}

/// What the model reads for a prompt: a conversation in its template, or a text to go on with.
fn text_of(args: &Args, template: Option<&ChatTemplate>, prompt: &str) -> netweight_engine::Result<String> {
    let Some(template) = template else { return Ok(text_without_template(args, prompt)) };
    let system = args.system.as_deref().map(Message::system);
    let messages: Vec<Message> = system.into_iter().chain([Message::user(prompt)]).collect();
    template.render(&messages, &Rendering::for_answer())
}

/// Tokens of a text, on a thread of its own: a tokenizer cannot be stopped, and some take seconds for megabytes.
fn encode(
    tokenizer: Tokenizer,
    text: String,
    is_prompt: bool,
    interrupt: &Interrupt,
) -> netweight_engine::Result<(Tokenizer, Vec<u32>)> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let tokens = if is_prompt { tokenizer.encode_prompt(&text) } else { tokenizer.encode_bare(&text) };
        let _ = sender.send((tokenizer, tokens)); // nobody waits any more after an interruption
    });
    loop {
        match receiver.recv_timeout(Duration::from_millis(20)) {
            Ok((tokenizer, tokens)) => return Ok((tokenizer, tokens?)),
            Err(RecvTimeoutError::Timeout) => interrupt.check()?,
            Err(RecvTimeoutError::Disconnected) => panic!("the tokenizer panicked"),
        }
    }
}

/// The prompt, from the command line, else from what is piped in; `None` for a chat.
fn prompt(args: &Args) -> Result<Option<String>, Failure> {
    let mut piped = String::new();
    if !io::stdin().is_terminal() && args.prompt.as_deref().is_none_or(|prompt| prompt == "-") {
        io::stdin().read_to_string(&mut piped).map_err(|error| Failure::io("standard input".as_ref(), error))?;
    }
    let prompt = match &args.prompt {
        Some(prompt) if prompt != "-" => prompt.clone(),
        None if io::stdin().is_terminal() => return Ok(None),
        _ => piped,
    };
    if prompt.is_empty() {
        return Err(Failure::new(Kind::Usage, "the prompt is empty", "say something, or leave it out to chat"));
    }
    Ok(Some(prompt))
}

/// One answer.
struct Once<'a> {
    args: &'a Args,
    ui: &'a Ui,
    report: serde_json::Value,
}

impl Once<'_> {
    fn answer<D: netweight_engine::Decoder>(
        &self,
        tokens: &[u32],
        mut generator: Generator<D>,
        options: &GenerateOptions,
        interrupt: &Interrupt,
    ) -> Outcome {
        let failed = |error| Failure::running(error).at(&self.args.model);
        let is_streamed = !self.ui.is_json();
        let (mut written, mut has_text) = (Ok(()), false);
        let answer = generator.generate(tokens, options, interrupt, |event| match event {
            Event::Text(text) if is_streamed => {
                written = ui::print_piece(text);
                has_text = true;
                if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            }
            _ => ControlFlow::Continue(()),
        });
        if answer.is_err() && has_text {
            let _ = ui::print(""); // What went wrong begins on a line of its own.
        }
        let answer = answer.map_err(failed)?;
        written.or_else(unless_broken_pipe)?;
        self.finish(&answer, options)?;
        Ok(if answer.reason == StopReason::Interrupted { 130 } else { 0 })
    }

    fn finish(&self, answer: &Answer, options: &GenerateOptions) -> Result<(), Failure> {
        if self.ui.is_json() {
            let statistics = &answer.statistics;
            return self.ui.answer(
                "run",
                &json!({
                    "model": self.args.model.display().to_string(),
                    "text": answer.text,
                    "tokens": answer.tokens,
                    "finish_reason": answer.reason.name(),
                    "seed": options.sampling.seed,
                    "n_prompt_tokens": statistics.n_prompt_tokens,
                    "n_generated_tokens": statistics.n_generated_tokens,
                    "prefill_tokens_per_second": statistics.prefill_tokens_per_second(),
                    "decode_tokens_per_second": statistics.decode_tokens_per_second(),
                    "load": self.report,
                }),
                String::new,
            );
        }
        ui::print("").or_else(unless_broken_pipe)?;
        if !self.ui.is_quiet() {
            ui::complain(&figures(answer, options));
        }
        Ok(())
    }
}

/// Without a template the system text can only stand before the prompt.
fn text_without_template(args: &Args, prompt: &str) -> String {
    match &args.system {
        Some(system) => netweight_engine::plain_prompt(&[Message::system(system), Message::user(prompt)]),
        None => prompt.to_owned(),
    }
}

/// A reader that has gone wants no error; a full disk is one.
fn unless_broken_pipe(error: io::Error) -> Result<(), Failure> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(Failure::io("standard output".as_ref(), error)) }
}

/// Writes a piece of an answer; a reader that has gone ends the run.
fn show(text: &str) -> ControlFlow<()> {
    match ui::print_piece(text) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

/// One line about a run.
fn figures(answer: &Answer, options: &GenerateOptions) -> String {
    let statistics = &answer.statistics;
    let seed =
        if options.sampling.temperature > 0.0 { format!(", seed {}", options.sampling.seed) } else { String::new() };
    let end = match answer.reason {
        StopReason::ContextFull => ", stopped where the context is full",
        StopReason::MaxNewTokens => ", stopped at --max-tokens",
        StopReason::Interrupted => ", interrupted",
        _ => "",
    };
    format!(
        "[{} prompt tokens at {:.1}/s, {} tokens at {:.1}/s{seed}{end}]",
        statistics.n_prompt_tokens - statistics.n_cached_tokens,
        statistics.prefill_tokens_per_second(),
        statistics.n_generated_tokens,
        statistics.decode_tokens_per_second(),
    )
}
