//! `netweight synth`: a synthetic checkpoint with the statistics of trained weights.

use std::path::{Path, PathBuf};

use netweight_synth::{Written, write_checkpoint};
use serde_json::json;

use crate::args::{KindArg, ShapesArg, parse_bytes};
use crate::failure::{Failure, Kind};
use crate::signals;
use crate::ui::Ui;
use crate::units::{bytes, counted};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight synth bf16 -o made                           One layer of the shapes of Llama-3.1-8B, 0.5 GB
  netweight synth bf16 -o made --layers 32               All of them, 14 GB
  netweight synth fp8 -o made --shapes small --seed 7 --shard-size 10MB

The same kind, shapes, layers and seed give the same bytes on every machine.";

/// Write a synthetic checkpoint with the statistics of trained weights
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The weights' dtype; fp8 comes with scales for each block of 128 x 128.
    #[arg(value_enum)]
    pub kind: KindArg,
    /// Folder to write; must not be there yet, or be empty.
    #[arg(short, long = "output", value_name = "DIR")]
    pub output: PathBuf,
    /// Dimensions.
    #[arg(long, value_enum, default_value = "8b")]
    pub shapes: ShapesArg,
    /// Layers.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub layers: u64,
    /// Seed of all weights.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// Bytes of tensors that a shard may have.
    #[arg(long, default_value = "5GB", value_name = "SIZE", value_parser = parse_bytes)]
    pub shard_size: u64,
}

/// Writes into a folder beside the destination, then moves it there.
///
/// # Errors
/// `Exists` where there is something; those of writing.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    check_free(&args.output)?;
    let parent = args.output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(|error| Failure::io(parent, error))?;
    let scratch = tempfile::Builder::new().prefix(".netweight-synth-").tempdir_in(parent);
    let scratch = scratch.map_err(|error| Failure::io(parent, error))?;
    signals::scratch(scratch.path());
    let tree = scratch.path().join("tree");
    let shapes = args.shapes.shapes().with_layers(args.layers);
    let written = write_checkpoint(&tree, args.kind.0, &shapes, args.seed, args.shard_size);
    let written = written.map_err(|error| Failure::io(&args.output, error))?;
    std::fs::rename(&tree, &args.output).map_err(|error| Failure::io(&args.output, error))?;
    report(args, &written, ui)?;
    Ok(0)
}

fn check_free(output: &Path) -> Result<(), Failure> {
    match std::fs::symlink_metadata(output) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::io(output, error)),
        Ok(_) => {}
    }
    if std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none()) {
        return Ok(());
    }
    Err(Failure::new(Kind::Exists, "is already there", "remove it, or choose another folder with -o").at(output))
}

fn report(args: &Args, written: &Written, ui: &Ui) -> Result<(), Failure> {
    let names = written.shards.iter().filter_map(|path| path.file_name()).map(|name| name.to_string_lossy());
    let shards: Vec<String> = names.map(String::from).collect();
    let report = json!({
        "path": args.output.display().to_string(),
        "kind": args.kind.0.name(),
        "layers": args.layers,
        "seed": args.seed,
        "shards": shards,
        "tensor_bytes": written.tensor_bytes,
    });
    ui.summary("synth", &report, || {
        let (n_shards, size) = (counted(shards.len() as u64, "shard"), bytes(written.tensor_bytes));
        format!("{}: {} weights, {size} in {n_shards}", args.output.display(), args.kind.0.name())
    })
}
