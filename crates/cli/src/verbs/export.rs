//! `netweight export`: a checkpoint or an archive in, a model for another engine out.

use std::path::PathBuf;

use netweight_interchange::{ExportOptions, WeightType, export};

use crate::args::WeightArg;
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

Models are those of Llama, Mistral, Mixtral, Qwen2 and Qwen3. In GGUF, norms, biases and routers are F32 whatever
--weights says. int8 and int4 round weights of linear layers to the nearest integer, without looking at any text.

The destination appears at the very end, whole, and never over something else without --force.";

/// Write a model for another engine: GGUF, compressed-tensors
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder of a checkpoint or an archive.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The GGUF file, or for int8 and int4 the folder, that is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// Type of weight matrices [default: the one that most of them have, in a GGUF file].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub weights: Option<WeightArg>,
    /// Replace what is at the destination.
    #[arg(long)]
    pub force: bool,
}

/// Exports, then says what came of it.
///
/// # Errors
/// Those of [`export`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let weights = args.weights.map(|weights| weights.0);
    let options = ExportOptions { weights, force: args.force };
    signals::writing(&args.output, !weights.is_none_or(WeightType::is_gguf));
    let bar = Bar::new(ui, "export");
    let report =
        export(&args.model, &args.output, &options, &bar).map_err(|error| Failure::reading(error, Reads::Foreign))?;
    drop(bar);
    ui.summary("export", &report, || import::summary("exported", &report, &args.output.display().to_string()))?;
    Ok(0)
}
