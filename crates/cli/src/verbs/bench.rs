//! `netweight bench`: speed and size beside other compressors, in one run.

use std::path::PathBuf;

use netweight_bench::{Error, Options, run as measure};
use netweight_pack::Level;
use netweight_synth::Kind as SynthKind;

use crate::args::{KindArg, LevelArg, ShapesArg, parse_bytes};
use crate::failure::{Failure, Kind};
use crate::ui::Ui;
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight bench                                        Four synthetic data sets, all peers
  netweight bench --file Llama-3.1-8B --budget 1GiB      The first rows of a checkpoint of yours
  netweight bench --set bf16 --rounds 3 --no-peers       Seconds instead of minutes
  netweight --json bench --set bf16 > run.json

Peers are Python packages (zipnn, openzl, zstandard); those that --python does not have are named and left out.";

/// Measure speed and size beside other compressors, in one run
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A safetensors file, or a folder of them, to measure on; may be given several times.
    #[arg(long = "file", value_name = "PATH")]
    pub files: Vec<PathBuf>,
    /// Synthetic data sets [default: all of them, or none with --file].
    #[arg(long = "set", value_name = "KIND", value_enum, value_delimiter = ',')]
    pub sets: Vec<KindArg>,
    /// Measure f32 tensors of files also after rounding them to bf16.
    #[arg(long)]
    pub cast_bf16: bool,
    /// Bytes that a data set may have; larger ones are cut.
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = parse_bytes)]
    pub budget: u64,
    /// How often everything is measured.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: u16,
    /// Measure one thread, powers of two, and this many [default: as many as the machine runs at once].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Levels [default: all].
    #[arg(long = "level", value_name = "LEVEL", value_enum, value_delimiter = ',')]
    pub levels: Vec<LevelArg>,
    /// Dimensions of the synthetic data sets.
    #[arg(long, value_enum, default_value = "8b")]
    pub shapes: ShapesArg,
    /// Seed of the synthetic data sets.
    #[arg(long, default_value_t = 1, value_name = "S")]
    pub seed: u64,
    /// Leave the other compressors out.
    #[arg(long)]
    pub no_peers: bool,
    /// Python interpreter that has the other compressors.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
}

/// Measures, then prints the tables.
///
/// # Errors
/// Those of [`measure`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let report = measure(&options(args)).map_err(failure)?;
    ui.answer("bench", &report, || report.to_string())?;
    Ok(0)
}

fn options(args: &Args) -> Options {
    let defaults = Options::default();
    let synthetic: Vec<SynthKind> = match (args.sets.is_empty(), args.files.is_empty()) {
        (true, true) => defaults.synthetic,
        _ => args.sets.iter().map(|set| set.0).collect(),
    };
    let levels: Vec<Level> = args.levels.iter().map(|level| level.0).collect();
    Options {
        synthetic,
        shapes: args.shapes.shapes(),
        seed: args.seed,
        files: args.files.clone(),
        cast_bf16: args.cast_bf16,
        budget_bytes: args.budget,
        levels: if levels.is_empty() { defaults.levels } else { levels },
        rounds: usize::from(args.rounds),
        max_threads: args.threads.map_or(defaults.max_threads, usize::from),
        peers: !args.no_peers,
        python: args.python.clone(),
    }
}

fn failure(error: Error) -> Failure {
    const FETCH: &str = "name a .safetensors file, or a folder with such files, with --file";
    const REPORT: &str = "this must not happen: please report it with the file it happens on";
    match error {
        Error::Io { path, source } => Failure::io(&path, source),
        Error::NotSafetensors { path, what } => {
            Failure::new(Kind::Input, format!("not a safetensors file: {what}"), FETCH).at(&path)
        }
        error @ Error::Empty(_) => Failure::new(Kind::Input, error.to_string(), FETCH),
        error => Failure::new(Kind::Damaged, error.to_string(), REPORT),
    }
}
