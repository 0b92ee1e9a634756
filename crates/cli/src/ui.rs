//! What goes to the terminal: answers and summaries on standard output, errors and progress on standard error.
//! With `--json`, standard output carries exactly one document, whatever happens.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::failure::{Failure, Kind};

/// How to talk to whoever called.
#[derive(Clone, Copy, Debug)]
pub struct Ui {
    json: bool,
    quiet: bool,
}

impl Ui {
    /// From the global flags.
    pub fn new(json: bool, quiet: bool) -> Ui {
        Ui { json, quiet }
    }

    /// Whether standard output is for one JSON document.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether only what was asked for is to be written.
    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether a progress bar has someone to see it.
    pub fn shows_progress(&self) -> bool {
        !self.quiet && io::stderr().is_terminal()
    }

    /// Columns that text on standard output may take; `None` where it goes to a file or a pipe.
    pub fn width(&self) -> Option<usize> {
        if !io::stdout().is_terminal() {
            return None;
        }
        terminal_size::terminal_size_of(io::stdout()).map(|(width, _)| usize::from(width.0))
    }

    /// Writes what was asked for: `report` with `--json`, `text` else.
    ///
    /// # Errors
    /// `Io` where standard output cannot be written to; a closed pipe is none.
    pub fn answer(&self, verb: &str, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        self.print(&if self.json { document(verb, report)? } else { text() })
    }

    /// Writes what was done; with `--quiet` only the JSON.
    ///
    /// # Errors
    /// As [`Ui::answer`].
    pub fn summary(&self, verb: &str, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.quiet && !self.json { Ok(()) } else { self.answer(verb, report, text) }
    }

    /// Writes a line of a verb that goes on, unless nobody asked for it.
    ///
    /// # Errors
    /// As [`Ui::answer`].
    pub fn step(&self, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.quiet || self.json { Ok(()) } else { self.print(&text()) }
    }

    /// Reports a failure; gives the exit code.
    pub fn fail(&self, failure: &Failure) -> u8 {
        if self.json {
            let _ = self.print(&format!("{:#}", failure.to_json()));
        } else {
            complain(&format!("error: {}", failure.line()));
            if let Some(hint) = &failure.hint {
                complain(&format!("hint: {hint}"));
            }
        }
        failure.kind.exit_code()
    }

    /// Says that a signal ended the verb.
    #[cfg(unix)]
    pub fn interrupted(&self, advice: &str, exit_code: i32) {
        let error = serde_json::json!({ "error": {
            "kind": "interrupted", "message": "interrupted", "path": null, "tensor": null, "offset": null,
            "hint": advice, "exit_code": exit_code,
        } });
        if self.json {
            let _ = self.print(&format!("{error:#}"));
        } else {
            complain(&format!("\ninterrupted: {advice}"));
        }
    }

    fn print(&self, text: &str) -> Result<(), Failure> {
        print(text)
            .map_err(|error| Failure::new(Kind::Io, format!("standard output: {error}"), "check where the output goes"))
    }
}

/// Writes text and a line feed to standard output. A reader that has gone (`| head`) is no error.
pub fn print(text: &str) -> io::Result<()> {
    let text = visible(text);
    let mut out = io::stdout().lock();
    let end = if text.ends_with('\n') { "" } else { "\n" };
    match write!(out, "{text}{end}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        _ => Ok(()),
    }
}

/// Writes a piece of a text to standard output at once.
///
/// # Errors
/// Where nobody reads it any more, or it cannot be written.
pub fn print_piece(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    write!(out, "{}", visible(text)).and_then(|()| out.flush())
}

/// Writes a line to standard error, if anyone listens.
pub fn complain(line: &str) {
    let _ = writeln!(io::stderr(), "{}", visible(line));
}

/// Names come from files of others: a terminal must not take their control characters for orders.
fn visible(text: &str) -> String {
    let is_order = |c: char| c.is_control() && c != '\n' && c != '\t';
    text.chars().map(|c| if is_order(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn document(verb: &str, report: &impl Serialize) -> Result<String, Failure> {
    let unwritable = |error: serde_json::Error| Failure::new(Kind::Io, error.to_string(), "run it without --json");
    let mut whole = Map::new();
    whole.insert("verb".to_owned(), Value::from(verb));
    match serde_json::to_value(report).map_err(unwritable)? {
        Value::Object(fields) => whole.extend(fields),
        other => drop(whole.insert("report".to_owned(), other)),
    }
    serde_json::to_string_pretty(&whole).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_cannot_give_orders_to_a_terminal() {
        assert_eq!(super::visible("a\x1b[31mb\x07\tc\n"), "a\u{fffd}[31mb\u{fffd}\tc\n");
    }
}
