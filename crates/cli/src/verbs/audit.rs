//! `netweight audit`: what was measured of a model, and whether the files are those that it was measured of.

use std::path::{Path, PathBuf};

use netweight_card::{CARD_NAME, Card, Kind, Signed, differing, digests, public_key};
use netweight_container::Checkpoint;
use serde_json::json;

use crate::failure::{Failure, Kind as FailureKind, Reads};
use crate::models;
use crate::ui::Ui;
use crate::units::{grouped, percent};
use crate::verbs::Outcome;
use crate::verbs::exact_card::{self, ExactArgs};
use crate::verbs::tune::{card_failed, evidence_lines, refinement_line};

const EXAMPLES: &str = "\
Examples:
  netweight audit small                      What it costs, and that no file was changed since that was measured
  netweight audit small --key publisher.pem  And that it was the publisher who measured
  netweight audit Qwen3-8B.nw --against Qwen3-8B --sign key.pem
                                             Compare an exact archive with its original, and write its card

A card is written by `netweight tune`, and of an exact archive with --against, where every byte is the original's and
every logit has the same bits; else there is no card, and the exit code is 1. The key is an Ed25519 public key, in PEM as `openssl pkey -pubout` writes it, or
32 bytes in hex.";

/// Show what was measured of a model, and check that its files and its card are untouched
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The archive's folder.
    #[arg(value_name = "MODEL")]
    pub model: PathBuf,
    /// The public key that the card must be signed with.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// How an exact archive is measured.
    #[command(flatten)]
    pub exact: ExactArgs,
}

/// Reads, checks, prints.
///
/// # Errors
/// `Input` where there is no card; `Damaged` where a file or the card was changed, or another key signed it.
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    if let Some(original) = &args.exact.against {
        exact_card::write(&args.model, original, &args.exact, ui)?;
    }
    let path = args.model.join(CARD_NAME);
    let bytes = std::fs::read(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound if args.model.exists() => no_card(&args.model),
        _ => Failure::io(&path, error),
    })?;
    let signed = Signed::decode(&bytes).map_err(|error| card_failed(error).at(&path))?;
    let key = args.key.as_ref().map(read_key).transpose()?;
    signed.check(key.as_ref()).map_err(|error| card_failed(error).at(&path))?;
    let card = signed.card().map_err(|error| card_failed(error).at(&path))?;
    let listed = Checkpoint::list(&args.model).map_err(|error| Failure::reading(error, Reads::Archive))?;
    let found = digests(&args.model, listed.files.iter().map(|file| file.relative.as_str())).map_err(card_failed)?;
    let different = differing(&card, &found);
    if let Some(first) = different.first() {
        let what = format!("{first} is not the file that the card speaks of{}", others(different.len() - 1));
        let hint = "fetch the model again: its files were changed, added or removed since they were measured";
        return Err(Failure::new(FailureKind::Damaged, what, hint).at(&args.model));
    }
    let n_refinements = card.refinement.iter().filter(|file| found.contains(file)).count();
    let report = json!({
        "card": card,
        "signer": signed.signer(),
        "key_matches": key.is_some(),
        "refinement_files_here": n_refinements,
    });
    ui.answer("audit", &report, || text(&card, signed.signer(), key.is_some(), n_refinements))?;
    Ok(0)
}

fn no_card(model: &Path) -> Failure {
    let hint = "`netweight tune` writes one; of an exact archive, `netweight audit ARCHIVE --against CHECKPOINT`";
    Failure::new(FailureKind::Input, format!("no card here ({CARD_NAME})"), hint).at(model)
}

fn read_key(path: &PathBuf) -> Result<ed25519_dalek::VerifyingKey, Failure> {
    public_key(&models::read_text(path)?).map_err(|error| card_failed(error).at(path))
}

fn others(n: usize) -> String {
    if n == 0 { String::new() } else { format!(", nor are {n} others") }
}

fn text(card: &Card, signer: Option<&str>, is_checked: bool, n_refinements: usize) -> String {
    let kind = match card.kind {
        Kind::Exact => "exact: every weight is the original's",
        Kind::Tuned => "tuned: weights were changed, within a budget",
    };
    let sizes = &card.sizes;
    let mut lines = vec![
        format!("{:<12}{kind}", "model"),
        format!(
            "{:<12}{} bytes, {} of the original's {}; {:.3} bits for each of {} weights",
            "size",
            grouped(sizes.archive_bytes),
            percent(sizes.archive_bytes as f64, sizes.original_bytes as f64),
            grouped(sizes.original_bytes),
            sizes.bits_per_weight,
            grouped(sizes.n_weights)
        ),
    ];
    lines.extend(refinement_line(card).map(|line| format!("{line}; {}", presence(card, n_refinements))));
    if let Some(method) = &card.method {
        lines.push(format!("{:<12}{}", "method", method.quantizer));
        lines.push(format!("{:<12}{}, seed {}, for {:?}", "precision", method.allocation, method.seed, method.budget));
        let text = &method.calibration.text;
        lines.push(format!(
            "{:<12}{}, {} tokens, SHA-256 {}",
            "calibrated",
            text.name,
            grouped(method.calibration.n_tokens),
            text.sha256
        ));
    }
    lines.extend(evidence_lines(card));
    lines.push(format!("{:<12}{}, all as they were measured", "files", card.files.len()));
    lines.push(format!("{:<12}{}", "signed", signed_by(signer, is_checked)));
    lines.join("\n")
}

/// Whether the original comes back from what is here.
fn presence(card: &Card, n_here: usize) -> String {
    match (n_here, card.refinement.len()) {
        (0, _) => "not here".to_owned(),
        (here, all) if here < all => format!("{here} of {all} files here"),
        _ => "here, as it was written".to_owned(),
    }
}

fn signed_by(signer: Option<&str>, is_checked: bool) -> String {
    match (signer, is_checked) {
        (None, _) => "by nobody".to_owned(),
        (Some(key), true) => format!("by the key that was given, {key}"),
        (Some(key), false) => format!("by {key}; --key checks that this is whom you trust"),
    }
}
