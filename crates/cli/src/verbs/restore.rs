//! `netweight restore`: archive in, the original out, byte for byte; or one tensor of it, or some rows.

use std::ops::Range;
use std::path::PathBuf;

use netweight_pack::{Archive, RestoreOptions, restore, restore_rows};

use crate::args::parse_rows;
use crate::bar::Bar;
use crate::failure::{Failure, Reads};
use crate::signals;
use crate::ui::Ui;
use crate::units::{bytes, grouped};
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight restore Llama-3.1-8B.nw -o Llama-3.1-8B
  netweight restore Llama-3.1-8B.nw -o head.safetensors --tensor lm_head.weight
  netweight restore Llama-3.1-8B.nw -o rows.safetensors --tensor lm_head.weight --rows 0..16
  netweight restore small -o small-bf16 --tuned      Of `tune --keep-exact`: what it runs with, not the original

The SHA-256 of every file is compared with the original's before the destination appears. After an error
or an interruption the finished files of a folder are kept: the same command goes on from there.";

/// Give the original back, byte for byte; or one tensor, or some of its rows
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The archive: a folder, or an archive shard.
    #[arg(value_name = "ARCHIVE")]
    pub archive: PathBuf,
    /// Where the original is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// Restore only this tensor, into a safetensors file of its own.
    #[arg(long, value_name = "NAME")]
    pub tensor: Option<String>,
    /// Of that tensor only rows A (from 0) to B (not included) of its first dimension.
    #[arg(long, value_name = "A..B", requires = "tensor", value_parser = parse_rows)]
    pub rows: Option<Range<u64>>,
    /// Of a tuned archive with a refinement (`tune --keep-exact`): restore the tuned values, in bf16, instead of the original.
    #[arg(long)]
    pub tuned: bool,
    /// Replace what is at the destination.
    #[arg(long)]
    pub force: bool,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Rely on the checksum of each chunk alone: faster, less thorough.
    #[arg(long)]
    pub skip_sha256: bool,
}

/// Restores, then says what came of it.
///
/// # Errors
/// Those of [`restore`] and [`restore_rows`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    if let Some(tensor) = &args.tensor {
        return rows(args, tensor, ui);
    }
    let options = args.options();
    signals::writing(&args.output, args.archive.is_dir());
    let bar = Bar::new(ui, "restore");
    let report = restore(&args.archive, &args.output, &options, &bar)
        .map_err(|error| Failure::reading(error, Reads::Archive).with_space_needed(|| space_needed(args)))?;
    drop(bar);
    ui.summary("restore", &report, || {
        let size = format!("{} -> {} bytes", grouped(report.archive_bytes), grouped(report.original_bytes));
        let mut lines = super::summary("restored", size, &report);
        let checked = if args.skip_sha256 { "chunk checksums" } else { "SHA-256 of every file" };
        lines.push(format!("{:<12}{checked}", "checked"));
        lines.extend(what(args).map(|what| format!("{:<12}{what}", "these are")));
        lines.push(format!("{:<12}{}", "written to", args.output.display()));
        lines.join("\n")
    })?;
    Ok(0)
}

fn rows(args: &Args, tensor: &str, ui: &Ui) -> Outcome {
    signals::writing(&args.output, false);
    let report = restore_rows(&args.archive, tensor, args.rows.clone(), &args.output, &args.options())
        .map_err(|error| Failure::reading(error, Reads::Archive))?;
    ui.summary("restore", &report, || {
        let (dtype, shape, size) = (&report.dtype, &report.shape, bytes(report.bytes));
        format!("restored    {tensor}: {dtype} {shape:?}, {size}\nwritten to  {}", args.output.display())
    })?;
    Ok(0)
}

impl Args {
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            threads: usize::from(self.threads),
            force: self.force,
            check_sha256: !self.skip_sha256,
            tuned: self.tuned,
        }
    }
}

/// What was restored, where that needs saying: an archive of grids need not have its original.
fn what(args: &Args) -> Option<&'static str> {
    let archive = Archive::open(&args.archive).ok()?;
    let has_grids = archive.folder().is_some_and(|folder| folder.has_grids);
    let has_refinement = archive.folder().is_some_and(|folder| folder.files.iter().any(|file| file.refined.is_some()));
    match (has_grids, has_refinement && !args.tuned) {
        (false, _) => None,
        (true, true) => Some("the original's files, every byte of them"),
        (true, false) => Some("tuned values in bf16, not the original's"),
    }
}

fn space_needed(args: &Args) -> Option<u64> {
    let open = if args.tuned { Archive::open } else { Archive::open_original };
    let archive = open(&args.archive).ok()?;
    Some(match archive.folder() {
        Some(folder) => folder.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes)),
        None => archive.shards().map(|(_, shard)| shard.original_bytes()).sum(),
    })
}
