//! Measures a model beside its original. Goes in: both, and a text. Comes out: [`Evidence`]. Next in the flow: file.rs.

use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{Decoder, Interrupt};
use netweight_eval::{Windows, argmax, compare};
use sha2::{Digest, Sha256};

use crate::Result;
use crate::card::TextRecord;
use crate::evidence::{Evidence, FreeRun, Role, Scores};
use crate::sign::hex;

/// A text as a model reads it.
#[derive(Clone, Debug)]
pub struct Text {
    /// What it is to the model.
    pub role: Role,
    /// Which text.
    pub record: TextRecord,
    /// Its tokens, or the first of them.
    pub tokens: Vec<u32>,
}

impl TextRecord {
    /// Of texts that are read one after the other.
    pub fn of<'a>(name: String, texts: impl IntoIterator<Item = &'a str>) -> TextRecord {
        let (mut hasher, mut bytes) = (Sha256::new(), 0);
        for text in texts {
            hasher.update(text.as_bytes());
            bytes += text.len() as u64;
        }
        TextRecord { name, bytes, sha256: hex(&hasher.finalize()) }
    }
}

/// Runs the original, the same with bf16 activations, and the model over a text. `progress` hears of tokens done, of how
/// many, counting both comparisons.
///
/// # Errors
/// The models'; `Interrupted`.
pub fn measure(
    original: &mut dyn Decoder,
    rounded: &mut dyn Decoder,
    model: &mut dyn Decoder,
    text: &Text,
    windows: Windows,
    interrupt: &Interrupt,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Evidence> {
    let n = text.tokens.len().saturating_sub(1);
    let (mut base, mut other) = (Hashed::new(original), Hashed::new(model));
    let found = compare(&mut base, &mut other, &text.tokens, windows, interrupt, &mut |done, _| progress(done, 2 * n))?;
    let (original_logits, model_logits) = (base.finish(), other.finish());
    let (mut base, mut other) = (Hashed::new(original), Hashed::new(rounded));
    let floor =
        compare(&mut base, &mut other, &text.tokens, windows, interrupt, &mut |done, _| progress(n + done, 2 * n))?;
    Ok(Evidence {
        role: text.role,
        text: text.record.clone(),
        window: windows.n_inputs as u64,
        n_predicted: found.divergence.n as u64,
        model: Scores::of(&found),
        noise_floor: Scores::of(&floor),
        original_logits,
        model_logits,
    })
}

/// Lets both models go on from prompts that are cut out of `tokens` at equal distances.
///
/// # Errors
/// The models'; `Interrupted`.
pub fn free_run(
    original: &mut dyn Decoder,
    model: &mut dyn Decoder,
    tokens: &[u32],
    [n_prompts, prompt_tokens, n_tokens]: [usize; 3],
    interrupt: &Interrupt,
) -> Result<Option<FreeRun>> {
    let most = original.max_positions().min(model.max_positions());
    let prompt_tokens = prompt_tokens.min(most.saturating_sub(n_tokens));
    let n_prompts = n_prompts.min(tokens.len() / prompt_tokens.max(1));
    if n_prompts == 0 || prompt_tokens == 0 {
        return Ok(None);
    }
    let mut same = Vec::with_capacity(n_prompts);
    for idx in 0..n_prompts {
        let begin = idx * (tokens.len() - prompt_tokens) / n_prompts;
        let prompt = &tokens[begin..begin + prompt_tokens];
        let [said, other] = [said(original, prompt, n_tokens, interrupt)?, said(model, prompt, n_tokens, interrupt)?];
        same.push(said.iter().zip(&other).take_while(|(a, b)| a == b).count());
    }
    let n = n_prompts as f64;
    Ok(Some(FreeRun {
        n_prompts: n_prompts as u64,
        prompt_tokens: prompt_tokens as u64,
        n_tokens: n_tokens as u64,
        same_to_the_end: same.iter().filter(|&&same| same == n_tokens).count() as f64 / n,
        mean_same: same.iter().sum::<usize>() as f64 / n,
    }))
}

/// The likeliest tokens after a prompt.
fn said(model: &mut dyn Decoder, prompt: &[u32], n_tokens: usize, interrupt: &Interrupt) -> Result<Vec<u32>> {
    let mut logits = vec![0.0; model.vocab_size()];
    let (mut said, mut position) = (Vec::with_capacity(n_tokens), 0);
    let mut inputs = prompt.to_vec();
    while said.len() < n_tokens {
        for chunk in inputs.chunks(model.max_batch_tokens()) {
            let places: Vec<Place> = (0..chunk.len()).map(|idx| Place { slot: 0, position: position + idx }).collect();
            let batch = Batch { tokens: chunk, places: &places, logits_for: &[chunk.len() - 1] };
            model.forward(&batch, interrupt, &mut logits).map_err(netweight_eval::Error::from)?;
            position += chunk.len();
        }
        let token = argmax(&logits) as u32;
        said.push(token);
        inputs = vec![token];
    }
    Ok(said)
}

/// A decoder whose logits are hashed as they come.
struct Hashed<'a> {
    model: &'a mut dyn Decoder,
    hasher: Sha256,
}

impl<'a> Hashed<'a> {
    fn new(model: &'a mut dyn Decoder) -> Hashed<'a> {
        Hashed { model, hasher: Sha256::new() }
    }

    fn finish(self) -> String {
        hex(&self.hasher.finalize())
    }
}

impl Decoder for Hashed<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.model.max_positions()
    }

    fn max_batch_tokens(&self) -> usize {
        self.model.max_batch_tokens()
    }

    fn forward(
        &mut self,
        batch: &Batch<'_>,
        interrupt: &Interrupt,
        logits: &mut [f32],
    ) -> netweight_engine::Result<()> {
        self.model.forward(batch, interrupt, logits)?;
        logits.iter().for_each(|logit| self.hasher.update(logit.to_le_bytes()));
        Ok(())
    }
}
