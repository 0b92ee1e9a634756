//! `netweight export`: a checkpoint or an archive in, a model for another engine out.

use std::path::PathBuf;

use netweight_interchange::{ExportOptions, Format, export};

use crate::args::{FormatArg, WeightArg};
use crate::bar::Bar;
use crate::failure::{Failure, Reads};
use crate::signals;
use crate::ui::Ui;
use crate::verbs::{Outcome, import};

const EXAMPLES: &str = "\
Examples:
  netweight export Qwen3-8B.nw -o Qwen3-8B.gguf                The same weights, bit for bit
  netweight export Qwen3-8B -o Qwen3-8B.gguf --weights q8_0    Half as large, rounded as llama.cpp does
  netweight export Qwen3-8B -o Qwen3-8B-W4A16 --weights int4   A folder of compressed-tensors
  netweight export Qwen3-8B.nw4 -o Qwen3-8B-onnx --to onnx     A folder for ONNX Runtime; integers of `tune` as they are

Models are those of Llama, Mistral, Mixtral, Qwen2 and Qwen3. In GGUF, norms, biases and routers are F32 whatever
--weights says. int8 and int4 round weights of linear layers to the nearest integer, without looking at any text.
ONNX has also Phi-3, Gemma 2 and 3; experts it has not. Its arithmetic is in f32, whatever the weights are.

The destination appears at the very end, whole, and never over something else without --force.";

/// Write a model for another engine: GGUF, compressed-tensors, ONNX
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of a checkpoint or an archive.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The GGUF file, or of other formats the folder, that is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// Format [default: compressed-tensors for int8 and int4, else gguf].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub to: Option<FormatArg>,
    /// Type of weight matrices [default: the one that most of them have; in ONNX each its own, integers of `tune` too].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub weights: Option<WeightArg>,
    /// ONNX: operators of the standard alone; integers are then unpacked for every token, which takes some 2.5 times as
    /// long.
    #[arg(long)]
    pub standard_ops: bool,
    /// Replace what is at the destination.
    #[arg(long)]
    pub force: bool,
}

/// Exports, then says what came of it.
///
/// # Errors
/// Those of [`export`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let (weights, format) = (args.weights.map(|weights| weights.0), args.to.map(|format| format.0));
    let options = ExportOptions { weights, format, standard_ops: args.standard_ops, force: args.force };
    signals::writing(&args.output, options.format() != Format::Gguf);
    let bar = Bar::new(ui, "export");
    let report =
        export(&args.model, &args.output, &options, &bar).map_err(|error| Failure::reading(error, Reads::Foreign))?;
    drop(bar);
    ui.summary("export", &report, || import::summary("exported", &report, &args.output.display().to_string()))?;
    Ok(0)
}
