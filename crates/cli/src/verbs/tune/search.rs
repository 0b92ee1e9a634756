//! Finds how precise each matrix has to be. Goes in: a model, a calibration text and a budget. Comes out: steps that meet
//! it on a part of that text which was not calibrated on. Next in the flow: `evidence.rs`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use netweight_card as card;
use netweight_container::{Error as FileError, Result as FileResult};
use netweight_engine::{CpuDecoder, DeviceChoice, Interrupt, LoadOptions, Store};
use netweight_eval::{Recorded, Windows};
use netweight_model::Spec;
use netweight_pack::{Grids, Progress};
use netweight_tensor::Grid;
use netweight_tune::{
    Allocation, Budget, Coarseness, Error as TuneError, Measured, Order, Plan, Sensitivity, Tuner, calibrate, profile,
    search,
};

use super::texts::CalibrationText;
use super::{Args, BudgetArgs};
use crate::bar::Bar;
use crate::failure::{Failure, Kind};
use crate::ui::Ui;
use crate::units::percent;

/// Grids that are kept for who asks for the same one again.
const N_KEPT: usize = 2;

/// A model that is being tuned.
pub struct Tuning<'a> {
    model: CpuDecoder,
    tuner: Tuner<'a>,
    recorded: Recorded,
    profile: Vec<Sensitivity>,
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
    /// The mean divergence, or the bits, of the other way to deal precision out.
    pub other: Option<Plan>,
}

impl<'a> Tuning<'a> {
    /// Calibrates, and finds where the model is sensitive.
    ///
    /// # Errors
    /// What keeps the model from running on the text.
    pub fn new(
        store: &'a Store,
        spec: &Spec,
        args: &Args,
        text: &CalibrationText,
        window: usize,
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
        let tuner = Tuner::new(store, spec, calibrated, Order::Given).map_err(failed)?;
        let profile = counting(ui, "profile", |progress| profile(&tuner, &mut model, &recorded, interrupt, progress))?;
        let itself = recorded.compare(&mut model, interrupt).map_err(TuneError::from).map_err(failed)?;
        let calibration = card::Calibration { text: text.record.clone(), n_tokens, mean_nll: itself.base.mean_nll };
        let (interrupt, seed, asked) = (interrupt.clone(), args.texts.seed, args.budget.of_card());
        Ok(Tuning { model, tuner, recorded, profile, interrupt, calibration, seed, asked })
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
        let mut other = None;
        for allocation in [Allocation::Sensitivity, Allocation::Uniform] {
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
            other = if is_better { best.replace(plan) } else { Some(plan) };
        }
        let plan = best.ok_or_else(|| failed(TuneError::Budget { best: "unknown".to_owned() }))?;
        Ok(Found { plan, other })
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
        PlannedGrids { tuner: &self.tuner, by_name, kept: Mutex::new(Vec::new()) }
    }
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
        let way = |allocation| match allocation {
            Allocation::Sensitivity => "dealt out by sensitivity",
            Allocation::Uniform => "the same for all matrices",
        };
        let Some(other) = &self.other else { return way(self.plan.allocation).to_owned() };
        format!(
            "{}; {} would cost {:.3} bits and {:.6} nats on the text of the search, where it is {:.3} and {:.6}",
            way(self.plan.allocation),
            way(other.allocation),
            other.measured.bits_per_weight,
            other.measured.comparison.divergence.mean,
            self.plan.measured.bits_per_weight,
            self.plan.measured.comparison.divergence.mean
        )
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
        if allocation == Allocation::Uniform { "uniform" } else { "by sensitivity" }
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
        let quantized = self.tuner.quantize(idx, &Coarseness::of_step(step)).map_err(|error| match error {
            TuneError::File(error) => error,
            error => FileError::invalid(error.to_string()).in_tensor(name),
        })?;
        let grid = Arc::new(quantized.grid);
        if kept.len() == N_KEPT {
            kept.remove(0);
        }
        kept.push((name.to_owned(), Arc::clone(&grid)));
        Ok(grid)
    }
}
