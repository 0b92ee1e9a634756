//! `netweight verify`: is an archive whole, and does it give its original back?

use std::path::{Path, PathBuf};

use netweight_engine::LoadOptions;
use netweight_pack::{Progress, VerifyOptions, VerifyReport, verify};

use crate::bar::Bar;
use crate::failure::{Failure, Kind, Reads};
use crate::ui::Ui;
use crate::units::{bytes, counted, duration, rate};
use crate::verbs::{Outcome, verify_logits};

const EXAMPLES: &str = "\
Examples:
  netweight verify Llama-3.1-8B.nw                          Every checksum, and the SHA-256 of every original
  netweight verify Llama-3.1-8B.nw --against Llama-3.1-8B   Compare with the original, byte by byte
  netweight verify Llama-3.1-8B.nw --logits 'It was'        Run it raw and compressed, compare the logits' bits

Nothing is written. Exit code 0: whole; 1: damaged or different.";

/// Check every byte of an archive, and that every original comes out of it
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The archive: a folder, or an archive shard.
    #[arg(value_name = "ARCHIVE")]
    pub archive: PathBuf,
    /// Compare with this checkpoint, byte by byte.
    #[arg(long, value_name = "ORIGINAL")]
    pub against: Option<PathBuf>,
    /// Run the model on this text, from raw and from compressed weights, and compare the bits of all logits instead.
    #[arg(long, value_name = "PROMPT")]
    pub logits: Option<String>,
    /// What computes the logits.
    #[command(flatten)]
    pub where_to: crate::models::DeviceArgs,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
}

/// Verifies, then lists what is wrong.
///
/// # Errors
/// Those of [`verify`]; damage is none, but its exit code is 1.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    if let Some(original) = &args.against {
        std::fs::metadata(original).map_err(|error| Failure::io(original, error))?;
    }
    if let Some(prompt) = &args.logits {
        let options = LoadOptions {
            device: args.where_to.device,
            gpu_memory: args.where_to.gpu_memory,
            n_threads: usize::from(args.threads),
            n_slots: 3,
            ..LoadOptions::default()
        };
        return verify_logits::run(&args.archive, args.against.as_deref(), prompt, &options, ui);
    }
    let options = VerifyOptions { threads: usize::from(args.threads), against: args.against.clone() };
    let bar = WithoutNotes(Bar::new(ui, "verify"));
    let report = verify(&args.archive, &options, &bar).map_err(|error| Failure::reading(error, Reads::Archive))?;
    drop(bar);
    if report.is_ok() {
        ui.summary("verify", &report, || whole(&args.archive, args.against.as_deref(), &report))?;
        return Ok(0);
    }
    ui.answer("verify", &report, || {
        let problems = report.problems.iter().map(|problem| match problem.what.contains(&problem.path) {
            true => format!("{}\n", problem.what), // It names the file, and where in it.
            false => format!("{}: {}\n", problem.path, problem.what),
        });
        let count = counted(report.problems.len() as u64, "problem");
        format!("{}{count}: {} is not whole", problems.collect::<String>(), args.archive.display())
    })?;
    Ok(Kind::Damaged.exit_code())
}

fn whole(archive: &Path, against: Option<&Path>, report: &VerifyReport) -> String {
    let (files, size) = (counted(report.n_files, "file"), bytes(report.original_bytes));
    let speed = rate(report.original_bytes, report.seconds);
    let time = duration(report.seconds);
    let original = match (report.n_refinements, report.n_left_out) {
        (0, 0) => String::new(),
        (_, 0) => "; its refinement is there: the original comes out".to_owned(),
        (0, _) => "; its refinement is not here: the tuned model is whole, the original does not come out".to_owned(),
        (here, missing) => format!("; of its refinement {missing} of {} files are not here", here + missing),
    };
    let equal = against.map(|original| format!(", equal to {} byte for byte", original.display())).unwrap_or_default();
    format!("{} is whole: {files}, {size} of originals{equal} ({time}, {speed}){original}", archive.display())
}

/// Problems stand in the report; they need not be shown twice.
pub struct WithoutNotes(pub Bar);

impl Progress for WithoutNotes {
    fn start(&self, total_bytes: u64) {
        self.0.start(total_bytes);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    fn note(&self, _text: &str) {}
}
