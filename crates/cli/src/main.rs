//! `netweight`: makes language-model checkpoints about a third smaller, and gives every byte back.
//!
//! Goes in: a command line. Comes out: files, text or JSON, and an exit code. Suggested reading: args.rs (what can
//! be asked), verbs/ (one file for each verb, its main path one function), failure.rs and advice.rs (errors in
//! words), ui.rs and bar.rs (what is printed where). The work itself is done in `netweight-pack`.
#![forbid(unsafe_code)]

mod advice;
mod args;
mod bar;
mod failure;
mod models;
mod signals;
mod table;
mod ui;
mod units;
mod verbs;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;
use crate::failure::{Failure, Kind};
use crate::ui::Ui;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    let ui = Ui::new(cli.json, cli.quiet);
    #[cfg(unix)]
    if let Err(error) = signals::install(ui) {
        ui::complain(&format!("warning: signals cannot be caught: {error}"));
    }
    match verbs::run(cli.verb, &ui) {
        Ok(code) => code.into(),
        Err(failure) => ui.fail(&failure).into(),
    }
}

/// Help and version end well, the rest is the caller's mistake; all of it in JSON where `--json` stands anywhere.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind::DisplayVersion;
    let json = std::env::args_os().any(|arg| arg == "--json");
    if !error.use_stderr() {
        let text = error.to_string();
        let _ = match (json, error.kind()) {
            (true, DisplayVersion) => ui::print(&format!("{:#}", verbs::version())),
            (true, _) => ui::print(&format!("{:#}", serde_json::json!({ "help": text }))),
            (false, _) => error.print(), // With colours where they can be seen.
        };
        return ExitCode::SUCCESS;
    }
    if !json {
        let _ = error.print();
        return Kind::Usage.exit_code().into();
    }
    let text = error.to_string();
    let message = text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned();
    Ui::new(true, true)
        .fail(&Failure::new(Kind::Usage, message, "`netweight help` lists the verbs and their flags"))
        .into()
}
