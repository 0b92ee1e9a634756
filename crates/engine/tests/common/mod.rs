//! What tests share: tiny checkpoints, and ways to run a prompt on the CPU.
#![allow(dead_code)] // each test file uses its part

use std::path::{Path, PathBuf};

use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{CpuDecoder, Decoder, Interrupt, LoadOptions, Store};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

/// Positions of a tiny model's sequences: more than the longest prompt has.
pub const CONTEXT_LEN: usize = 64;

/// Folders of the tiny checkpoints that `netweight-model` is tested with.
pub fn fixtures() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures");
    let entries = std::fs::read_dir(&folder).expect("fixtures").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(folders.len() >= 20, "{folders:?}");
    folders
}

/// The bundled model.
pub fn bookworm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm")
}

pub fn load(path: &Path, options: &LoadOptions) -> CpuDecoder {
    let store = Store::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let decoder = CpuDecoder::load(&store, options, &Interrupt::new(), &|_| ());
    decoder.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Logits after every token of a sequence that runs `step` tokens at a time: (n_tokens, vocab).
pub fn run(model: &mut CpuDecoder, slot: usize, tokens: &[u32], step: usize) -> Vec<f32> {
    let places: Vec<Place> = (0..tokens.len()).map(|position| Place { slot, position }).collect();
    let chunks = tokens.chunks(step).zip(places.chunks(step));
    chunks.flat_map(|(tokens, places)| forward(model, tokens, places)).collect()
}

/// Logits after every token of a batch: (n_tokens, vocab).
pub fn forward(model: &mut CpuDecoder, tokens: &[u32], places: &[Place]) -> Vec<f32> {
    let logits_for: Vec<usize> = (0..tokens.len()).collect();
    let mut logits = vec![f32::NAN; tokens.len() * model.vocab_size()];
    let batch = Batch { tokens, places, logits_for: &logits_for };
    model.forward(&batch, &Interrupt::new(), &mut logits).expect("a batch that fits");
    logits
}

/// Ids and expected logits from a fixture's oracle.
pub fn oracle(folder: &Path, ids: &str, logits: &str) -> (Vec<u32>, Vec<f32>) {
    let bytes = std::fs::read(folder.join("oracle.safetensors")).expect("an oracle");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let words = |name: &str| -> Vec<u32> {
        let data = file.tensor(name).unwrap_or_else(|_| panic!("no {name}")).data().to_vec();
        data.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("4 bytes"))).collect()
    };
    (words(ids), words(logits).into_iter().map(f32::from_bits).collect())
}

/// A copy of a tiny f32 checkpoint with its weights rounded to `dtype`, BF16 or F16.
pub fn rounded(folder: &Path, dtype: Dtype, into: &Path) {
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
    let round = |word: &[u8]| {
        let value = f32::from_le_bytes(word.try_into().expect("4 bytes"));
        match dtype {
            Dtype::BF16 => half::bf16::from_f32(value).to_le_bytes(),
            _ => half::f16::from_f32(value).to_le_bytes(),
        }
    };
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = file
        .iter()
        .map(|(name, view)| {
            let bytes = view.data().chunks_exact(4).flat_map(round).collect();
            (name.to_owned(), view.shape().to_vec(), bytes)
        })
        .collect();
    let views = data
        .iter()
        .map(|(name, shape, bytes)| (name.as_str(), TensorView::new(dtype, shape.clone(), bytes).expect("a tensor")));
    safetensors::serialize_to_file(views, None, &into.join("model.safetensors")).expect("a file");
    std::fs::copy(folder.join("config.json"), into.join("config.json")).expect("a config");
}

/// The largest difference, in standard deviations of the expected logits.
pub fn worst_difference(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|logit| f64::from(*logit)).sum::<f64>() / n;
    let variance = expected.iter().map(|logit| (f64::from(*logit) - mean).powi(2)).sum::<f64>() / n;
    let differences = found.iter().zip(expected).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, |worst: f64, next| if next > worst || next.is_nan() { next } else { worst }) / variance.sqrt()
}

/// Bits, as floats compare zeros of both signs as equal.
pub fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}
