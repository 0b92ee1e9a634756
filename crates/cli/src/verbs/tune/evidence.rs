//! What a tuned model costs, measured from the archive as it was written. Goes in: its path. Comes out: its card.

use std::path::Path;

use ed25519_dalek::SigningKey;
use netweight_card as card;
use netweight_card::{
    CARD_NAME, Card, Evidence, FileDigest, FreeRun, Kind, MatrixPrecision, Method, OtherAllocation, Role, Signed,
    Sizes, Text, digests, free_run, measure,
};
use netweight_container::{AtomicFile, Checkpoint, REFINEMENT_SUFFIX};
use netweight_engine::{AnyDecoder, DeviceChoice, Interrupt, LoadOptions, Precision};
use netweight_eval::Windows;
use netweight_layout::Layout;
use netweight_pack::{Progress, Report, WRITER};
use netweight_tune::Allocation;

use super::search::{Found, Tuning};
use super::{Args, BudgetArgs};
use crate::bar::Bar;
use crate::failure::{Failure, Kind as FailureKind};
use crate::models;
use crate::ui::Ui;

/// Prompts, their tokens, and tokens that are said after each.
const FREE_RUN: [usize; 3] = [16, 64, 64];
/// Nats by which texts of one kind may differ: two novels differ by 0.3 for a small model that read one of them.
const LARGEST_GAP: f64 = 0.7;
/// What quantised, in words.
const QUANTIZER: &str = "uniform grid with steps by row and column, errors fed back by the input's second moments \
                         (GPTQ), rounding by rate and distortion, entropy coded";

/// The original, twice: as it is run, and with activations rounded the other way.
pub struct Witnesses {
    original: AnyDecoder,
    rounded: AnyDecoder,
    options: LoadOptions,
    window: usize,
    interrupt: Interrupt,
}

impl Witnesses {
    /// Loads the original.
    ///
    /// # Errors
    /// What keeps it from running.
    pub fn new(path: &Path, args: &Args, window: usize, interrupt: &Interrupt, ui: &Ui) -> Result<Witnesses, Failure> {
        Witnesses::with(path, None, usize::from(args.threads), window, interrupt, ui)
    }

    /// Loads the original in a layout of its own, if one is named.
    ///
    /// # Errors
    /// What keeps it from running.
    pub fn with(
        path: &Path,
        layout: Option<Layout>,
        n_threads: usize,
        window: usize,
        interrupt: &Interrupt,
        ui: &Ui,
    ) -> Result<Witnesses, Failure> {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            n_threads,
            max_positions: Some(window.max(FREE_RUN[1] + FREE_RUN[2])),
            ..LoadOptions::default()
        };
        let its_own = LoadOptions { layout, ..options };
        let original = models::load_from(models::open(path)?, &its_own, interrupt, ui)?.decoder;
        let other = if original.report().precision == Precision::Bf16 { Precision::F32 } else { Precision::Bf16 };
        let other = LoadOptions { precision: Some(other), ..its_own };
        let rounded = models::load_from(models::open(path)?, &other, interrupt, ui)?.decoder;
        Ok(Witnesses { original, rounded, options, window, interrupt: interrupt.clone() })
    }

    /// Reads the archive back, runs it on all texts, and says what came of it.
    ///
    /// # Errors
    /// What keeps it from running.
    pub fn card(
        &mut self,
        archive: &Path,
        tuning: &Tuning<'_>,
        found: &Found,
        report: &Report,
        texts: &[Text],
        ui: &Ui,
    ) -> Result<Card, Failure> {
        let (evidence, free_run) = self.measure(archive, texts, ui)?;
        let listed =
            Checkpoint::list(archive).map_err(|error| Failure::reading(error, crate::failure::Reads::Archive))?;
        let files = digests(archive, listed.files.iter().map(|file| file.relative.as_str())).map_err(failed)?;
        let is_refinement = |file: &FileDigest| report.refinement.is_some() && file.path.ends_with(REFINEMENT_SUFFIX);
        let (refinement, files): (Vec<FileDigest>, Vec<FileDigest>) = files.into_iter().partition(is_refinement);
        let archive_bytes = files.iter().map(|file| file.bytes).sum();
        let refinement_bytes = report.refinement.map(|refinement| refinement.bytes);
        let bits = bits_per_weight(report, tuning);
        let more_bits = |n_bytes: u64| 8.0 * n_bytes as f64 / tuning.n_weights() as f64;
        Ok(Card {
            format: card::FORMAT,
            writer: WRITER.to_owned(),
            kind: Kind::Tuned,
            method: Some(method(tuning, found)),
            precision: precision(tuning, found),
            sizes: Sizes {
                original_bytes: report.original_bytes,
                archive_bytes,
                n_weights: tuning.n_weights(),
                bits_per_weight: bits,
                refinement_bytes,
                bits_per_weight_with_refinement: refinement_bytes.map(|n_bytes| bits + more_bits(n_bytes)),
            },
            files,
            refinement,
            evidence,
            free_run,
        })
    }

    /// Reads the archive back, and runs it on all texts.
    ///
    /// # Errors
    /// What keeps it from running.
    pub fn measure(
        &mut self,
        archive: &Path,
        texts: &[Text],
        ui: &Ui,
    ) -> Result<(Vec<Evidence>, Option<FreeRun>), Failure> {
        let mut model = models::load_from(models::open(archive)?, &self.options, &self.interrupt, ui)?.decoder;
        let mut evidence = Vec::with_capacity(texts.len());
        for text in texts {
            let bar = Bar::new(ui, "measure");
            bar.start(2 * text.tokens.len() as u64);
            let mut seen = 0;
            let mut progress = |done: usize, _: usize| {
                bar.advance(done.saturating_sub(seen) as u64);
                seen = done;
            };
            let windows = Windows { n_inputs: self.window };
            let (original, rounded) = (&mut self.original, &mut self.rounded);
            let of_text = measure(original, rounded, &mut model, text, windows, &self.interrupt, &mut progress);
            evidence.push(of_text.map_err(failed)?);
        }
        let prompts = texts.iter().find(|text| text.role == Role::HeldOut).map_or(&[][..], |text| &text.tokens);
        let free_run = free_run(&mut self.original, &mut model, prompts, FREE_RUN, &self.interrupt).map_err(failed)?;
        Ok((evidence, free_run))
    }
}

