//! A model on a GPU in every layout. Next in the flow: model_table.rs prints what comes out.

use netweight_engine::{AnyDecoder, CudaDecoder, Decoder, Interrupt, Layout, Store};
use netweight_kernels_cuda::Device;
use netweight_kernels_cuda::measure::{Effort, bandwidth};
use netweight_model::Spec;
use serde::Serialize;

use crate::gpu::kernels::{Gpu, MemoryRate, memory_rate};
use crate::gpu::options::{GpuModel, GpuModelOptions, WARM_STEPS};
use crate::machine::Machine;
use crate::model::contender::{Contender, hash, prompt, weights_per_token};
use crate::options::Error;
use crate::stats::Spread;

/// Memory beside weights and caches that a model takes, about.
const SCRATCH_BYTES: u64 = 3 << 30;

/// What a run of a model on a GPU found.
#[derive(Clone, Debug, Serialize)]
pub struct GpuModelReport {
    /// Version of netweight.
    pub version: String,
    /// The GPU.
    pub gpu: Gpu,
    /// Where and when.
    pub machine: Machine,
    /// The model.
    pub model: String,
    /// Weights of all matrices.
    pub n_weights: u64,
    /// Weights that one token reads.
    pub weights_per_token: u64,
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens that each sequence went on by.
    pub generate: usize,
    /// Rounds that medians are of.
    pub rounds: usize,
    /// Whether layouts took turns in every round; where they do not fit beside each other, each had its rounds alone.
    pub took_turns: bool,
    /// The GPU's memory.
    pub memory: MemoryRate,
    /// What was compared.
    pub check: GpuCheck,
    /// A row for each layout.
    pub rows: Vec<GpuModelRow>,
}

/// Every layout gave the same bits of logits after one step of the largest batch, and chose the same tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GpuCheck {
    /// Layouts.
    pub n_contenders: usize,
    /// Logits that each of them computed.
    pub n_logits: usize,
    /// FNV-1a over the bits of the logits, in hexadecimal.
    pub batch_hash: String,
    /// Whether all had the same bits of logits after the long prompt, too, which the vendor's library may have computed.
    pub prompt_is_same: bool,
}

/// A model in one layout.
#[derive(Clone, Debug, Serialize)]
pub struct GpuModelRow {
    /// The layout.
    pub layout: String,
    /// Seconds that loading took.
    pub load_s: f64,
    /// Bits in memory for each weight.
    pub bits_per_weight: f64,
    /// Bytes of all matrices.
    pub matrix_bytes: u64,
    /// Bytes of those that stay in the host's memory.
    pub streamed_bytes: u64,
    /// Decoding, for each size of batch.
    pub decode: Vec<GpuBatch>,
    /// Tokens of the prompt per second that passed.
    pub prefill: Spread,
    /// Times as fast as bf16, of the prompt.
    pub prefill_of_raw: Option<f64>,
}

/// Decoding a batch.
#[derive(Clone, Debug, Serialize)]
pub struct GpuBatch {
    /// Sequences.
    pub n_sequences: usize,
    /// Milliseconds of a step by the GPU's clock; none where no graph was captured.
    pub step_ms: Option<Spread>,
    /// Tokens of all sequences per second that passed, with copying the logits and choosing tokens on the host.
    pub tokens_per_second: Spread,
    /// Bytes of the weights that a token reads over a step's time, over what reading memory reaches; of models with
    /// experts, for one sequence.
    pub of_read: Option<f64>,
    /// Times as fast as bf16, by the GPU's clock.
    pub of_raw: Option<f64>,
    /// Times as fast as bf16, by the time that passed.
    pub of_raw_passed: Option<f64>,
}

/// What was taken of one layout.
struct Taken {
    row: GpuModelRow,
    batch_hash: u64,
    prompt_hash: u64,
    said: Vec<Vec<u32>>,  // (batches)
    steps: Vec<Vec<f64>>, // (batches, rounds)
    walls: Vec<Vec<f64>>, // (batches, rounds)
    prefills: Vec<f64>,   // (rounds)
}

