//! `netweight estimate`: what compressing would bring, from a sample.

use std::path::{Path, PathBuf};

use netweight_pack::{Estimate, EstimateOptions, estimate};

use crate::args::LevelArg;
use crate::bar::Bar;
use crate::failure::{Failure, Reads};
use crate::ui::Ui;
use crate::units::{bytes, duration, percent, rate};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight estimate Llama-3.1-8B
  netweight estimate Llama-3.1-8B --level max --seconds 10
  netweight --json estimate Llama-3.1-8B | jq .worth_it

Ends with exit code 0 whatever the advice is.";

/// Predict size and time from a sample, and say whether it is worth it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The checkpoint: a .safetensors file, or a folder.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// The level to estimate for.
    #[arg(long, value_enum, default_value = "default", value_name = "LEVEL")]
    pub level: LevelArg,
    /// Stop sampling after this many seconds.
    #[arg(long, default_value_t = 2.0, value_name = "S", value_parser = parse_seconds)]
    pub seconds: f64,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds));
    seconds.ok_or_else(|| "a number of seconds, at most 86400".to_owned())
}

/// Samples, then predicts.
///
/// # Errors
/// Those of [`estimate`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let options =
        EstimateOptions { level: args.level.0, threads: usize::from(args.threads), max_seconds: args.seconds };
    let bar = Bar::counting(ui, "estimate");
    let found = estimate(&args.source, &options, &bar).map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
    drop(bar);
    ui.answer("estimate", &found, || text(&args.source, &found))?;
    Ok(0)
}

fn text(source: &Path, found: &Estimate) -> String {
    let original = found.original_bytes as f64;
    let (now, then) = (bytes(found.original_bytes), bytes(found.predicted_bytes));
    let size = format!("{now} -> about {then}, {} of the original", percent(found.predicted_bytes as f64, original));
    let speed = rate(found.encode_bytes_per_second as u64, 1.0);
    let sampled = percent(found.sampled_bytes as f64, original);
    [
        format!("{:<12}{}", "checkpoint", source.display()),
        format!("{:<12}{size}", "size"),
        format!("{:<12}about {} at {speed}, if the disk keeps up", "time", duration(found.predicted_seconds)),
        format!("{:<12}{} ({sampled})", "sampled", bytes(found.sampled_bytes)),
        format!("{:<12}{}. {}", "worth it", if found.worth_it { "yes" } else { "no" }, found.advice),
    ]
    .join("\n")
}
