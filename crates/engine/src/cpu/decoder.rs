//! A model on the CPU, loaded and ready: [`CpuDecoder`] is the [`Decoder`] that generation and evaluation run.

use std::time::Instant;

use netweight_kernels_cpu::{Isa, KvCache, Precision};
use netweight_layout::Layout;
use netweight_model::{Model, Spec, Workspace};

use super::backend::{Cpu, CpuPlan};
use super::source::CpuSource;
use crate::decoder::{Batch, Decoder};
use crate::load::{check_tensors, read_spec};
use crate::options::{LoadOptions, LoadReport, MAX_LOGIT_ROWS, default_precision, max_positions, n_cores};
use crate::store::Store;
use crate::{Error, Interrupt, Result};

/// Tokens that run together where nobody says.
const DEFAULT_BATCH_TOKENS: usize = 256;

/// A model on the CPU with its cache.
pub struct CpuDecoder {
    pub(super) model: Model<Cpu>,
    pub(super) cpu: Cpu,
    workspace: Workspace<Cpu>,
    cache: KvCache,
    report: LoadReport,
    places: Vec<netweight_model::Place>, // (max_batch_tokens)
}

impl CpuDecoder {
    /// Reads `config.json`, checks that all it needs is there, and loads it. `progress` hears of source bytes done.
    ///
    /// # Errors
    /// `Config` and `File` before any long work where config, names, shapes or dtypes do not fit; `InvalidArgument` for
    /// options that cannot be; `File` where weights cannot be read; `Interrupted`.
    pub fn load(
        store: &Store,
        options: &LoadOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CpuDecoder> {
        let begin = Instant::now();
        let spec = read_spec(store)?;
        check_tensors(store, &spec)?;
        let max_positions = max_positions(&spec, options)?;
        let isa = options.isa.map_or_else(|| Isa::from_env().map_err(|error| Error::invalid(error.to_string())), Ok)?;
        let plan = CpuPlan {
            isa,
            n_threads: if options.n_threads == 0 { n_cores() } else { options.n_threads },
            precision: options.precision.unwrap_or_else(|| default_precision(store, &spec)),
            kv_type: options.kv_type,
            max_tokens: options
                .max_batch_tokens
                .unwrap_or(DEFAULT_BATCH_TOKENS)
                .clamp(1, max_positions.saturating_mul(options.n_slots.max(1))),
            max_positions,
            n_slots: options.n_slots.max(1),
        };
        let cpu = Cpu::new(&spec, plan)?;
        let cache = cpu.cache(&spec)?;
        let layouts = [options.layout, Some(fastest_layout(isa))];
        let mut source = CpuSource::load(store, &spec, layouts, plan.n_threads, interrupt, progress)?;
        let (n_weights, matrix_bytes, layouts) = (source.n_weights(), source.matrix_bytes(), source.layouts());
        if plan.precision == Precision::Int8 && !layouts.iter().any(|(layout, _)| layout.is_index()) {
            return Err(Error::invalid(
                "int8 activations are for tuned models in their own layouts; no matrix of this one is so: ask for bf16 or f32",
            ));
        }
        let model = Model::load(spec, max_positions, &cpu, &mut source)?;
        let workspace = Workspace::new(&model, &cpu, plan.max_tokens, MAX_LOGIT_ROWS)?;
        let report = LoadReport {
            n_weights,
            matrix_bytes,
            original_bytes: store.original_bytes(),
            layouts,
            seconds: begin.elapsed().as_secs_f64(),
            n_threads: cpu.plan().n_threads,
            isa: isa.name().to_owned(),
            streamed_bytes: 0,
            precision: plan.precision,
            notes: Vec::new(),
        };
        Ok(CpuDecoder { model, cpu, workspace, cache, report, places: Vec::with_capacity(plan.max_tokens) })
    }

    /// Goes on with another number of threads, at least 1. The results stay the same, and so does the cache.
    ///
    /// # Errors
    /// None that [`CpuDecoder::load`] did not have.
    pub fn set_threads(&mut self, n_threads: usize) -> Result<()> {
        let observer = self.cpu.observer.take();
        self.cpu = Cpu::new(self.model.spec(), CpuPlan { n_threads: n_threads.max(1), ..self.cpu.plan() })?;
        self.cpu.observer = observer;
        self.report.n_threads = self.cpu.plan().n_threads;
        Ok(())
    }

    /// What is to be said of the load.
    pub(crate) fn notes(&mut self) -> &mut Vec<String> {
        &mut self.report.notes
    }

    /// What loading did.
    pub fn report(&self) -> &LoadReport {
        &self.report
    }

    /// The model's declaration.
    pub fn spec(&self) -> &Spec {
        self.model.spec()
    }
}

/// Vector code of 512 bits takes 3-bit codes apart as fast as memory gives them; shuffles of 16 bytes suit 4-bit codes.
fn fastest_layout(isa: Isa) -> Layout {
    match isa.name() {
        "avx512" | "amx" => Layout::Exact11,
        _ => Layout::Exact12,
    }
}

impl Decoder for CpuDecoder {
    fn vocab_size(&self) -> usize {
        self.model.spec().vocab
    }

    fn max_positions(&self) -> usize {
        self.cpu.plan().max_positions
    }

    fn max_batch_tokens(&self) -> usize {
        self.workspace.max_tokens()
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<()> {
        interrupt.check()?;
        let sequence_len = self.max_positions(); // LongRoPE rotates for the context that was asked for, as vLLM does.
        let place =
            |at: &crate::decoder::Place| netweight_model::Place { slot: at.slot, position: at.position, sequence_len };
        self.places.clear();
        self.places.extend(batch.places.iter().map(place));
        self.cpu.interrupt = interrupt.clone();
        let batch = netweight_model::Batch { tokens: batch.tokens, places: &self.places, logits_for: batch.logits_for };
        let done = self.model.forward(&mut self.cpu, &batch, &mut self.workspace, &mut self.cache, logits);
        interrupt.check()?;
        Ok(done?)
    }
}