/// Measures a model on a GPU.
///
/// # Errors
/// [`Error`]: a model that cannot be loaded or run, and layouts that do not compute the same.
pub fn run_gpu_model(device: &Device, options: &GpuModelOptions) -> Result<GpuModelReport, Error> {
    options.check()?;
    let effort = Effort { rounds: 20, seconds: 0.5 };
    let memory = bandwidth(device, options.memory_bytes, effort).map_err(netweight_engine::Error::from)?;
    let store = match &options.model {
        GpuModel::Files(path) => Some(Store::open(path).map_err(netweight_engine::Error::from)?),
        GpuModel::Random { .. } => None,
    };
    let spec = match (&options.model, &store) {
        (GpuModel::Random { spec, .. }, _) => (**spec).clone(),
        (GpuModel::Files(_), store) => netweight_engine::read_spec(store.as_ref().expect("it was opened"))?,
    };
    let wanted = options.wanted();
    let took_turns = fits(device, &spec, options, wanted.len())?;
    let n_together = if took_turns { wanted.len() } else { 1 };
    let mut taken = Vec::new();
    for together in wanted.chunks(n_together) {
        let mut contenders = together
            .iter()
            .map(|&layout| load(store.as_ref(), device, options, layout))
            .collect::<Result<Vec<Contender>, Error>>()?;
        taken.extend(measure(&mut contenders, options)?);
    }
    let check = compare(&taken, options, spec.vocab)?;
    let n_weights = spec.tensors().filter(|tensor| tensor.cols > 1).map(|tensor| (tensor.rows * tensor.cols) as u64);
    let mut report = GpuModelReport {
        version: env!("CARGO_PKG_VERSION").into(),
        gpu: Gpu::of(device),
        machine: Machine::here(),
        model: options.model.name(),
        n_weights: n_weights.sum(),
        weights_per_token: weights_per_token(&spec),
        prompt: options.prompt,
        generate: options.generate,
        rounds: options.rounds.max(1),
        took_turns,
        memory: memory_rate(&memory),
        check,
        rows: Vec::new(),
    };
    report.fill(taken, options);
    Ok(report)
}

/// Whether all layouts fit into the GPU's memory beside each other.
fn fits(device: &Device, spec: &Spec, options: &GpuModelOptions, n_layouts: usize) -> Result<bool, Error> {
    let free_bytes = device.free_bytes().map_err(netweight_engine::Error::from)? as u64;
    let weights: u64 = spec.tensors().map(|tensor| 2 * (tensor.rows * tensor.cols) as u64).sum();
    let of_layer = |layer: &netweight_model::Layer| 4 * layer.attention.n_kv_heads * layer.attention.head_dim;
    let position: usize = spec.layers.iter().map(of_layer).sum();
    let cache = (position * options.positions() * options.max_batch()) as u64;
    let scratch = SCRATCH_BYTES.min(free_bytes / 16);
    Ok(n_layouts as u64 * (weights + cache + scratch) < free_bytes && options.gpu_memory.is_none())
}

fn load(store: Option<&Store>, device: &Device, options: &GpuModelOptions, layout: Layout) -> Result<Contender, Error> {
    let (how, interrupt) = (options.engine(layout), Interrupt::new());
    let decoder = match (&options.model, store) {
        (GpuModel::Random { spec, seed, .. }, _) => {
            CudaDecoder::random(((**spec).clone(), *seed), device, &how, &interrupt, &|_| ())?
        }
        (GpuModel::Files(_), store) => {
            CudaDecoder::load(store.expect("it was opened"), device, &how, &interrupt, &|_| ())?
        }
    };
    let mut contender = Contender::of(AnyDecoder::Cuda(Box::new(decoder)), Some(layout), options.max_batch());
    contender.layout = layout;
    Ok(contender)
}

/// Checks, then rounds, in which all take turns.
fn measure(contenders: &mut [Contender], options: &GpuModelOptions) -> Result<Vec<Taken>, Error> {
    let vocab = contenders[0].decoder.vocab_size();
    let long = prompt(options.prompt.max(1), 0, vocab);
    let n_batches = options.batches.len();
    let mut taken = Vec::new();
    for contender in &mut *contenders {
        let prompt_hash = hash(contender.prefill(&long)?);
        contender.fill(options.decode_prompt())?;
        let batch_hash = hash(contender.step()?);
        let mut said = Vec::new();
        for &n_sequences in &options.batches {
            contender.timed_decode(n_sequences.max(1), WARM_STEPS)?;
            said.push(contender.timed_decode(n_sequences.max(1), options.generate.max(1))?.1);
        }
        let report = contender.decoder.report();
        let row = GpuModelRow {
            layout: contender.layout.name().to_owned(),
            load_s: report.seconds,
            bits_per_weight: report.bits_per_weight(),
            matrix_bytes: report.matrix_bytes,
            streamed_bytes: report.streamed_bytes,
            decode: Vec::new(),
            prefill: Spread { median: 0.0, min: 0.0, max: 0.0 },
            prefill_of_raw: None,
        };
        let (steps, walls) = (vec![Vec::new(); n_batches], vec![Vec::new(); n_batches]);
        taken.push(Taken { row, batch_hash, prompt_hash, said, steps, walls, prefills: Vec::new() });
    }
    for _ in 0..options.rounds.max(1) {
        for (contender, taken) in contenders.iter_mut().zip(&mut taken) {
            round(contender, taken, options, &long)?;
        }
    }
    Ok(taken)
}

