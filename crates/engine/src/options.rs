//! How a model is to run, and what loading it did. Next in the flow: cpu/decoder.rs, cuda/decoder.rs.

use netweight_kernels_cpu::{Isa, KvType, Precision};
use netweight_layout::Layout;
use netweight_model::{Kind, Spec};

use crate::store::Store;
use crate::{Error, Result};

/// What computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
}

/// How a model is to run. The defaults suit a machine with one model and one sequence.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// What computes.
    pub device: DeviceChoice,
    /// Threads of the CPU; 0: one for each core.
    pub n_threads: usize,
    /// Resident layout of bf16 weights; `None`: the one that they are stored in, else the one that the device runs
    /// fastest.
    pub layout: Option<Layout>,
    /// What activations are rounded to before they enter a linear layer; `None`: bf16 where the embeddings are bf16,
    /// as in engines that compute in bf16, else not at all. Int8, on the CPU alone, is for grids in layouts of indices,
    /// whose products are sums of integers then: faster, and other logits; what has no indices takes bf16.
    pub precision: Option<Precision>,
    /// What keys and values are kept as.
    pub kv_type: KvType,
    /// Positions of a sequence; `None`: the model's, but at most [`DEFAULT_POSITIONS`].
    pub max_positions: Option<usize>,
    /// Sequences that the cache has room for.
    pub n_slots: usize,
    /// Tokens that run together at most; `None`: 256 on the CPU, 2048 on a GPU.
    pub max_batch_tokens: Option<usize>,
    /// Bytes of a GPU's memory that weights may take; what is more streams in from the host. `None`: what is free.
    pub gpu_memory: Option<u64>,
    /// Whether a GPU is measured, once for each shape of matrix: which layout it runs fastest where none is asked for, and
    /// how many tokens its vendor's library takes to be faster. Times are kept in the user's cache; with
    /// `NETWEIGHT_CUDA_CHOICE=off` in the environment, or without this, weights are exact12.
    pub measures: bool,
    /// Instruction set of the CPU; `None`: the fastest, or what `NETWEIGHT_ISA` names.
    pub isa: Option<Isa>,
}

/// Positions of a sequence where nobody asks for a number.
pub const DEFAULT_POSITIONS: usize = 8192;
/// Rows of logits that are computed at a time.
pub(crate) const MAX_LOGIT_ROWS: usize = 64;

impl Default for LoadOptions {
    fn default() -> LoadOptions {
        LoadOptions {
            device: DeviceChoice::default(),
            n_threads: 0,
            layout: None,
            precision: None,
            kv_type: KvType::F16,
            max_positions: None,
            n_slots: 1,
            max_batch_tokens: None,
            gpu_memory: None,
            measures: true,
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
    /// Threads of the CPU; 0 where it does not compute.
    pub n_threads: usize,
    /// Name of the instruction set, or of the GPU.
    pub isa: String,
    /// Bytes of all matrices that stay in the host's memory and stream to the GPU; 0 on the CPU.
    pub streamed_bytes: u64,
    /// What activations are rounded to.
    pub precision: Precision,
    /// What else should be said, in sentences.
    pub notes: Vec<String>,
}

impl LoadReport {
    /// Bits in memory for each weight.
    pub fn bits_per_weight(&self) -> f64 {
        8.0 * self.matrix_bytes as f64 / self.n_weights.max(1) as f64
    }
}

pub(crate) fn n_cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Positions of a sequence.
///
/// # Errors
/// `InvalidArgument` where the model does not know as many.
pub(crate) fn max_positions(spec: &Spec, options: &LoadOptions) -> Result<usize> {
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

/// What activations are rounded to where nobody says.
pub(crate) fn default_precision(store: &Store, spec: &Spec) -> Precision {
    let embedding = spec.tensors().find(|tensor| tensor.kind == Kind::Embedding);
    let entry = embedding.and_then(|tensor| tensor.names.iter().find_map(|name| store.tensor(name)));
    if entry.is_some_and(|entry| entry.dtype_name == "BF16") { Precision::Bf16 } else { Precision::F32 }
}
