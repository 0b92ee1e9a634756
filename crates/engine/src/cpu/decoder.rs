//! A model on the CPU, loaded and ready: [`CpuDecoder`] is the [`Decoder`] that generation and evaluation run.

use std::time::Instant;

use netweight_kernels_cpu::{Isa, KvCache, KvType, Precision};
use netweight_layout::Layout;
use netweight_model::{Kind, Model, Spec, Workspace};

use super::backend::{Cpu, CpuPlan};
use super::source::CpuSource;
use crate::decoder::{Batch, Decoder};
use crate::store::Store;
use crate::text::SideFiles;
use crate::{Error, Interrupt, Result};

/// How a model is to run. The defaults suit a machine with one model and one sequence.
#[derive(Clone, Copy, Debug)]
pub struct CpuOptions {
    /// Threads; 0: one for each core.
    pub n_threads: usize,
    /// Resident layout of bf16 weights; `None`: the one that they are stored in, else the one that this CPU runs
    /// fastest.
    pub layout: Option<Layout>,
    /// What activations are rounded to before they enter a linear layer; `None`: bf16 where the embeddings are bf16,
    /// as in engines that compute in bf16, else not at all.
    pub precision: Option<Precision>,
    /// What keys and values are kept as.
    pub kv_type: KvType,
    /// Positions of a sequence; `None`: the model's, but at most [`DEFAULT_POSITIONS`].
    pub max_positions: Option<usize>,
    /// Sequences that the cache has room for.
    pub n_slots: usize,
    /// Tokens that run together at most.
    pub max_batch_tokens: usize,
    /// Instruction set; `None`: the fastest, or what `NETWEIGHT_ISA` names.
    pub isa: Option<Isa>,
}

/// Positions of a sequence where nobody asks for a number.
pub const DEFAULT_POSITIONS: usize = 8192;
/// Rows of logits that are computed at a time.
const MAX_LOGIT_ROWS: usize = 64;

/// Bytes that are compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

impl Default for CpuOptions {
    fn default() -> CpuOptions {
        CpuOptions {
            n_threads: 0,
            layout: None,
            precision: None,
            kv_type: KvType::F16,
            max_positions: None,
            n_slots: 1,
            max_batch_tokens: 256,
            isa: None,
        }
    }
}

/// What a load did.
#[derive(Clone, Debug)]
pub struct LoadReport {
    /// Weights of all matrices.
    pub n_weights: u64,
    /// Bytes of all matrices in memory.
    pub matrix_bytes: u64,
    /// Bytes of the checkpoint's shards, as published.
    pub original_bytes: u64,
    /// Layouts, and the weights in each.
    pub layouts: Vec<(Layout, u64)>,
    /// Seconds from opening the files to the first forward pass.
    pub seconds: f64,
    /// Threads.
    pub n_threads: usize,
    /// Name of the instruction set.
    pub isa: &'static str,
    /// What activations are rounded to.
    pub precision: Precision,
}

impl LoadReport {
    /// Bits in memory for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.matrix_bytes as f64 / self.n_weights.max(1) as f64
    }
}

/// A model on the CPU with its cache.
pub struct CpuDecoder {
    model: Model<Cpu>,
    cpu: Cpu,
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
        options: &CpuOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CpuDecoder> {
        let begin = Instant::now();
        let spec = read_spec(store)?;
        CpuSource::check(store, &spec)?;
        let max_positions = max_positions(&spec, options)?;
        let isa = options.isa.map_or_else(|| Isa::from_env().map_err(|error| Error::invalid(error.to_string())), Ok)?;
        let plan = CpuPlan {
            isa,
            n_threads: if options.n_threads == 0 { n_cores() } else { options.n_threads },
            precision: options.precision.unwrap_or_else(|| default_precision(store, &spec)),
            kv_type: options.kv_type,
            max_tokens: options.max_batch_tokens.clamp(1, max_positions.saturating_mul(options.n_slots.max(1))),
            max_positions,
            n_slots: options.n_slots.max(1),
        };
        let cpu = Cpu::new(&spec, plan)?;
        let cache = cpu.cache(&spec)?;
        let layouts = [options.layout, Some(fastest_layout(isa))];
        let mut source = CpuSource::load(store, &spec, layouts, plan.n_threads, interrupt, progress)?;
        let (n_weights, matrix_bytes, layouts) = (source.n_weights(), source.matrix_bytes(), source.layouts());
        let model = Model::load(spec, max_positions, &cpu, &mut source)?;
        let workspace = Workspace::new(&model, &cpu, plan.max_tokens, MAX_LOGIT_ROWS)?;
        let report = LoadReport {
            n_weights,
            matrix_bytes,
            original_bytes: store.original_bytes(),
            layouts,
            seconds: begin.elapsed().as_secs_f64(),
            n_threads: cpu.plan().n_threads,
            isa: isa.name(),
            precision: plan.precision,
        };
        Ok(CpuDecoder { model, cpu, workspace, cache, report, places: Vec::with_capacity(plan.max_tokens) })
    }

