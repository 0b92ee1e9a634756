//! Finds how precise each matrix has to be. Goes in: a model, a calibration text and a budget. Comes out: steps that meet
//! it on a part of that text which was not calibrated on. Next in the flow: `evidence.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use netweight_card as card;
use netweight_container::{Checkpoint, Error as FileError, Result as FileResult};
use netweight_engine::{CpuDecoder, DeviceChoice, Interrupt, LoadOptions, Store};
use netweight_eval::{Recorded, Windows};
use netweight_model::Spec;
use netweight_pack::{Grids, Progress, WRITER};
use netweight_tensor::Grid;
use netweight_tune::{
    Allocation, Budget, Error as TuneError, Measured, Order, Plan, Sensitivity, Tuner, calibrate, profile, search,
};

use super::journal::Journal;
use super::texts::CalibrationText;
use super::{Args, BudgetArgs};
use crate::bar::Bar;
use crate::failure::{Failure, Kind, Reads};
use crate::signals;
use crate::ui::Ui;
use crate::units::percent;

/// Grids that are kept for who asks for the same one again.
const N_KEPT: usize = 2;

/// A model that is being tuned.
pub struct Tuning<'a> {
    model: CpuDecoder,
    tuner: Tuner<'a>,
    recorded: Recorded,
    /// In the order of the forward pass.
    pub profile: Vec<Sensitivity>,
    /// Of the profile.
    pub journal: Journal,
    interrupt: Interrupt,
    /// Of the card.
    pub calibration: card::Calibration,
    /// Of the card.
    pub seed: u64,
    /// What the user asked for.
    pub asked: card::Budget,
}

/// What the search found.
pub struct Found {
    /// Steps, and what they cost on the search's own text.
    pub plan: Plan,
    /// What other ways to deal precision out would cost.
    pub others: Vec<Plan>,
}

