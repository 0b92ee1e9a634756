//! `netweight audit ARCHIVE --against CHECKPOINT`: the card of an exact archive. Goes in: both. Comes out: a card that says
//! so, after every byte was compared, and every logit; or an error, and no card.

use std::path::{Path, PathBuf};

use netweight_card::{CARD_NAME, Card, Evidence, FORMAT, Kind, Sizes, digests};
use netweight_container::Checkpoint;
use netweight_engine::Interrupt;
use netweight_layout::Layout;
use netweight_pack::{Archive, InspectOptions, VerifyOptions, WRITER, inspect, verify};

use crate::bar::Bar;
use crate::failure::{Failure, Kind as FailureKind, Reads};
use crate::models;
use crate::ui::Ui;
use crate::verbs::tune::{self, DEFAULT_WINDOW, Witnesses};
use crate::verbs::verify::WithoutNotes;

/// How an exact archive is measured.
#[derive(Clone, Debug, clap::Args)]
pub struct ExactArgs {
    /// Measure an exact archive against this checkpoint, of which it was made, and write its card.
    #[arg(long, value_name = "CHECKPOINT")]
    pub against: Option<PathBuf>,
    /// A text to measure on [default: parts of two novels].
    #[arg(long, value_name = "FILE", requires = "against")]
    pub held_out: Option<PathBuf>,
    /// A text of another kind [default: a part of a play].
    #[arg(long, value_name = "FILE", requires = "against")]
    pub ood: Option<PathBuf>,
    /// Tokens of a window [default: 512, or as many as the model knows positions].
    #[arg(long, value_name = "N", requires = "against", value_parser = clap::value_parser!(u32).range(2..))]
    pub window: Option<u32>,
    /// Tokens of each text to measure on [default: 16384].
    #[arg(long, value_name = "N", requires = "against", value_parser = clap::value_parser!(u32).range(64..))]
    pub eval_tokens: Option<u32>,
    /// Sign the card with this key: Ed25519, PEM, as `openssl genpkey -algorithm ed25519` makes one.
    #[arg(long, value_name = "FILE", requires = "against")]
    pub sign: Option<PathBuf>,
    /// Threads; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", requires = "against", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// Replace the card that is there.
    #[arg(long, requires = "against")]
    pub force: bool,
}

/// Tokens of each text to measure on where nobody says.
const EVAL_TOKENS: u32 = 16384;

/// Compares, measures, writes the card.
///
/// # Errors
/// `Damaged` where a byte or a logit differs: then there is no card. `Usage` where there is one already, or the archive
/// is a tuned one; what keeps the models from running.
pub fn write(archive: &Path, original: &Path, args: &ExactArgs, ui: &Ui) -> Result<(), Failure> {
    check(archive, args.force)?;
    let key = args.sign.as_ref().map(tune::read_private_key).transpose()?;
    let store = models::open(archive)?;
    let spec = netweight_engine::read_spec(&store).map_err(|error| Failure::running(error).at(archive))?;
    let window = args.window.map_or(DEFAULT_WINDOW.min(spec.max_positions), |window| window as usize);
    let tokenizer = models::tokenizer(&store, spec.vocab)?;
    drop(store);
    let n_tokens = args.eval_tokens.unwrap_or(EVAL_TOKENS);
    let texts = tune::evidence_texts(&tokenizer, args.held_out.as_ref(), args.ood.as_ref(), n_tokens)?;
    let original_bytes = compare_bytes(archive, original, args, ui)?;
    // The original's weights lie in memory as they are in its files, the archive's are compressed there too.
    let (interrupt, raw) = (Interrupt::new(), Some(Layout::Bf16));
    let mut witnesses = Witnesses::with(original, raw, usize::from(args.threads), window, &interrupt, ui)?;
    let (evidence, free_run) = witnesses.measure(archive, &texts, ui)?;
    if let Some(differs) = evidence.iter().find(|evidence| !is_exact(evidence)) {
        let what = format!("the bytes are equal, but logits differ on {}; no card was written", differs.text.name);
        let hint = "this is a mistake of netweight or of this machine: please report it, with the model's name";
        return Err(Failure::new(FailureKind::Damaged, what, hint).at(archive));
    }
    let listed = Checkpoint::list(archive).map_err(|error| Failure::reading(error, Reads::Archive))?;
    let files = digests(archive, listed.files.iter().map(|file| file.relative.as_str())).map_err(tune::card_failed)?;
    let card = Card {
        format: FORMAT,
        writer: WRITER.to_owned(),
        kind: Kind::Exact,
        method: None,
        precision: Vec::new(),
        sizes: Sizes {
            original_bytes,
            archive_bytes: files.iter().map(|file| file.bytes).sum(),
            ..matrix_sizes(archive, args, ui)?
        },
        files,
        refinement: Vec::new(),
        evidence,
        free_run,
    };
    tune::write_card(archive, &card, key.as_ref())
}

