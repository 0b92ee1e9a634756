//! A model on a GPU, loaded and ready: [`CudaDecoder`] is a [`Decoder`] as the CPU's is.

use std::collections::HashMap;
use std::time::Instant;

use netweight_kernels_cuda as kernels;
use netweight_kernels_cuda::launch::SPAN_POSITIONS;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, PAGE_POSITIONS, PagedCache, PagedShape, Slots, WideKind};
use netweight_layout::Layout;
use netweight_model::{Kind, Mlp, Model, Spec, Tensor, Workspace};

use super::backend::{Cuda, Ending, Mode, Sizes};
use super::graphs::{self, Graphs};
use super::linear::Streamed;
use super::residence::{Candidate, N_SLOTS, choose_streamed};
use super::source::{CudaSource, Loaded, Origin, Planned, candidates, shape_of};
use super::times::{FIXED_LAYOUT, Times};
use crate::decoder::{Batch, Choice, Decoder};
use crate::load::{check_tensors, first_attention, read_spec};
use crate::options::{LoadOptions, LoadReport, MAX_LOGIT_ROWS, default_precision, max_positions, n_cores};
use crate::store::Store;
use crate::{Error, Interrupt, KvType, Precision, Result};

/// Tokens that run together where nobody says.
const DEFAULT_BATCH_TOKENS: usize = 2048;
/// Spans of attention that are computed at once, or as many as one sequence has.
const SCRATCH_SPANS: usize = 1024;
/// Memory that the driver, the vendor's library and others may take while the model runs.
const MARGIN_BYTES: u64 = 256 << 20;

/// A model on a GPU with its cache.
pub struct CudaDecoder {
    graphs: Graphs, // before what its graphs work on
    model: Model<Cuda>,
    cuda: Cuda,
    workspace: Workspace<Cuda>,
    cache: PagedCache,
    report: LoadReport,
    places: Vec<netweight_model::Place>, // (max_batch_tokens)
    unwanted: Vec<f32>,                  // (vocab), where only a token is wanted
}

/// What is decided before anything is loaded.
struct Plan {
    precision: Precision,
    max_positions: usize,
    max_tokens: usize,
    kv: PagedShape,
    sizes: Sizes,
    shapes: Vec<Shape>,
}

