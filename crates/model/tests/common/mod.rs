//! What tests share: fixtures, weights from memory for the reference backend, and ways to run a prompt.
#![allow(dead_code)] // each test file uses its part

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use netweight_model::{
    Batch, Cache, Error, Matrix, Model, Place, Reference, Result, Source, Spec, Tensor, Transform, Workspace,
};
use safetensors::{Dtype, SafeTensors};

/// Tokens of the longest sequence in a fixture, and more.
pub const CONTEXT_LEN: usize = 64;

/// A tensor in memory.
pub struct Stored {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// The tensors of one file.
pub struct Tensors(pub HashMap<String, Stored>);

impl Tensors {
    pub fn open(path: &Path) -> Tensors {
        let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let stored = file.iter().map(|(name, view)| {
            let values = match view.dtype() {
                Dtype::F32 => words(view.data()).map(f32::from_bits).collect(),
                Dtype::I32 => words(view.data()).map(|word| word as f32).collect(),
                Dtype::BF16 => halves(view.data()).map(|half| f32::from_bits(u32::from(half) << 16)).collect(),
                other => panic!("{name}: {other:?}"),
            };
            (name.to_owned(), Stored { shape: view.shape().to_vec(), values })
        });
        Tensors(stored.collect())
    }

    pub fn values(&self, name: &str) -> &[f32] {
        &self.0.get(name).unwrap_or_else(|| panic!("no {name}")).values
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.values(name).iter().map(|id| *id as u32).collect()
    }

    fn find(&self, tensor: &Tensor) -> Result<&Stored> {
        let found = tensor.names.iter().find_map(|name| self.0.get(name));
        let found = found.ok_or_else(|| Error::InvalidArgument(format!("no tensor {:?}", tensor.names)))?;
        let fits = found.shape == tensor.shape();
        let what = || Error::InvalidArgument(format!("{}: {:?}, not {:?}", tensor.name(), found.shape, tensor.shape()));
        fits.then_some(found).ok_or_else(what)
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes")))
}

fn halves(bytes: &[u8]) -> impl Iterator<Item = u16> {
    bytes.chunks_exact(2).map(|half| u16::from_le_bytes(half.try_into().expect("2 bytes")))
}

impl Source for &Tensors {
    type Linear = Matrix;
    type Vector = Vec<f32>;
    type Error = Error;

    fn linear(&mut self, tensor: &Tensor) -> Result<Matrix> {
        let bias = tensor.bias.as_ref().map(|bias| self.vector(bias)).transpose()?;
        Matrix::new(self.find(tensor)?.values.clone(), tensor.rows, tensor.cols, bias)
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<Vec<f32>> {
        let values = &self.find(tensor)?.values;
        Ok(match tensor.transform {
            Transform::None => values.clone(),
            Transform::AddOne => values.iter().map(|w| 1.0 + w).collect(),
        })
    }
}

/// A tiny checkpoint and what transformers computes from it.
pub struct Fixture {
    pub name: String,
    pub config: String,
    pub older_config: String,
    pub weights: Tensors,
    pub oracle: Tensors,
}

pub fn fixtures_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

impl Fixture {
    pub fn open(name: &str) -> Fixture {
        let folder = fixtures_folder().join(name);
        let text = |file: &str| std::fs::read_to_string(folder.join(file)).expect("a configuration");
        Fixture {
            name: name.to_owned(),
            config: text("config.json"),
            older_config: text("config_old.json"),
            weights: Tensors::open(&folder.join("model.safetensors")),
            oracle: Tensors::open(&folder.join("oracle.safetensors")),
        }
    }

    /// All of them, by name.
    pub fn all() -> Vec<Fixture> {
        let entries = std::fs::read_dir(fixtures_folder()).expect("fixtures").map(|entry| entry.expect("an entry"));
        let folders = entries.filter(|entry| entry.path().is_dir());
        let mut names: Vec<String> = folders.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert!(names.len() >= 20, "{names:?}");
        names.iter().map(|name| Fixture::open(name)).collect()
    }

    pub fn spec(&self) -> Spec {
        Spec::from_config(&self.config).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// The prompt's logits after each token, and the ids.
    pub fn prompt(&self) -> (Vec<u32>, &[f32] /* (n_tokens, vocab) */) {
        (self.oracle.ids("prompt"), self.oracle.values("prompt_logits"))
    }
}

/// A model with a cache for a few sequences.
pub struct Session {
    pub model: Model<Reference>,
    workspace: Workspace<Reference>,
    pub cache: Cache,
}

impl Session {
    pub fn new(spec: Spec, weights: &Tensors) -> Session {
        Session::with_context(spec, weights, CONTEXT_LEN)
    }

    pub fn with_context(spec: Spec, weights: &Tensors, context_len: usize) -> Session {
        let model = Model::load(spec, context_len, &Reference, &mut &*weights).expect("weights that fit");
        // Fewer rows of logits than tokens, so that prompts take more than one pass over the head.
        let workspace = Workspace::new(&model, &Reference, context_len, 9).expect("a workspace");
        let cache = Cache::new(model.spec(), 3, context_len);
        Session { model, workspace, cache }
    }

    pub fn try_run(&mut self, batch: &Batch) -> Result<Vec<f32>> {
        let mut logits = vec![f32::NAN; batch.logits_for.len() * self.model.spec().vocab];
        self.model.forward(&mut Reference, batch, &mut self.workspace, &mut self.cache, &mut logits)?;
        Ok(logits)
    }

    /// Logits after every token.
    pub fn run(&mut self, tokens: &[u32], places: &[Place]) -> Vec<f32> {
        let logits_for: Vec<usize> = (0..tokens.len()).collect();
        self.try_run(&Batch { tokens, places, logits_for: &logits_for }).expect("a batch that fits")
    }

    /// A sequence in chunks of so many tokens.
    pub fn run_in_chunks(&mut self, slot: usize, tokens: &[u32], chunk_len: usize) -> Vec<f32> {
        let places = places(slot, tokens.len());
        let chunks = tokens.chunks(chunk_len).zip(places.chunks(chunk_len));
        chunks.flat_map(|(tokens, places)| self.run(tokens, places)).collect()
    }
}

/// Places of a whole sequence.
pub fn places(slot: usize, sequence_len: usize) -> Vec<Place> {
    (0..sequence_len).map(|position| Place { slot, position, sequence_len }).collect()
}

/// The largest difference, in standard deviations of the expected logits.
pub fn worst_difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|logit| f64::from(*logit)).sum::<f64>() / n;
    let variance = expected.iter().map(|logit| (f64::from(*logit) - mean).powi(2)).sum::<f64>() / n;
    let differences = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
    // `max` would pass over a NaN.
    differences.fold(0.0, |worst: f64, next| if next > worst || next.is_nan() { next } else { worst }) / variance.sqrt()
}
