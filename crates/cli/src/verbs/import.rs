//! `netweight import`: a model of another engine in, a checkpoint out.

use std::path::PathBuf;

use netweight_interchange::{ImportOptions, Report, import};

use crate::args::FloatArg;
use crate::bar::Bar;
use crate::failure::{Failure, Reads};
use crate::signals;
use crate::ui::Ui;
use crate::units::{bytes, counted, duration, grouped};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight import Qwen3-8B-Q8_0.gguf -o Qwen3-8B       A folder for transformers, vLLM, netweight
  netweight import model.gguf -o model --dtype f32      Every value as it is
  netweight import Llama-3.1-8B-W4A16 -o Llama-3.1-8B   A folder of compressed-tensors

What is known, and all else is refused:
  GGUF 2 and 3     llama (with Mistral and Mixtral), qwen2, qwen3
    tensors        F32 F16 BF16 Q8_0 Q6_K Q5_K Q4_K Q4_0
    vocabularies   byte-level BPE (gpt-2, llama-bpe, qwen2, default), SentencePiece
  compressed-tensors, of llm-compressor and vLLM
    integers       of 4 or 8 bits, packed or not, by group, channel or tensor

The destination appears at the very end, whole, and never over something else without --force. After an
error or an interruption the finished shards are kept: the same command goes on from there.";

/// Read a model of another engine: GGUF, compressed-tensors
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A .gguf file, or a folder of compressed-tensors.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Folder that is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// Type of all weights [default: the one that most weights have; bf16 where they are quantised].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub dtype: Option<FloatArg>,
    /// Replace what is at the destination.
    #[arg(long)]
    pub force: bool,
}

/// Imports, then says what came of it.
///
/// # Errors
/// Those of [`import`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let options = ImportOptions { dtype: args.dtype.map(|dtype| dtype.0), force: args.force };
    signals::writing(&args.output, true);
    let bar = Bar::new(ui, "import");
    let report =
        import(&args.source, &args.output, &options, &bar).map_err(|error| Failure::reading(error, Reads::Foreign))?;
    drop(bar);
    ui.summary("import", &report, || summary("imported", &report, &args.output.display().to_string()))?;
    Ok(0)
}

/// What both verbs say of their work.
pub fn summary(done: &str, report: &Report, destination: &str) -> String {
    let model = format!("{}, {}", report.architecture, counted(report.n_tensors, "tensor"));
    let rounded = match (report.rounded, report.quantized) {
        (0, 0) => format!("none of {} values", grouped(report.n_values)),
        (0, quantized) => {
            format!("{} of {} values, to integers with scales", grouped(quantized), grouped(report.n_values))
        }
        (rounded, 0) => format!("{} of {} values, to {}", grouped(rounded), grouped(report.n_values), report.weights),
        (rounded, quantized) => {
            let of = format!("{} of {} values to integers with scales", grouped(quantized), grouped(report.n_values));
            format!("{of}, {} to floats", grouped(rounded))
        }
    };
    let sizes = format!("{} -> {}", bytes(report.source_bytes), bytes(report.destination_bytes));
    let mut lines = vec![
        format!("{done:<12}{model}, as {} ({})", report.to, report.weights),
        format!("{:<12}{sizes}", "size"),
        format!("{:<12}{rounded}", "rounded"),
        format!("{:<12}{}", "time", duration(report.seconds)),
    ];
    if report.n_resumed > 0 {
        let kept = counted(report.n_resumed, "shard");
        lines.push(format!("{:<12}{kept} kept from an earlier run, whose roundings are not counted", "resumed"));
    }
    lines.extend(report.notes.iter().map(|note| format!("{:<12}{note}", "note")));
    lines.push(format!("{:<12}{destination}", "written to"));
    lines.join("\n")
}