/// Of the grids as they lie in the file, with their steps.
fn bits_per_weight(report: &Report, tuning: &Tuning<'_>) -> f64 {
    let grids = report.coders.iter().filter(|(label, _)| label.starts_with("grid"));
    let stored: u64 = grids.map(|(_, used)| used.stored_bytes).sum();
    8.0 * stored as f64 / tuning.n_weights() as f64
}

fn precision(tuning: &Tuning<'_>, found: &Found) -> Vec<MatrixPrecision> {
    let matrices = tuning.profile.iter().zip(&found.plan.measured.of_each);
    matrices
        .map(|(matrix, &bits)| MatrixPrecision {
            name: matrix.name.clone(),
            n_weights: matrix.n_weights as u64,
            bits,
            probe_bits: matrix.bits,
            divergence: matrix.divergence,
            heads: matrix.heads.iter().map(|head| head.divergence).collect(),
        })
        .collect()
}

fn method(tuning: &Tuning<'_>, found: &Found) -> Method {
    let name = |allocation| match allocation {
        Allocation::Sensitivity => "sensitivity",
        Allocation::Uniform => "uniform",
        Allocation::Heads => "heads",
    };
    Method {
        quantizer: QUANTIZER.to_owned(),
        allocation: name(found.plan.allocation).to_owned(),
        others: found
            .others
            .iter()
            .map(|plan| OtherAllocation {
                allocation: name(plan.allocation).to_owned(),
                bits_per_weight: plan.measured.bits_per_weight,
                divergence: plan.measured.comparison.divergence.mean,
            })
            .collect(),
        budget: tuning.asked,
        seed: tuning.seed,
        calibration: tuning.calibration.clone(),
    }
}

impl BudgetArgs {
    /// As the card has it.
    pub fn of_card(&self) -> card::Budget {
        match *self {
            BudgetArgs { bits: Some(bits), .. } => card::Budget::Bits(bits),
            BudgetArgs { max_kl: Some(most), .. } => card::Budget::MaxKl(most),
            BudgetArgs { max_ppl_rise: Some(most), .. } => card::Budget::MaxPplRise(most),
            BudgetArgs { size, .. } => card::Budget::Size(size.unwrap_or(0)),
        }
    }
}

/// The private key in a file.
///
/// # Errors
/// `Io`; `Usage` where it is none.
pub fn read_key(path: &std::path::PathBuf) -> Result<SigningKey, Failure> {
    card::private_key(&models::read_text(path)?).map_err(|error| failed(error).at(path))
}

