//! `netweight compress`: checkpoint in, archive out.

use std::path::{Path, PathBuf};

use netweight_container::Checkpoint;
use netweight_pack::{CompressOptions, Report, compress};

use crate::args::{LevelArg, ResidentArg};
use crate::bar::Bar;
use crate::failure::{Failure, Reads};
use crate::signals;
use crate::ui::Ui;
use crate::units::{bytes, grouped, percent};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight compress Llama-3.1-8B -o Llama-3.1-8B.nw     A folder gives a folder: every file in it is kept
  netweight compress model.safetensors -o model.nw.safetensors
  netweight compress Llama-3.1-8B -o small --level max   A little smaller, slower
  netweight compress Llama-3.1-8B -o quick --resident exact11    Larger; an engine starts on it at once

The destination appears at the very end, whole, and never over something else without --force. After an
error or an interruption the finished shards of a folder are kept: the same command goes on from there.";

/// Archive a checkpoint: a .safetensors file, or a folder with such files
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The checkpoint: a .safetensors file, or a folder.
    #[arg(value_name = "SRC")]
    pub source: PathBuf,
    /// Where the archive is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// How much time to spend on size.
    #[arg(long, value_enum, default_value = "default", value_name = "LEVEL")]
    pub level: LevelArg,
    /// Store bf16 weight matrices as a CPU multiplies with them, so that an engine maps the file and starts at once;
    /// somewhat larger than coded. Everything else is coded as ever, and every byte comes back.
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub resident: Option<ResidentArg>,
    /// Threads; 0 for as many as the machine runs at once. The archive does not depend on it.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Replace what is at the destination.
    #[arg(long)]
    pub force: bool,
    /// Do not decode every chunk again before it is written.
    #[arg(long)]
    pub no_check: bool,
}

/// Compresses, then says what came of it.
///
/// # Errors
/// Those of [`compress`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let options = CompressOptions {
        level: args.level.0,
        resident: args.resident.map(|resident| resident.0),
        threads: usize::from(args.threads),
        force: args.force,
        check: !args.no_check,
        keep_exact: false,
    };
    signals::writing(&args.output, args.source.is_dir());
    let bar = Bar::new(ui, "compress");
    let report = compress(&args.source, &args.output, &options, &bar)
        .map_err(|error| Failure::reading(error, Reads::Checkpoint).with_space_needed(|| space_needed(&args.source)))?;
    drop(bar);
    ui.summary("compress", &report, || {
        let mut lines = super::summary("compressed", size(&report), &report);
        lines.push(format!("{:<12}{}", "written to", args.output.display()));
        lines.join("\n")
    })?;
    Ok(0)
}

fn size(report: &Report) -> String {
    let (original, archive) = (report.original_bytes, report.archive_bytes);
    let share = percent(archive as f64, original as f64);
    let saved = match original.checked_sub(archive) {
        Some(saved) => format!("{} less", bytes(saved)),
        None => "no smaller: its weights are already close to as small as they get without loss".to_owned(),
    };
    format!("{} -> {} bytes, {share}, {saved}", grouped(original), grouped(archive))
}

/// The size promise: input + 0.1 % + 4 KiB for each file.
fn space_needed(source: &Path) -> Option<u64> {
    let files = Checkpoint::list(source).ok()?.files;
    Some(files.iter().map(|file| file.bytes + file.bytes / 1000 + 4096).sum())
}
