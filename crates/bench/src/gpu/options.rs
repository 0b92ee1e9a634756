//! What to measure of a model on a GPU, and models that need no files. Next in the flow: model.rs.

use std::path::{Path, PathBuf};

use netweight_engine::{DeviceChoice, Layout, LoadOptions};
use netweight_kernels_cuda::{Device, Error as GpuError, Layout as GpuLayout, driver};
use netweight_model::Spec;

use crate::options::Error;

/// Declarations that are known by name.
const DECLARATIONS: [(&str, &str); 2] = [
    (
        "llama-8b",
        r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 128256, "hidden_size": 4096,
        "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": false}"#,
    ),
    (
        "llama-tiny",
        r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 128,
        "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": false}"#,
    ),
];

/// Where a model comes from.
#[derive(Clone, Debug)]
pub enum GpuModel {
    /// A checkpoint or an archive.
    Files(PathBuf),
    /// Random weights, made on the GPU.
    Random {
        /// What it is called.
        name: String,
        /// What it is.
        spec: Box<Spec>,
        /// What its weights are made of.
        seed: u64,
    },
}

impl GpuModel {
    /// A random model: one that is known by name, or that of a `config.json` or the folder that one is in.
    ///
    /// # Errors
    /// `Io` where there is neither; those of the declaration.
    pub fn random(name: &str, seed: u64) -> Result<GpuModel, Error> {
        let known = DECLARATIONS.iter().find(|(known, _)| *known == name);
        let config = match known {
            Some((_, config)) => (*config).to_owned(),
            None => {
                let path = Path::new(name);
                let path = if path.is_dir() { path.join("config.json") } else { path.to_path_buf() };
                std::fs::read_to_string(&path).map_err(|source| Error::Io { path, source })?
            }
        };
        let spec = Spec::from_config(&config).map_err(netweight_engine::Error::from)?;
        Ok(GpuModel::Random { name: name.to_owned(), spec: Box::new(spec), seed })
    }

    /// As tables call it.
    pub fn name(&self) -> String {
        match self {
            GpuModel::Files(path) => path.display().to_string(),
            GpuModel::Random { name, seed, .. } => format!("{name} with random weights, seed {seed}"),
        }
    }
}

/// What to measure of a model on a GPU.
#[derive(Clone, Debug)]
pub struct GpuModelOptions {
    /// The model.
    pub model: GpuModel,
    /// Layouts of bf16 weights; none: all that GPUs have, bf16 first.
    pub layouts: Vec<Layout>,
    /// Tokens of the prompt, at least 1.
    pub prompt: usize,
    /// Tokens that each sequence of a batch goes on by, at least 1.
    pub generate: usize,
    /// Sequences that are decoded together, each at least 1.
    pub batches: Vec<usize>,
    /// How often everything is measured; at least 1.
    pub rounds: usize,
    /// Positions of a sequence; `None`: as many as are needed.
    pub context: Option<usize>,
    /// Bytes of the GPU's memory that weights may take; `None`: all that is free.
    pub gpu_memory: Option<u64>,
    /// Bytes of memory to read and copy; `None`: more than any cache holds.
    pub memory_bytes: Option<usize>,
    /// Whether the engine may measure how many tokens the vendor's library takes to be faster.
    pub measures: bool,
}

/// Tokens that the longest of the sequences begins with that are decoded: few enough that one kernel reads them.
pub(crate) const DECODE_PROMPT: usize = 48;
/// Steps before the timings: a step is captured the second time.
pub(crate) const WARM_STEPS: usize = 3;

impl GpuModelOptions {
    /// The defaults, for a model.
    pub fn new(model: GpuModel) -> GpuModelOptions {
        GpuModelOptions {
            model,
            layouts: Vec::new(),
            prompt: 2048,
            generate: 32,
            batches: vec![1, 8, 32],
            rounds: 5,
            context: None,
            gpu_memory: None,
            memory_bytes: None,
            measures: true,
        }
    }

    /// The layouts, bf16 first.
    pub(crate) fn wanted(&self) -> Vec<Layout> {
        let on_gpus = |layout: &Layout| GpuLayout::ALL.iter().any(|of| of.name() == layout.name());
        let mut wanted: Vec<Layout> = match self.layouts.as_slice() {
            [] => Layout::all().filter(on_gpus).collect(),
            layouts => layouts.to_vec(),
        };
        wanted.sort_by_key(|layout| layout.has_palette());
        wanted.dedup();
        wanted
    }

    pub(crate) fn max_batch(&self) -> usize {
        self.batches.iter().copied().max().unwrap_or(1).max(1)
    }

    /// Positions of a sequence.
    pub(crate) fn positions(&self) -> usize {
        let needed = self.prompt.max(DECODE_PROMPT + WARM_STEPS.max(self.generate) + 1);
        self.context.unwrap_or(needed)
    }

    /// # Errors
    /// Where the context does not hold what is run.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let needed = self.prompt.max(WARM_STEPS.max(self.generate) + 2);
        match self.context {
            Some(context) if context < needed => {
                let what = format!("a context of {context} tokens; prompt and what follows need {needed}");
                Err(netweight_engine::Error::invalid(what).into())
            }
            _ => Ok(()),
        }
    }

    /// Tokens of the prompts that sequences go on from: fewer where the context would not hold what follows.
    pub(crate) fn decode_prompt(&self) -> usize {
        let steps = WARM_STEPS.max(self.generate) + 1;
        DECODE_PROMPT.min(self.positions().saturating_sub(steps)).max(1)
    }

    pub(crate) fn engine(&self, layout: Layout) -> LoadOptions {
        LoadOptions {
            layout: Some(layout),
            max_positions: Some(self.positions()),
            n_slots: self.max_batch(),
            max_batch_tokens: Some(self.prompt.clamp(self.max_batch().max(DECODE_PROMPT), 2048)),
            gpu_memory: self.gpu_memory,
            measures: self.measures,
            ..LoadOptions::default()
        }
    }
}

/// The GPU of a choice; of `Auto` the first that can be used.
///
/// # Errors
/// Where there is none, or it cannot be used.
pub fn open_gpu(choice: DeviceChoice) -> Result<Device, Error> {
    let opened = match choice.resolve() {
        DeviceChoice::Cuda(ordinal) => u32::try_from(ordinal)
            .map_err(|_| GpuError::InvalidArgument(format!("there is no GPU {ordinal}")))
            .and_then(driver::open),
        _ => driver::open(0), // says why there is none
    };
    opened.map_err(|error| Error::Engine(error.into()))
}
