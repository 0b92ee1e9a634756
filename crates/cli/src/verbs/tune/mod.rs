//! `netweight tune`: a smaller model inside a budget, and the evidence of what that costs. Goes in: a checkpoint and a
//! budget. Comes out: an archive whose matrices are grids, with a card. The ways there: `texts.rs`, `search.rs`,
//! `evidence.rs`.

mod evidence;
mod journal;
mod search;
mod texts;

use std::path::{Path, PathBuf};

use netweight_card::Role;
use netweight_engine::{Interrupt, Store};
use netweight_pack::{CompressOptions, Grids, Report, check_destination, compress_grids, move_archive};
use serde_json::json;

use crate::bar::Bar;
use crate::failure::{Failure, Kind, Reads};
use crate::models;
use crate::signals;
use crate::ui::{Ui, complain};
use crate::units::{bytes, duration, grouped, percent};
use crate::verbs::Outcome;
pub use evidence::{Witnesses, read_key as read_private_key, write_card};
pub use evidence::{failed as card_failed, lines as evidence_lines};
use search::{Found, Tuning};
use texts::TextArgs;
pub use texts::evidence as evidence_texts;

const EXAMPLES: &str = "\
Examples:
  netweight tune Llama-3.1-8B -o small --bits 4.5                 Bits of each weight, all matrices counted
  netweight tune Llama-3.1-8B -o small --size 5GB                 Of the whole archive
  netweight tune Llama-3.1-8B -o small --max-ppl-rise 0.5%        On text that it never saw
  netweight tune Llama-3.1-8B -o small --bits 4 --keep-exact      `restore small -o DST` gives the original back
  netweight tune Llama-3.1-8B -o small --max-kl 0.01 --calibration code.txt --held-out more-code.txt

The archive is no longer exact: weights are changed, by as little as the budget allows. What that costs is measured on
text that was not calibrated on, from the archive as it was written, and stands in its card: `netweight audit small`.
`restore` gives the changed weights, in bf16. With --keep-exact it gives the original, every byte of it: what the tuned
model lacks of it lies beside each shard, in files *.refinement, which only `restore` and `verify` read. Who wants the
small model alone leaves them out.";

/// Times that a budget of loss is tightened where held-out text shows more than the search did.
const N_ATTEMPTS: usize = 3;
/// Tokens of a window where nobody asks for a number.
pub const DEFAULT_WINDOW: usize = 512;

/// Make a model several times smaller, within a loss that you set and it measures
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The model: a folder with a checkpoint.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// Where the archive is to appear.
    #[arg(short, long = "output", value_name = "DST")]
    pub output: PathBuf,
    /// What it may cost.
    #[command(flatten)]
    pub budget: BudgetArgs,
    /// What it is calibrated and measured on.
    #[command(flatten)]
    pub texts: TextArgs,
    /// Store what the tuned model lacks of the original beside it, some 7.5 bits for each weight more: `restore` gives the
    /// original back. Budgets are of the tuned model alone.
    #[arg(long)]
    pub keep_exact: bool,
    /// Sign the card with this key: Ed25519, PEM, as `openssl genpkey -algorithm ed25519` makes one.
    #[arg(long, value_name = "FILE")]
    pub sign: Option<PathBuf>,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Replace the archive that is at the destination.
    #[arg(long)]
    pub force: bool,
}

/// Exactly one of these.
#[derive(Clone, Copy, Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub struct BudgetArgs {
    /// Bits of each weight, on average over all matrices, embeddings and head among them.
    #[arg(long, value_name = "BITS", value_parser = parse_bits)]
    pub bits: Option<f64>,
    /// Bytes of the whole archive.
    #[arg(long, value_name = "SIZE", value_parser = crate::args::parse_bytes)]
    pub size: Option<u64>,
    /// Mean Kullback-Leibler divergence from the original on held-out text, in nats.
    #[arg(long, value_name = "NATS", value_parser = parse_loss)]
    pub max_kl: Option<f64>,
    /// Rise of perplexity on held-out text: 0.5% or 0.005.
    #[arg(long, value_name = "SHARE", value_parser = parse_loss)]
    pub max_ppl_rise: Option<f64>,
}

fn parse_bits(text: &str) -> Result<f64, String> {
    let bits: f64 = text.parse().map_err(|_| "bits are a number, such as 4.5".to_owned())?;
    if (1.0..=8.0).contains(&bits) { Ok(bits) } else { Err("1 to 8 bits are possible".to_owned()) }
}

fn parse_loss(text: &str) -> Result<f64, String> {
    let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number, 0.01));
    let loss: f64 = number.trim().parse().map_err(|_| "a loss is a number, such as 0.01 or 0.5%".to_owned())?;
    if loss.is_finite() && loss > 0.0 { Ok(loss * scale) } else { Err("a loss is above 0".to_owned()) }
}

