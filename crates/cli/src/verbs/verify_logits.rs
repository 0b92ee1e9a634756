//! `netweight verify --logits PROMPT`: does the model compute the same bits compressed as it does from raw weights?

use std::path::Path;

use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{AnyDecoder, Decoder, Interrupt, LoadOptions};
use netweight_layout::Layout;
use netweight_pack::Digest;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Kind};
use crate::models::{self, Loaded};
use crate::ui::Ui;
use crate::units::counted;
use crate::verbs::Outcome;

/// Tokens of a prompt that are run; their logits are hashed.
const MAX_TOKENS: usize = 512;

/// Tokens up to which one kernel of a GPU computes all products; beyond, the vendor's library has its own order of sums.
const SMALL_BATCH: usize = 64;

/// One way of computing the logits.
struct Way {
    name: String,
    /// Ways of the same group give the same bits.
    group: usize,
    sha256: Digest,
}

/// Computes the logits of every token of `prompt` from raw weights, from compressed ones, all at once and in single
/// steps, and compares their hashes. On a GPU, all at once is compared with all at once.
///
/// # Errors
/// What keeps the model from running. Different hashes are no error, but the exit code is 1.
pub fn run(archive: &Path, original: Option<&Path>, prompt: &str, options: &LoadOptions, ui: &Ui) -> Outcome {
    let raw = ways(original.unwrap_or(archive), prompt, Some(Layout::Bf16), options, ui)?;
    let compressed = ways(archive, prompt, None, options, ui)?;
    let n_tokens = raw.1;
    let all: Vec<Way> = raw.0.into_iter().chain(compressed.0).collect();
    let is_alike = |a: &Way, b: &Way| a.group != b.group || a.sha256 == b.sha256;
    let is_same = all.iter().all(|a| all.iter().all(|b| is_alike(a, b)));
    let report = json!({
        "archive": archive.display().to_string(),
        "n_tokens": n_tokens,
        "logits": all.iter().map(|way| json!({ "way": way.name, "sha256": way.sha256.to_string() })).collect::<Vec<_>>(),
        "is_identical": is_same,
    });
    ui.answer("verify", &report, || {
        let lines: Vec<String> = all.iter().map(|way| format!("{}  {}", way.sha256, way.name)).collect();
        let verdict = if is_same { "the same bits" } else { "DIFFERENT" };
        format!("{}\nlogits of {}: {verdict}", lines.join("\n"), counted(n_tokens as u64, "token"))
    })?;
    Ok(if is_same { 0 } else { Kind::Damaged.exit_code() })
}

/// All at once, and step by step; and how many tokens there were.
fn ways(
    path: &Path,
    prompt: &str,
    layout: Option<Layout>,
    options: &LoadOptions,
    ui: &Ui,
) -> Result<(Vec<Way>, usize), Failure> {
    let store = models::open(path)?;
    let spec = netweight_engine::read_spec(&store).map_err(|error| Failure::running(error).at(path))?;
    let mut tokens = models::tokenizer(&store, spec.vocab)?.encode(prompt).map_err(Failure::running)?;
    if tokens.is_empty() {
        return Err(Failure::new(Kind::Usage, "the prompt has no tokens", "pass some text to --logits"));
    }
    tokens.truncate(MAX_TOKENS.min(spec.max_positions));
    let options = LoadOptions { layout, max_positions: Some(tokens.len()), ..*options };
    let mut model = models::load_from(store, &options, &Interrupt::new(), ui)?;
    let layouts: Vec<&str> = model.decoder.report().layouts.iter().map(|(layout, _)| layout.name()).collect();
    let layouts = layouts.join(" and ");
    let mut found = Vec::new();
    let is_gpu = matches!(model.decoder, AnyDecoder::Cuda(_));
    let most = model.decoder.max_batch_tokens();
    for (slot, how, step) in
        [(0, "all at once", most), (1, "64 at a time", SMALL_BATCH.min(most)), (2, "token by token", 1)]
    {
        let sha256 = hash(&mut model, &tokens, slot, step)?;
        let group = usize::from(is_gpu && step.min(tokens.len()) > SMALL_BATCH);
        found.push(Way { name: format!("{layouts}, {how}"), group, sha256 });
    }
    Ok((found, tokens.len()))
}

/// SHA-256 of the logits of all tokens, little-endian f32, run `step` tokens at a time.
fn hash(model: &mut Loaded, tokens: &[u32], slot: usize, step: usize) -> Result<Digest, Failure> {
    let vocab_size = model.decoder.vocab_size();
    let mut logits = vec![0.0; step.min(tokens.len()) * vocab_size];
    let mut hasher = Sha256::new();
    for (chunk_idx, tokens) in tokens.chunks(step).enumerate() {
        let place = |idx: usize| Place { slot, position: chunk_idx * step + idx };
        let places: Vec<Place> = (0..tokens.len()).map(place).collect();
        let wanted: Vec<usize> = (0..tokens.len()).collect();
        let batch = Batch { tokens, places: &places, logits_for: &wanted };
        let logits = &mut logits[..tokens.len() * vocab_size];
        model.decoder.forward(&batch, &Interrupt::new(), logits).map_err(Failure::running)?;
        logits.iter().for_each(|logit| hasher.update(logit.to_le_bytes()));
    }
    Ok(Digest(hasher.finalize().into()))
}
