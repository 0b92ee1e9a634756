//! `netweight completions`: a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

use crate::args::Cli;
use crate::ui::Ui;
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight completions bash > ~/.local/share/bash-completion/completions/netweight
  netweight completions zsh > ~/.zfunc/_netweight
  netweight completions fish > ~/.config/fish/completions/netweight.fish";

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Prints the script.
///
/// # Errors
/// `Io` where standard output cannot be written to.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "netweight", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    ui.answer("completions", &json!({ "shell": args.shell.to_string(), "script": script }), || script.clone())?;
    Ok(0)
}