/// Tunes, measures, writes.
///
/// # Errors
/// What keeps the model from running, or the budget from being met: then nothing is written.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let begin = std::time::Instant::now();
    check_destination(&args.model, &args.output, args.force)
        .map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
    let key = args.sign.as_ref().map(evidence::read_key).transpose()?;
    let store = models::open(&args.model)?;
    let spec = netweight_engine::read_spec(&store).map_err(|error| Failure::running(error).at(&args.model))?;
    let window = args.texts.window.map_or(DEFAULT_WINDOW.min(spec.max_positions), |window| window as usize);
    let tokenizer = models::tokenizer(&store, spec.vocab)?;
    let calibration = args.texts.calibration(&tokenizer, window)?;
    let texts = args.texts.evidence(&tokenizer)?;
    let (scratch, path) = scratch_beside(&args.output)?;
    signals::scratch(scratch.path());
    let interrupt = Interrupt::new();
    let mut tuning = Tuning::new(&store, &spec, args, &calibration, window, scratch.path(), &interrupt, ui)?;
    let mut witnesses = Witnesses::new(&args.model, args, window, &interrupt, ui)?;
    let mut target = args.budget;
    for attempt in 1.. {
        let found = tuning.search(&target, written_beside(&store, &tuning), ui)?;
        let report = write(args, &path, &tuning.grids(&found), ui).inspect_err(|_| tuning.journal.keep())?;
        let card = witnesses.card(&path, &tuning, &found, &report, &texts, ui)?;
        match excess(&args.budget, &card, &report) {
            Some(factor) if attempt < N_ATTEMPTS => {
                ui.step(|| format!("that is {factor:.3} times the budget: once more"))?;
                target = target.tightened(factor);
                std::fs::remove_dir_all(&path).map_err(|error| Failure::io(&path, error))?;
            }
            Some(factor) => {
                let what = format!("the best that was reached is {factor:.3} times the budget; nothing was written");
                return Err(Failure::new(Kind::Usage, what, "allow a little more"));
            }
            None => {
                evidence::write_card(&path, &card, key.as_ref())?;
                move_archive(&path, &args.output, args.force)
                    .map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
                evidence::gap(&card).iter().for_each(|warning| complain(warning));
                let value = serde_json::to_value(&card).unwrap_or_default();
                let document = json!({ "card": value, "seconds": begin.elapsed().as_secs_f64() });
                ui.summary("tune", &document, || summary(args, &found, &report, &card, begin.elapsed().as_secs_f64()))?;
                return Ok(0);
            }
        }
    }
    Ok(0)
}

/// A folder beside the destination, and the archive's place in it.
fn scratch_beside(destination: &Path) -> Result<(tempfile::TempDir, PathBuf), Failure> {
    let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = tempfile::Builder::new().prefix(".netweight-tune-").tempdir_in(parent);
    let folder = folder.map_err(|error| Failure::io(parent, error))?;
    let path = folder.path().join("archive");
    Ok((folder, path))
}

/// Bytes of an archive beside its grids, about: other tensors, and files that are no weights.
fn written_beside(store: &Store, tuning: &Tuning<'_>) -> u64 {
    store.original_bytes().saturating_sub(tuning.matrix_bytes())
}

fn write(args: &Args, path: &Path, grids: &dyn Grids, ui: &Ui) -> Result<Report, Failure> {
    let (threads, keep_exact) = (usize::from(args.threads), args.keep_exact);
    let options = CompressOptions { threads, keep_exact, force: true, ..CompressOptions::default() };
    let bar = Bar::new(ui, "write");
    compress_grids(&args.model, path, grids, &options, &bar).map_err(|error| Failure::reading(error, Reads::Checkpoint))
}

/// How many times the budget the written archive costs, where that is more than once.
fn excess(budget: &BudgetArgs, card: &netweight_card::Card, report: &Report) -> Option<f64> {
    let held_out = card.evidence.iter().find(|evidence| evidence.role == Role::HeldOut)?;
    let scores = &held_out.model;
    let paid = match *budget {
        BudgetArgs { bits: Some(bits), .. } => card.sizes.bits_per_weight / bits,
        BudgetArgs { size: Some(size), .. } => report.archive_bytes as f64 / size as f64,
        BudgetArgs { max_kl: Some(most), .. } => scores.divergence.mean / most,
        BudgetArgs { max_ppl_rise: Some(most), .. } => scores.ln_ratio.exp_m1() / most,
        _ => 0.0,
    };
    (paid > 1.0).then_some(paid)
}

impl BudgetArgs {
    /// A budget that leaves room for what the search did not see.
    fn tightened(&self, factor: f64) -> BudgetArgs {
        let less = |value: f64| value / factor * 0.98;
        BudgetArgs {
            bits: self.bits.map(|bits| bits - (factor - 1.0) * bits - 0.002),
            size: self.size.map(|size| (size as f64 / factor * 0.999) as u64),
            max_kl: self.max_kl.map(less),
            max_ppl_rise: self.max_ppl_rise.map(less),
        }
    }
}

/// What it takes for the original to come back.
pub fn refinement_line(card: &netweight_card::Card) -> Option<String> {
    let (n_bytes, bits) = (card.sizes.refinement_bytes?, card.sizes.bits_per_weight_with_refinement?);
    let more = format!("{} bytes more give the original back", grouped(n_bytes));
    Some(format!("{:<12}{more}; {bits:.3} bits each in all", "refinement"))
}

fn summary(args: &Args, found: &Found, report: &Report, card: &netweight_card::Card, seconds: f64) -> String {
    let (original, archive) = (report.original_bytes, report.archive_bytes);
    let mut lines = vec![
        format!(
            "{:<12}{} -> {} bytes, {}, {} less",
            "tuned",
            grouped(original),
            grouped(archive),
            percent(archive as f64, original as f64),
            bytes(original.saturating_sub(archive))
        ),
        format!("{:<12}{:.3} bits each, {}", "weights", card.sizes.bits_per_weight, found.words()),
    ];
    lines.extend(refinement_line(card));
    lines.extend(evidence_lines(card));
    lines.push(format!("{:<12}{} in {}", "written to", args.output.display(), duration(seconds)));
    lines.join("\n")
}