impl<'a> Tuning<'a> {
    /// Calibrates, and finds where the model is sensitive.
    ///
    /// # Errors
    /// What keeps the model from running on the text.
    #[allow(clippy::too_many_arguments)] // a model, its texts, and who hears of it
    pub fn new(
        store: &'a Store,
        spec: &Spec,
        args: &Args,
        text: &CalibrationText,
        window: usize,
        scratch: &Path,
        interrupt: &Interrupt,
        ui: &Ui,
    ) -> Result<Tuning<'a>, Failure> {
        let options = LoadOptions {
            device: DeviceChoice::Cpu,
            n_threads: usize::from(args.threads),
            max_positions: Some(window),
            ..LoadOptions::default()
        };
        let loading = Bar::new(ui, "load");
        loading.start(store.original_bytes());
        let model = CpuDecoder::load(store, &options, interrupt, &|n_bytes| loading.advance(n_bytes));
        let mut model = model.map_err(|error| Failure::running(error).at(store.path()))?;
        drop(loading);
        let windows = Windows { n_inputs: window };
        let calibrated =
            counting(ui, "calibrate", |progress| calibrate(&mut model, &text.tokens, windows, interrupt, progress))?;
        let n_tokens = calibrated.n_tokens as u64;
        let recorded =
            Recorded::new(&mut model, &text.search, windows, interrupt).map_err(TuneError::from).map_err(failed)?;
        let mut tuner = Tuner::new(store, spec, calibrated, Order::Given).map_err(failed)?;
        let probed = &text.search[..tuner.probe_tokens(window).min(text.search.len())];
        let probed = Recorded::new(&mut model, probed, windows, interrupt).map_err(TuneError::from).map_err(failed)?;
        let mut journal = journal(store, args, text, window, &model)?;
        signals::scratch_and(
            scratch,
            format!("probes are kept in {}, and the same command goes on from there", journal.path().display()),
        );
        let known = std::mem::take(&mut journal.known);
        if !known.is_empty() {
            ui.step(|| format!("{:<12}{} probes of an earlier run", "resumed", known.len()))?;
        }
        let profile = counting(ui, "profile", |progress| {
            let n_matrices = tuner.matrices().len();
            let mut n_done = known.len();
            progress(n_done, n_matrices);
            profile(&mut tuner, &mut model, &probed, &known, interrupt, &mut |matrix| {
                journal.note(matrix);
                n_done += 1;
                progress(n_done, n_matrices);
            })
        })?;
        let itself = recorded.compare(&mut model, interrupt).map_err(TuneError::from).map_err(failed)?;
        let calibration = card::Calibration { text: text.record.clone(), n_tokens, mean_nll: itself.base.mean_nll };
        let (interrupt, seed, asked) = (interrupt.clone(), args.texts.seed, args.budget.of_card());
        Ok(Tuning { model, tuner, recorded, profile, journal, interrupt, calibration, seed, asked })
    }

    /// Bytes of all matrices in bf16.
    pub fn matrix_bytes(&self) -> u64 {
        2 * self.tuner.n_weights() as u64
    }

    /// Weights of all matrices.
    pub fn n_weights(&self) -> u64 {
        self.tuner.n_weights() as u64
    }

    /// Steps that meet the budget, the better of both ways to deal precision out. `beside`: bytes of the archive that are
    /// no grids.
    ///
    /// # Errors
    /// `Usage` where nothing meets it, with the best that can be reached.
    pub fn search(&mut self, budget: &BudgetArgs, beside: u64, ui: &Ui) -> Result<Found, Failure> {
        let budget = self.budget(budget, beside)?;
        let mut best: Option<Plan> = None;
        let mut others = Vec::new();
        let heads = self.tuner.has_heads().then_some(Allocation::Heads);
        for allocation in [Allocation::Sensitivity, Allocation::Uniform].into_iter().chain(heads) {
            let mut tell = |_: f64, measured: &Measured| {
                let _ = ui.step(|| trial(allocation, measured));
            };
            let (tuner, model) = (&self.tuner, &mut self.model);
            let plan =
                search(tuner, model, &self.recorded, &self.profile, allocation, budget, &self.interrupt, &mut tell);
            let plan = match plan {
                Err(TuneError::Budget { .. }) if best.is_some() => continue,
                plan => plan.map_err(failed)?,
            };
            let is_better = best.as_ref().is_none_or(|best| cost(budget, &plan) < cost(budget, best));
            others.extend(if is_better { best.replace(plan) } else { Some(plan) });
        }
        let plan = best.ok_or_else(|| failed(TuneError::Budget { best: "unknown".to_owned() }))?;
        Ok(Found { plan, others })
    }

    fn budget(&self, budget: &BudgetArgs, beside: u64) -> Result<Budget, Failure> {
        Ok(match *budget {
            BudgetArgs { bits: Some(bits), .. } => Budget::Bits(bits),
            BudgetArgs { max_kl: Some(most), .. } => Budget::Divergence(most),
            BudgetArgs { max_ppl_rise: Some(most), .. } => Budget::PerplexityRise(most),
            BudgetArgs { size, .. } => {
                let bits = size.unwrap_or(0).saturating_sub(beside) as f64 * 8.0 / self.n_weights() as f64;
                if bits < 1.0 {
                    let what =
                        format!("{bits:.2} bits would be left for each weight, beside {beside} bytes of other tensors");
                    return Err(Failure::new(Kind::Usage, what, "1 bit is the least that is tried: allow more bytes"));
                }
                Budget::Bits(bits.min(8.0))
            }
        })
    }

    /// The grids of a plan, made as they are asked for.
    pub fn grids(&self, found: &Found) -> PlannedGrids<'_> {
        let infos = self.tuner.matrices().iter().enumerate();
        let by_name = infos.map(|(idx, info)| (info.name.clone(), (idx, found.plan.steps[idx]))).collect();
        PlannedGrids { tuner: &self.tuner, allocation: found.plan.allocation, by_name, kept: Mutex::new(Vec::new()) }
    }
}

/// Of a run with these files, texts and flags.
fn journal(
    store: &Store,
    args: &Args,
    text: &CalibrationText,
    window: usize,
    model: &CpuDecoder,
) -> Result<Journal, Failure> {
    let listed = Checkpoint::list(store.path()).map_err(|error| Failure::reading(error, Reads::Checkpoint))?;
    let files: Vec<_> =
        listed.files.iter().map(|file| (&file.relative, state(&store.path().join(&file.relative)))).collect();
    let texts = &args.texts;
    let precision = format!("{:?}", model.report().precision);
    let run = (WRITER, files, &text.record.sha256, window, texts.sequences, texts.seed, precision);
    Journal::open(&args.output, &run)
}

