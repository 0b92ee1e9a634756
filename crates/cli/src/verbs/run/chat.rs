//! A conversation at a terminal: lines go in, answers stream out, until the end of input or /exit. Ctrl-C stops an
//! answer; at an empty line it ends the conversation.

use std::ops::ControlFlow;

use netweight_engine::{
    ChatTemplate, Decoder, Error, Event, Generator, Interrupt, Options as GenerateOptions, Session, StopReason,
};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};

use super::{Args, figures, show};
use crate::failure::{Failure, Kind};
use crate::ui::{self, Ui};
use crate::verbs::Outcome;

const HELP: &str = "\
/help          this
/reset         forget the conversation
/system TEXT   say what the model should be, and forget the conversation
/exit          end; so does Ctrl-D
A line that ends with \\ goes on in the next one. Ctrl-C stops an answer.";

/// Talks until the person has had enough.
///
/// # Errors
/// Those of the terminal; what goes wrong with an answer is said, and the conversation goes on.
pub fn chat<D: Decoder>(
    args: &Args,
    generator: Generator<D>,
    template: Option<ChatTemplate>,
    options: &GenerateOptions,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Outcome {
    let mut session = Session::new(generator, template);
    session.set_system(args.system.as_deref());
    if !session.has_template() {
        ui::complain("this model has no chat template: it continues texts, so do not expect answers");
    }
    if !ui.is_quiet() {
        ui::complain("type a message, /help for help");
    }
    let terminal =
        |error: ReadlineError| Failure::new(Kind::Io, format!("the terminal: {error}"), "pass a prompt instead");
    let mut history = MemHistory::new();
    loop {
        let line = match read(&mut history) {
            Ok(line) => line,
            Err(ReadlineError::Eof | ReadlineError::Interrupted) => return Ok(0),
            Err(error) => return Err(terminal(error)),
        };
        match line.trim() {
            "" => (),
            "/exit" | "/quit" | "/bye" => return Ok(0),
            "/help" | "/?" => ui::complain(HELP),
            "/reset" | "/clear" => session.reset(),
            order if order.starts_with("/system") => {
                let text = order.trim_start_matches("/system").trim();
                session.set_system((!text.is_empty()).then_some(text));
                session.reset();
            }
            order if order.starts_with('/') => ui::complain(&format!("{order} is not known; /help lists what is")),
            _ => {
                interrupt.clear();
                say(&mut session, &line, options, interrupt, ui)?;
            }
        }
    }
}

/// A line, with those that it says it goes on in. The editor is gone before the answer begins: as long as there is one,
/// it handles SIGINT, and Ctrl-C would not stop the answer.
fn read(history: &mut MemHistory) -> rustyline::Result<String> {
    let config = Config::builder().auto_add_history(true).build();
    let mut editor = Editor::<(), MemHistory>::with_history(config, std::mem::take(history))?;
    let mut text = String::new();
    loop {
        let line = editor.readline(if text.is_empty() { "> " } else { ". " })?;
        match line.strip_suffix('\\') {
            Some(part) => {
                text.push_str(part);
                text.push('\n');
            }
            None => {
                *history = std::mem::take(editor.history_mut());
                return Ok(text + &line);
            }
        }
    }
}

fn say<D: Decoder>(
    session: &mut Session<D>,
    text: &str,
    options: &GenerateOptions,
    interrupt: &Interrupt,
    ui: &Ui,
) -> Result<(), Failure> {
    let answer = session.send(text, options, interrupt, |event| match event {
        Event::Text(text) => show(text),
        _ => ControlFlow::Continue(()),
    });
    match answer {
        Ok(answer) => {
            let _ = ui::print("");
            if !ui.is_quiet() {
                ui::complain(&figures(&answer, options));
            }
            if answer.reason == StopReason::Caller {
                return Err(Failure::new(Kind::Io, "nobody reads the answer any more", "check where the output goes"));
            }
        }
        Err(Error::Interrupted) => ui::complain("interrupted"),
        Err(error @ Error::PromptTooLong { .. }) => ui::complain(&format!("{error}; /reset forgets the conversation")),
        Err(error) => ui::complain(&format!("error: {error}")),
    }
    Ok(())
}