    /// Goes on with another number of threads, at least 1. The results stay the same, and so does the cache.
    ///
    /// # Errors
    /// None that [`CpuDecoder::load`] did not have.
    pub fn set_threads(&mut self, n_threads: usize) -> Result<()> {
        self.cpu = Cpu::new(self.model.spec(), CpuPlan { n_threads: n_threads.max(1), ..self.cpu.plan() })?;
        self.report.n_threads = self.cpu.plan().n_threads;
        Ok(())
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

/// The declaration in a store's `config.json`.
///
/// # Errors
/// `File` where there is none; `Config` where it is not a model that can be run.
pub fn read_spec(store: &Store) -> Result<Spec> {
    let missing = || netweight_container::Error::invalid("no config.json: it says what model the weights are");
    let config = store.side_file("config.json")?.ok_or_else(|| missing().in_file(store.path()))?;
    let config = String::from_utf8(config)
        .map_err(|_| netweight_container::Error::corrupt("config.json is not UTF-8").in_file(store.path()))?;
    let mut spec = Spec::from_config(&config)?;
    spec.is_tied = spec.is_tied && !has_other_head(store, &spec)?;
    Ok(spec)
}

/// Whether the weights have a head that is not the embeddings. It counts, even if the config ties the two: so does
/// transformers.
fn has_other_head(store: &Store, spec: &Spec) -> Result<bool> {
    let mut untied = spec.clone();
    untied.is_tied = false;
    let weights = untied.weights();
    let entry = |tensor: &netweight_model::Tensor| tensor.names.iter().find_map(|name| store.tensor(name));
    let heads = [weights.head.and_then(|head| entry(&head.linear)), entry(&weights.embed.linear)];
    let [Some(head), Some(embed)] = heads else { return Ok(false) };
    if (&head.shape, &head.dtype_name) != (&embed.shape, &embed.dtype_name) {
        return Ok(true);
    }
    let mut chunks = [const { Vec::new() }; 2];
    for begin in (0..head.len_bytes()).step_by(COMPARED_BYTES) {
        for (chunk, entry) in chunks.iter_mut().zip([head, embed]) {
            chunk.resize(COMPARED_BYTES.min((head.len_bytes() - begin) as usize), 0);
            store.read(&entry.name, begin, chunk)?;
        }
        if chunks[0] != chunks[1] {
            return Ok(true);
        }
    }
    Ok(false)
}

fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn max_positions(spec: &Spec, options: &CpuOptions) -> Result<usize> {
    match options.max_positions {
        None => Ok(spec.max_positions.min(DEFAULT_POSITIONS)),
        Some(0) => Err(Error::invalid("a context of 0 tokens")),
        Some(wanted) if wanted > spec.max_positions => {
            let most = spec.max_positions;
            Err(Error::invalid(format!("a context of {wanted} tokens; this model knows {most} positions")))
        }
        Some(wanted) => Ok(wanted),
    }
}

/// Vector code of 512 bits takes 3-bit codes apart as fast as memory gives them; shuffles of 16 bytes suit 4-bit codes.
fn fastest_layout(isa: Isa) -> Layout {
    match isa.name() {
        "avx512" | "amx" => Layout::Exact11,
        _ => Layout::Exact12,
    }
}

fn default_precision(store: &Store, spec: &Spec) -> Precision {
    let embedding = spec.tensors().find(|tensor| tensor.kind == Kind::Embedding);
    let entry = embedding.and_then(|tensor| tensor.names.iter().find_map(|name| store.tensor(name)));
    if entry.is_some_and(|entry| entry.dtype_name == "BF16") { Precision::Bf16 } else { Precision::F32 }
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