fn round(contender: &mut Contender, taken: &mut Taken, options: &GpuModelOptions, long: &[u32]) -> Result<(), Error> {
    for (idx, &n_sequences) in options.batches.iter().enumerate() {
        let n_sequences = n_sequences.max(1);
        let (timing, said) = contender.timed_decode(n_sequences, options.generate.max(1))?;
        taken.walls[idx].push(timing.wall_s);
        if said != taken.said[idx] {
            let one = format!("{}, the first time,", taken.row.layout);
            return Err(Error::Differ { what: "tokens", one, other: taken.row.layout.clone() });
        }
        if let AnyDecoder::Cuda(decoder) = &contender.decoder {
            taken.steps[idx].extend(decoder.time_step(n_sequences)?);
        }
    }
    taken.prefills.push(contender.timed_prefill(long)?.wall_s);
    contender.fill(options.decode_prompt()) // The prompt was in slot 0.
}

/// All must have the logits and tokens of the first.
fn compare(taken: &[Taken], options: &GpuModelOptions, vocab: usize) -> Result<GpuCheck, Error> {
    let Some(first) = taken.first() else { return Ok(GpuCheck::default()) };
    for other in &taken[1..] {
        let what = if other.batch_hash != first.batch_hash {
            "logits"
        } else if other.said != first.said {
            "tokens"
        } else {
            continue;
        };
        let (one, other) = (first.row.layout.clone(), other.row.layout.clone());
        return Err(Error::Differ { what, one, other });
    }
    Ok(GpuCheck {
        n_contenders: taken.len(),
        n_logits: vocab * options.max_batch(),
        batch_hash: format!("{:016x}", first.batch_hash),
        prompt_is_same: taken.iter().all(|one| one.prompt_hash == first.prompt_hash),
    })
}

fn median(seconds: &[f64]) -> Option<f64> {
    (!seconds.is_empty()).then(|| Spread::of(seconds.iter().copied()).median)
}

impl GpuModelReport {
    fn fill(&mut self, taken: Vec<Taken>, options: &GpuModelOptions) {
        let raw = taken.iter().position(|one| one.row.layout == Layout::Bf16.name());
        let times = |ours: Option<f64>, theirs: Option<f64>| Some(theirs? / ours?.max(1e-12));
        for (idx, one) in taken.iter().enumerate() {
            let raw = raw.filter(|&raw| raw != idx).map(|raw| &taken[raw]);
            let read_bytes = one.row.bits_per_weight / 8.0 * self.weights_per_token as f64;
            let read_seconds = read_bytes / (1e9 * self.memory.read.median);
            let batch = |(batch_idx, n_sequences): (usize, usize)| {
                let (steps, walls) = (&one.steps[batch_idx], &one.walls[batch_idx]);
                let tokens = (n_sequences * options.generate.max(1)) as f64;
                GpuBatch {
                    n_sequences,
                    step_ms: median(steps).map(|_| Spread::of(steps.iter().map(|seconds| 1e3 * seconds))),
                    tokens_per_second: Spread::of(walls.iter().map(|seconds| tokens / seconds.max(1e-12))),
                    of_read: median(steps).map(|seconds| read_seconds / seconds.max(1e-12)),
                    of_raw: times(median(steps), raw.and_then(|raw| median(&raw.steps[batch_idx]))),
                    of_raw_passed: times(median(walls), raw.and_then(|raw| median(&raw.walls[batch_idx]))),
                }
            };
            let batches = options.batches.iter().map(|&n_sequences| n_sequences.max(1)).enumerate();
            let tokens = options.prompt.max(1) as f64;
            self.rows.push(GpuModelRow {
                decode: batches.map(batch).collect(),
                prefill: Spread::of(one.prefills.iter().map(|seconds| tokens / seconds.max(1e-12))),
                prefill_of_raw: times(median(&one.prefills), raw.and_then(|raw| median(&raw.prefills))),
                ..one.row.clone()
            });
        }
    }
}