fn is_exact(evidence: &Evidence) -> bool {
    evidence.original_logits == evidence.model_logits && evidence.model.divergence.max == 0.0
}

/// Refuses what gets no such card, before any work.
fn check(path: &Path, force: bool) -> Result<(), Failure> {
    let archive = Archive::open(path).map_err(|error| Failure::reading(error, Reads::Archive))?;
    if archive.folder().is_none() {
        let hint = "a card speaks of a folder: compress the checkpoint's folder";
        return Err(Failure::new(FailureKind::Usage, "an archive shard by itself", hint).at(path));
    }
    let is_tuned =
        archive.shards().any(|(_, shard)| shard.tensors().iter().any(|entry| shard.grid(&entry.name).is_some()));
    if is_tuned {
        let hint = "`netweight tune` measured what that costs, and wrote the card; without --against it is shown";
        return Err(Failure::new(FailureKind::Usage, "a tuned archive: its weights were changed", hint).at(path));
    }
    let card = path.join(CARD_NAME);
    if card.exists() && !force {
        return Err(
            Failure::new(FailureKind::Exists, "there is a card already", "pass --force to replace it").at(&card)
        );
    }
    Ok(())
}

/// Every file that the archive gives back is the original's, byte for byte, and none is missing. The original's bytes.
fn compare_bytes(archive: &Path, original: &Path, args: &ExactArgs, ui: &Ui) -> Result<u64, Failure> {
    std::fs::metadata(original).map_err(|error| Failure::io(original, error))?;
    let options = VerifyOptions { threads: usize::from(args.threads), against: Some(original.to_path_buf()) };
    let report = verify(archive, &options, &WithoutNotes(Bar::new(ui, "compare")))
        .map_err(|error| Failure::reading(error, Reads::Archive))?;
    let Some(first) = report.problems.first() else { return Ok(report.original_bytes) };
    let what = format!("not the archive of that checkpoint: {}: {}; no card was written", first.path, first.what);
    let hint = "`netweight verify --against` lists all that differs";
    Err(Failure::new(FailureKind::Damaged, what, hint).at(archive))
}

/// Weights of all matrices, tied ones once, and their bits in the archive.
fn matrix_sizes(archive: &Path, args: &ExactArgs, ui: &Ui) -> Result<Sizes, Failure> {
    let options = InspectOptions { threads: usize::from(args.threads), ..InspectOptions::default() };
    let found = inspect(archive, &options, &Bar::new(ui, "inspect"))
        .map_err(|error| Failure::reading(error, Reads::Archive))?;
    let (mut n_weights, mut stored) = (0, 0);
    for tensor in found.tensors.iter().filter(|tensor| tensor.shape.len() > 1 && tensor.same_as.is_none()) {
        n_weights += tensor.n_elements;
        stored += tensor.stored_bytes.unwrap_or(tensor.bytes); // Opaque shards store tensors as they are.
    }
    let bits_per_weight = 8.0 * stored as f64 / n_weights.max(1) as f64;
    Ok(Sizes {
        original_bytes: 0,
        archive_bytes: 0,
        n_weights,
        bits_per_weight,
        refinement_bytes: None,
        bits_per_weight_with_refinement: None,
    })
}