/// Writes the card beside the archive's files.
///
/// # Errors
/// `Io`.
pub fn write_card(archive: &Path, card: &Card, key: Option<&SigningKey>) -> Result<(), Failure> {
    let bytes = Signed::new(card, key).and_then(|signed| signed.encode()).map_err(failed)?;
    let write = || {
        let file = AtomicFile::create(&archive.join(CARD_NAME), true)?;
        file.write_all_at(0, &bytes)?;
        file.commit()
    };
    write().map_err(|error| Failure::reading(error, crate::failure::Reads::Archive))
}

/// An error of the card, in words.
pub fn failed(error: card::Error) -> Failure {
    use card::Error;
    let hint = match &error {
        Error::Eval(_) => "see `netweight tune --help`",
        Error::Io { .. } => "check the path",
        Error::Newer(_) => "update netweight",
        Error::Key(_) => "see `netweight audit --help`",
        _ => "ask whoever gave you the model",
    };
    match error {
        Error::Eval(netweight_eval::Error::Engine(error)) => Failure::running(error),
        Error::Io { ref path, .. } => Failure::new(FailureKind::Io, error.to_string(), hint).at(Path::new(path)),
        Error::Eval(_) | Error::Key(_) => Failure::new(FailureKind::Usage, error.to_string(), hint),
        Error::Signature(_) => Failure::new(FailureKind::Damaged, error.to_string(), hint),
        error => Failure::new(FailureKind::Input, error.to_string(), hint),
    }
}

/// A warning, where the calibration text is of another kind than the held-out one: the original finds one of them much
/// harder.
pub fn gap(card: &Card) -> Option<String> {
    let calibrated = card.method.as_ref()?.calibration.mean_nll;
    let held_out = card.evidence.iter().find(|evidence| evidence.role == Role::HeldOut)?;
    let gap = held_out.model.original_perplexity.ln() - calibrated;
    (gap.abs() > LARGEST_GAP).then(|| {
        format!(
            "warning: the original loses {calibrated:.2} nats a token on the calibration text and {:.2} on the held-out \
             text: these differ in kind or language; calibrate on text such as the model is for",
            calibrated + gap
        )
    })
}

/// What a card says, for people.
pub fn lines(card: &Card) -> Vec<String> {
    let mut lines = Vec::new();
    for evidence in &card.evidence {
        let (scores, floor) = (&evidence.model, &evidence.noise_floor);
        let role = if evidence.role == Role::HeldOut { "held-out" } else { "other kind" };
        let error = |error: Option<f64>, scale: f64, digits: usize| {
            error.map_or_else(|| "(one window)".to_owned(), |error| format!("+- {:.digits$}", error * scale))
        };
        let d = &scores.divergence;
        lines.push(format!("{role:<12}{}, {} tokens predicted", evidence.text.name, evidence.n_predicted));
        lines.push(format!(
            "  perplexity  {:.4} {}, of the original {:.4}: {:+.3} % {}",
            scores.perplexity,
            error(scores.perplexity_error, 1.0, 4),
            scores.original_perplexity,
            100.0 * scores.ln_ratio.exp_m1(),
            error(scores.ln_ratio_error, 100.0, 3)
        ));
        lines.push(format!(
            "  divergence  mean {:.6} {}, median {:.6}, 90 % {:.6}, 99 % {:.6}, 99.9 % {:.6}, most {:.4} nats",
            d.mean,
            error(d.error, 1.0, 6),
            d.median,
            d.p90,
            d.p99,
            d.p999,
            d.max
        ));
        lines.push(format!(
            "  noise       {:.6} nats, of rounding activations to bf16 or not: less than this means nothing",
            floor.divergence.mean
        ));
        lines.push(format!(
            "  tokens      same likeliest {:.3} % {}, probability of the true one {:+.4} % (rms {:.3} %), acceptance {:.3} %",
            100.0 * scores.same_top,
            error(scores.same_top_error, 100.0, 3),
            100.0 * scores.probability_change.mean,
            100.0 * scores.probability_change_rms,
            100.0 * scores.acceptance
        ));
    }
    if let Some(run) = &card.free_run {
        lines.push(format!(
            "{:<12}of {} texts of {} tokens, {:.0} % the same to the end; {:.1} tokens before the first that differs",
            "on its own",
            run.n_prompts,
            run.n_tokens,
            100.0 * run.same_to_the_end,
            run.mean_same
        ));
    }
    lines
}