/// Length of a file, and when it was changed last.
fn state(path: &Path) -> Option<(u64, SystemTime)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.len(), metadata.modified().ok()?))
}

/// What is to be little, where the budget is met: bits where the loss is given, and the other way round.
fn cost(budget: Budget, plan: &Plan) -> f64 {
    match budget {
        Budget::Bits(_) => plan.measured.comparison.divergence.mean,
        _ => plan.measured.bits_per_weight,
    }
}

impl Found {
    /// How precision was dealt out.
    pub fn words(&self) -> String {
        let cost = |plan: &Plan| {
            let Measured { bits_per_weight, comparison, .. } = &plan.measured;
            format!("{bits_per_weight:.3} bits and {:.6} nats", comparison.divergence.mean)
        };
        let others = self.others.iter().map(|other| format!("{} {}", way(other.allocation), cost(other)));
        let others = others.map(|other| format!("; {other}")).collect::<String>();
        format!("{}: {} on the text of the search{others}", way(self.plan.allocation), cost(&self.plan))
    }
}

fn way(allocation: Allocation) -> &'static str {
    match allocation {
        Allocation::Sensitivity => "dealt out by sensitivity",
        Allocation::Uniform => "the same for all matrices",
        Allocation::Heads => "by sensitivity of heads, too",
    }
}

fn trial(allocation: Allocation, measured: &Measured) -> String {
    let found = &measured.comparison;
    format!(
        "{:<12}{:.3} bits, divergence {:.6} nats, perplexity {} of the original's, {}",
        "tried",
        measured.bits_per_weight,
        found.divergence.mean,
        percent(found.ln_ratio.mean.exp(), 1.0),
        way(allocation)
    )
}

/// An error of the tuner, in words.
pub fn failed(error: TuneError) -> Failure {
    match error {
        TuneError::Engine(error) | TuneError::Eval(netweight_eval::Error::Engine(error)) => Failure::running(error),
        TuneError::File(error) => Failure::reading(error, crate::failure::Reads::Checkpoint),
        TuneError::NotFinite { .. } => {
            Failure::new(Kind::Input, error.to_string(), "`netweight inspect` shows tensors that are not finite")
        }
        TuneError::Budget { .. } => Failure::new(Kind::Usage, error.to_string(), "allow more; nothing was written"),
        error => Failure::new(Kind::Usage, error.to_string(), "see `netweight tune --help`"),
    }
}

/// Runs `work` under a bar of what is done, of how many.
fn counting<T>(
    ui: &Ui,
    doing: &'static str,
    work: impl FnOnce(&mut dyn FnMut(usize, usize)) -> netweight_tune::Result<T>,
) -> Result<T, Failure> {
    let bar = Bar::new(ui, doing);
    let (mut seen, mut is_started) = (0, false);
    let found = work(&mut |done, total| {
        if !is_started {
            bar.start(total as u64);
            is_started = true;
        }
        bar.advance(done.saturating_sub(seen) as u64);
        seen = done;
    });
    found.map_err(failed)
}

/// Grids that are quantised when they are asked for; deterministic, so that they may be asked for again.
pub struct PlannedGrids<'a> {
    tuner: &'a Tuner<'a>,
    allocation: Allocation,
    by_name: BTreeMap<String, (usize, f32)>,
    kept: Mutex<Vec<(String, Arc<Grid>)>>,
}

impl Grids for PlannedGrids<'_> {
    fn names(&self) -> BTreeSet<String> {
        self.by_name.keys().cloned().collect()
    }

    fn grid(&self, name: &str) -> FileResult<Arc<Grid>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grid)) = kept.iter().find(|(kept, _)| kept == name) {
            return Ok(Arc::clone(grid));
        }
        let (idx, step) =
            self.by_name.get(name).copied().ok_or_else(|| FileError::invalid("no matrix of that name"))?;
        let quantized = self.tuner.quantize(idx, &self.tuner.coarseness(idx, step, self.allocation)).map_err(
            |error| match error {
                TuneError::File(error) => error,
                error => FileError::invalid(error.to_string()).in_tensor(name),
            },
        )?;
        let grid = Arc::new(quantized.grid);
        if kept.len() == N_KEPT {
            kept.remove(0);
        }
        kept.push((name.to_owned(), Arc::clone(&grid)));
        Ok(grid)
    }
}
