//! The verbs, one file each; [`run`] picks one.

pub mod audit;
pub mod bench;
pub mod completions;
pub mod compress;
pub mod demo;
pub mod estimate;
pub mod eval;
mod exact_card;
pub mod export;
mod grouping;
pub mod import;
pub mod inspect;
pub mod restore;
pub mod run;
mod sensitivity;
pub mod synth;
pub mod tune;
pub mod verify;
mod verify_logits;

use netweight_container::FORMAT;
use netweight_pack::Report;
use serde_json::{Value, json};

use crate::args::Verb;
use crate::failure::Failure;
use crate::ui::Ui;
use crate::units::{bytes, counted, duration, rate};

/// Exit code, or why there is no result.
pub type Outcome = Result<u8, Failure>;

/// Runs a verb; gives its exit code.
///
/// # Errors
/// Whatever stopped it, in words.
pub fn run(verb: Verb, ui: &Ui) -> Outcome {
    match verb {
        Verb::Compress(args) => compress::run(&args, ui),
        Verb::Restore(args) => restore::run(&args, ui),
        Verb::Verify(args) => verify::run(&args, ui),
        Verb::Inspect(args) => inspect::run(&args, ui),
        Verb::Estimate(args) => estimate::run(&args, ui),
        Verb::Import(args) => import::run(&args, ui),
        Verb::Export(args) => export::run(&args, ui),
        Verb::Run(args) => run::run(&args, ui),
        Verb::Eval(args) => eval::run(&args, ui),
        Verb::Tune(args) => tune::run(&args, ui),
        Verb::Audit(args) => audit::run(&args, ui),
        Verb::Demo(args) => demo::run(&args, ui),
        Verb::Bench(args) => bench::run(&args, ui),
        Verb::Synth(args) => synth::run(&args, ui),
        Verb::Completions(args) => completions::run(&args, ui),
    }
}

/// What `--version --json` writes.
pub fn version() -> Value {
    json!({ "name": "netweight", "version": env!("CARGO_PKG_VERSION"), "format": FORMAT })
}

/// What both `compress` and `restore` say of their work.
fn summary(done: &str, size: String, report: &Report) -> Vec<String> {
    let n_files = counted(report.files.len() as u64, "file");
    let mut lines = vec![
        format!("{done:<12}{n_files}, {}", counted(report.n_tensors, "tensor")),
        format!("{:<12}{size}", "size"),
        format!("{:<12}{}, {}", "time", duration(report.seconds), rate(report.original_bytes, report.seconds)),
    ];
    let n_resumed = report.files.iter().filter(|file| file.is_resumed).count() as u64;
    if n_resumed > 0 {
        lines.push(format!("{:<12}{} kept from an earlier run", "resumed", counted(n_resumed, "shard")));
    }
    if report.n_tied > 0 {
        lines.push(format!("{:<12}{} stored once: same bytes as another", "tied", counted(report.n_tied, "tensor")));
    }
    for (idx, (label, uses)) in report.coders.iter().enumerate() {
        let heading = if idx == 0 { "coded as" } else { "" };
        lines.push(format!("{heading:<12}{label:<22}{:>12} -> {:>10}", bytes(uses.bytes), bytes(uses.stored_bytes)));
    }
    if !report.left_out.is_empty() {
        lines.push(format!("{:<12}{}", "left out", report.left_out.join(", ")));
    }
    lines
}