impl CudaDecoder {
    /// Reads `config.json`, checks that all it needs is there and fits, and loads it. `progress` hears of source bytes done.
    ///
    /// # Errors
    /// As [`CpuDecoder::load`](crate::CpuDecoder::load); `Device` where the GPU's memory is too small or something fails there.
    pub fn load(
        store: &Store,
        device: &Device,
        options: &LoadOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CudaDecoder> {
        let begin = Instant::now();
        let spec = read_spec(store)?;
        check_tensors(store, &spec)?;
        CudaDecoder::load_from((Origin::Store(store), begin), spec, device, options, interrupt, progress)
    }

    /// A model with random weights, which are made on the GPU by a seed and the names of tensors, the same in every layout:
    /// for measurements of models that are not at hand. `progress` hears of source bytes done.
    ///
    /// # Errors
    /// As [`CudaDecoder::load`].
    pub fn random(
        (spec, seed): (Spec, u64),
        device: &Device,
        options: &LoadOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CudaDecoder> {
        CudaDecoder::load_from((Origin::Random(seed), Instant::now()), spec, device, options, interrupt, progress)
    }

    fn load_from(
        (origin, begin): (Origin<'_>, Instant),
        spec: Spec,
        device: &Device,
        options: &LoadOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CudaDecoder> {
        let plan = Plan::new(origin, &spec, options)?;
        let times = Times::new(origin, &spec, plan.precision, device, options, interrupt)?;
        let mut cuda = Cuda::new(device, plan.sizes, plan.shapes.iter().copied(), times.gemm_from())?;
        let (planned, notes) = place((origin, &times), &spec, &plan, device, options)?;
        let cache = PagedCache::new(device, plan.kv)?;
        let n_threads = if options.n_threads == 0 { n_cores() } else { options.n_threads };
        let mut source = CudaSource::new(origin, device, plan.precision, planned, n_threads, interrupt, progress)?;
        let model = Model::load(spec, plan.max_positions, &cuda, &mut source)?;
        let (streamed, loaded) = source.finish();
        let slot_words = streamed.iter().map(kernels::HostMatrix::len).max();
        let slots = slot_words.map(|n_words| Slots::new(device, N_SLOTS, n_words)).transpose()?;
        cuda.set_streamed(slots.map(|slots| Streamed::new(streamed, slots)));
        let workspace = Workspace::new(&model, &cuda, plan.max_tokens, MAX_LOGIT_ROWS)?;
        let graphs = Graphs::new(device);
        let report = LoadReport { notes, ..report(origin, device, &plan, &loaded, begin.elapsed().as_secs_f64()) };
        let (places, unwanted) = (Vec::with_capacity(plan.max_tokens), vec![0.0; plan.sizes.vocab]);
        Ok(CudaDecoder { graphs, model, cuda, workspace, cache, report, places, unwanted })
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

    /// Seconds that the GPU takes, by its own clock, for the last step of `n_tokens` tokens, which is run once more; `None`
    /// where no such step was captured: one is from its second time on, of up to 64 tokens with logits after each.
    ///
    /// # Errors
    /// `Device`.
    pub fn time_step(&self, n_tokens: usize) -> Result<Option<f64>> {
        Ok(self.graphs.time(n_tokens)?)
    }

    /// Runs a batch; what it ends with is in [`Cuda::token`], or in `logits`.
    fn run(
        &mut self,
        batch: &Batch<'_>,
        interrupt: &Interrupt,
        logits: &mut [f32],
        choice: Option<Choice>,
    ) -> Result<()> {
        interrupt.check()?;
        let sequence_len = self.max_positions(); // LongRoPE rotates for the context that was asked for, as vLLM does.
        let place =
            |at: &crate::decoder::Place| netweight_model::Place { slot: at.slot, position: at.position, sequence_len };
        self.places.clear();
        self.places.extend(batch.places.iter().map(place));
        let n_spans = self.reserve(batch)?;
        let n_tokens = batch.tokens.len();
        let is_step = n_tokens <= graphs::MAX_TOKENS && batch.logits_for.len() == n_tokens;
        let ending = match choice {
            None => Ending::Logits,
            Some(Choice::Likeliest) => Ending::Likeliest,
            Some(Choice::Drawn(_)) => Ending::Drawn,
        };
        let kind = is_step.then_some(graphs::Kind { n_tokens, n_spans, ending });
        let mode = self.graphs.mode(kind);
        self.cuda.begin(mode, interrupt, n_spans, choice);
        let forward =
            netweight_model::Batch { tokens: batch.tokens, places: &self.places, logits_for: batch.logits_for };
        let (model, workspace, cache) = (&self.model, &mut self.workspace, &mut self.cache);
        self.graphs.run((mode, kind), &mut self.cuda, |cuda| {
            model.forward(cuda, &forward, workspace, cache, logits).map_err(Error::from)?;
            if mode == Mode::Eager && logits.is_empty() {
                cuda.device.synchronize()?; // Nothing was read; the next pass writes inputs again.
                cuda.check()?;
            }
            Ok::<(), Error>(())
        })?;
        interrupt.check()?;
        if mode != Mode::Eager && choice.is_none() {
            logits.copy_from_slice(&self.cuda.logits.as_slice()[..logits.len()]);
        }
        Ok(())
    }

    /// Sees to it that the cache has pages for all positions of a batch; its attention's longest row in spans.
    fn reserve(&mut self, batch: &Batch<'_>) -> Result<usize> {
        let mut longest = 0;
        let shape = self.cache.shape();
        for place in batch.places {
            if place.slot >= shape.n_slots || place.position >= shape.max_positions {
                return Err(Error::invalid(format!(
                    "no {place:?} in {} slots of {}",
                    shape.n_slots, shape.max_positions
                )));
            }
            self.cache.reserve(place.slot, place.position + 1)?;
            longest = longest.max(place.position + 1);
        }
        let most = self.max_positions().div_ceil(SPAN_POSITIONS);
        Ok(longest.div_ceil(SPAN_POSITIONS).next_power_of_two().min(most))
    }
}

impl Plan {
    fn new(origin: Origin<'_>, spec: &Spec, options: &LoadOptions) -> Result<Plan> {
        let max_positions = max_positions(spec, options)?;
        let n_slots = options.n_slots.max(1);
        let batch = options.max_batch_tokens.unwrap_or(DEFAULT_BATCH_TOKENS);
        let max_tokens = most_tokens(batch, max_positions, n_slots);
        let attention = first_attention(spec)?;
        let kv_type = match options.kv_type {
            KvType::F16 => kernels::KvType::F16,
            KvType::Bf16 => kernels::KvType::Bf16,
            KvType::F32 => return Err(Error::invalid("keys and values of f32 are the CPU's alone")),
        };
        let kv = PagedShape {
            n_layers: spec.layers.len(),
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            n_slots,
            max_positions,
            n_pages: n_slots * max_positions.div_ceil(PAGE_POSITIONS),
            kv_type,
        };
        let experts = |layer: &netweight_model::Layer| match layer.mlp {
            Mlp::Experts(routed) => routed.n_experts,
            Mlp::Dense { .. } => 0,
        };
        let n_router_logits = spec.layers.iter().map(experts).max().unwrap_or(0) * max_tokens;
        let sizes = Sizes {
            max_tokens,
            n_logits: MAX_LOGIT_ROWS.max(n_router_logits.div_ceil(spec.vocab)),
            vocab: spec.vocab,
            n_spans: SCRATCH_SPANS
                .min(max_tokens * max_positions.div_ceil(SPAN_POSITIONS))
                .max(max_positions.div_ceil(SPAN_POSITIONS)),
            n_heads: attention.n_heads,
            head_dim: attention.head_dim,
        };
        let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
        let shapes = matrices.map(|tensor| shape_of(&tensor)).collect();
        let of_weights = || match origin {
            Origin::Store(store) => default_precision(store, spec),
            Origin::Random(_) => Precision::Bf16,
        };
        let precision = options.precision.unwrap_or_else(of_weights);
        if precision == Precision::Int8 {
            return Err(Error::invalid("int8 activations are the CPU's: ask for the device cpu, or for bf16 or f32"));
        }
        Ok(Plan { precision, max_positions, max_tokens, kv, sizes, shapes })
    }

    /// Bytes that a context of that length takes, of `free` ones, with what runs on it.
    fn taken_bytes(&self, spec: &Spec, free: u64, context: usize) -> u64 {
        let n_slots = self.kv.n_slots;
        let max_tokens = most_tokens(self.max_tokens, context, n_slots);
        let buffers = 24 * max_tokens * widths(spec); // f32 and bf16, generously
        let pages = n_slots * context.div_ceil(PAGE_POSITIONS) * self.kv.page_bytes();
        MARGIN_BYTES.min(free / 16) + (buffers + kernels::CHUNK_BYTES + pages) as u64
    }
}

/// Tokens that run together, at most.
fn most_tokens(batch: usize, max_positions: usize, n_slots: usize) -> usize {
    batch.clamp(1, max_positions.saturating_mul(n_slots).max(1))
}

/// Where each matrix is to lie, by the name of its tensor; and what is to be said of it.
fn place(
    (origin, times): (Origin<'_>, &Times),
    spec: &Spec,
    plan: &Plan,
    device: &Device,
    options: &LoadOptions,
) -> Result<(HashMap<String, Planned>, Vec<String>)> {
    let free = device.free_bytes()? as u64;
    let limit = options.gpu_memory.unwrap_or(u64::MAX);
    let room_beside = |context: usize| free.saturating_sub(plan.taken_bytes(spec, free, context)).min(limit);
    let room = room_beside(plan.max_positions);
    let choice = times.choose(room, plan.kv.n_slots, options.layout)?;
    let layout_of = |tensor: &Tensor| choice.layouts.get(tensor.name()).copied().unwrap_or(FIXED_LAYOUT);
    let candidates = candidates(origin, spec, plan.precision, layout_of)?;
    let sizes: Vec<Candidate> = candidates.iter().map(|(_, candidate)| *candidate).collect();
    let streams = choose_streamed(&sizes, room).map_err(|least_bytes| Error::GpuTooSmall {
        needed_bytes: sizes.iter().map(|candidate| candidate.bytes).sum(),
        least_bytes,
        free_bytes: room,
        context: plan.max_positions,
        fitting_context: longest(plan.kv.max_pages(), |n_pages| room_beside(n_pages * PAGE_POSITIONS) >= least_bytes)
            .map(|n_pages| n_pages * PAGE_POSITIONS),
    })?;
    let planned = candidates
        .into_iter()
        .zip(streams)
        .map(|((tensor, _), streams)| (tensor.name().to_owned(), Planned { layout: layout_of(&tensor), streams }));
    Ok((planned.collect(), choice.notes()))
}

/// The greatest of `1..=most` that fits, where all below one that fits do.
fn longest(most: usize, fits: impl Fn(usize) -> bool) -> Option<usize> {
    let (mut fitting, mut not) = (0, most + 1);
    while not - fitting > 1 {
        let middle = fitting.midpoint(not);
        *(if fits(middle) { &mut fitting } else { &mut not }) = middle;
    }
    (fitting > 0).then_some(fitting)
}

/// Columns of a token's activations, of all buffers.
fn widths(spec: &Spec) -> usize {
    let of_layer = |layer: &netweight_model::Layer| {
        let mlp = match layer.mlp {
            Mlp::Dense { width, .. } => width,
            Mlp::Experts(routed) => routed.width,
        };
        layer.attention.qkv_width() + layer.attention.q_width() + 3 * mlp
    };
    5 * spec.hidden + spec.layers.iter().map(of_layer).max().unwrap_or(0)
}

fn report(origin: Origin<'_>, device: &Device, plan: &Plan, loaded: &[Loaded], seconds: f64) -> LoadReport {
    let layout_of = |loaded: &Loaded| match (loaded.layout, loaded.kind) {
        (Some(layout), _) => Layout::all().find(|of| of.name() == layout.name()).unwrap_or(Layout::Bf16),
        (None, WideKind::Bf16) => Layout::Bf16,
        (None, WideKind::F16) => Layout::F16,
        (None, WideKind::F32) => Layout::F32,
    };
    let count = |layout: Layout| {
        let of_layout = loaded.iter().filter(|loaded| layout_of(loaded) == layout);
        (layout, of_layout.map(|loaded| loaded.n_weights).sum())
    };
    let n_weights = loaded.iter().map(|loaded| loaded.n_weights).sum();
    LoadReport {
        n_weights,
        matrix_bytes: loaded.iter().map(|loaded| loaded.bytes).sum(),
        original_bytes: match origin {
            Origin::Store(store) => store.original_bytes(),
            Origin::Random(_) => 2 * n_weights,
        },
        layouts: Layout::all().map(count).filter(|&(_, n_weights)| n_weights > 0).collect(),
        seconds,
        n_threads: 0,
        isa: device.properties().name.clone(),
        streamed_bytes: loaded.iter().filter(|loaded| loaded.streams).map(|loaded| loaded.bytes).sum(),
        precision: plan.precision,
        notes: Vec::new(),
    }
}

impl Decoder for CudaDecoder {
    fn vocab_size(&self) -> usize {
        self.model.spec().vocab
    }

    fn max_positions(&self) -> usize {
        self.cache.shape().max_positions
    }

    fn max_batch_tokens(&self) -> usize {
        self.workspace.max_tokens()
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<()> {
        self.run(batch, interrupt, logits, None)
    }

    fn choose(&mut self, batch: &Batch<'_>, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>> {
        if batch.logits_for.len() != 1 {
            return Ok(None);
        }
        let mut logits = std::mem::take(&mut self.unwanted);
        let done = self.run(batch, interrupt, &mut logits, Some(*choice));
        self.unwanted = logits;
        done?;
        match self.cuda.token.as_slice()[0] {
            u32::MAX => Err(Error::Logits("one is NaN or +Inf, or all are -Inf")),
            id => Ok(Some(id)),
        }
    }
}
