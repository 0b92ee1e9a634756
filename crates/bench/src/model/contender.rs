//! A model loaded in one layout, ready for rounds: prompts and steps of batches go in, times and tokens come out.
//! Next in the flow: run.rs.

use std::time::Instant;

use cpu_time::ProcessTime;
use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{AnyDecoder, Decoder, Interrupt, Layout, Precision, Store};
use netweight_model::{Gated, Mlp, MlpWeights, Part, Spec, Tensor};

use crate::model::options::{ModelOptions, Wanted};
use crate::options::Error;
use crate::stats::Timing;

/// A model in one layout.
pub(crate) struct Contender {
    /// The layout that most weights have, which is the one asked for where the checkpoint is bf16.
    pub(crate) layout: Layout,
    pub(crate) decoder: AnyDecoder,
    interrupt: Interrupt,
    logits: Vec<f32>,         // (n_slots, vocab)
    sequences: Vec<Sequence>, // (n_slots)
}

/// Contenders that must give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    has_indices: bool,
    precision: Precision,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = if self.has_indices { "indices" } else { "weights" };
        write!(f, "{what} with {} activations", self.precision.name())
    }
}

/// What a slot holds after its prompt.
#[derive(Clone, Copy, Default)]
struct Sequence {
    len: usize,
    next: u32,
}

impl Contender {
    /// Loads the model.
    ///
    /// # Errors
    /// Those of the engine.
    pub(crate) fn load(store: &Store, options: &ModelOptions, wanted: Wanted) -> Result<Contender, Error> {
        let interrupt = Interrupt::new();
        let decoder = AnyDecoder::load(store, &options.engine(wanted), &interrupt, &|_| ())?;
        Ok(Contender::of(decoder, wanted.layout, options.max_batch()))
    }

    /// A model that is loaded already, with `n_slots` slots.
    pub(crate) fn of(decoder: AnyDecoder, layout: Option<Layout>, n_slots: usize) -> Contender {
        let interrupt = Interrupt::new();
        let most = decoder.report().layouts.iter().max_by_key(|row| row.1);
        let layout = most.map(|row| row.0).or(layout).unwrap_or(Layout::Bf16);
        let logits = vec![0.0; n_slots * decoder.vocab_size()];
        Contender { layout, decoder, interrupt, logits, sequences: vec![Sequence::default(); n_slots] }
    }

    /// Name in tables.
    pub(crate) fn name(&self) -> String {
        let integers = if self.precision() == Precision::Int8 { " int8" } else { "" };
        format!("netweight {}{integers}", self.layout.name())
    }

    pub(crate) fn precision(&self) -> Precision {
        self.decoder.report().precision
    }

    /// What decides the bits of its logits: values of weights or grids that they are rounded from, and activations.
    pub(crate) fn family(&self) -> Family {
        let has_indices = self.decoder.report().layouts.iter().any(|(layout, _)| layout.is_index());
        Family { has_indices, precision: self.precision() }
    }

    /// Reads the first prompt into the first slot; its last token's logits.
    pub(crate) fn prefill(&mut self, prompt: &[u32]) -> Result<&[f32], Error> {
        self.read(0, prompt)?;
        Ok(&self.logits[..self.decoder.vocab_size()])
    }

    /// The same, timed.
    pub(crate) fn timed_prefill(&mut self, prompt: &[u32]) -> Result<Timing, Error> {
        timed(|| self.read(0, prompt)).map(|(timing, ())| timing)
    }

    /// Gives every slot its prompt.
    pub(crate) fn fill(&mut self, n_prompt: usize) -> Result<(), Error> {
        for slot in 0..self.sequences.len() {
            let prompt = prompt(n_prompt, slot, self.decoder.vocab_size());
            self.read(slot, &prompt)?;
            let next = likeliest(&self.logits[..self.decoder.vocab_size()]);
            self.sequences[slot] = Sequence { len: prompt.len(), next };
        }
        Ok(())
    }

    /// One step of all slots; their logits.
    pub(crate) fn step(&mut self) -> Result<&[f32], Error> {
        self.decode(self.sequences.len(), 1)?;
        Ok(&self.logits)
    }

    /// `n_steps` steps of the first `n_slots` slots from the end of their prompts on, timed; the likeliest tokens.
    pub(crate) fn timed_decode(&mut self, n_slots: usize, n_steps: usize) -> Result<(Timing, Vec<u32>), Error> {
        timed(|| self.decode(n_slots, n_steps))
    }

    /// Tokens of all steps: (n_steps, n_slots).
    fn decode(&mut self, n_slots: usize, n_steps: usize) -> Result<Vec<u32>, Error> {
        let vocab = self.decoder.vocab_size();
        let sequences = &self.sequences[..n_slots];
        let mut tokens: Vec<u32> = sequences.iter().map(|sequence| sequence.next).collect();
        let at = |(slot, sequence): (usize, &Sequence)| Place { slot, position: sequence.len };
        let mut places: Vec<Place> = sequences.iter().enumerate().map(at).collect();
        let logits_for: Vec<usize> = (0..n_slots).collect();
        let mut said = Vec::with_capacity(n_slots * n_steps);
        for _ in 0..n_steps {
            let batch = Batch { tokens: &tokens, places: &places, logits_for: &logits_for };
            let logits = &mut self.logits[..n_slots * vocab];
            self.decoder.forward(&batch, &self.interrupt, logits)?;
            for (token, row) in tokens.iter_mut().zip(logits.chunks_exact(vocab)) {
                *token = likeliest(row);
            }
            places.iter_mut().for_each(|place| place.position += 1);
            said.extend_from_slice(&tokens);
        }
        Ok(said)
    }

    /// Reads a prompt from position 0 on; the last token's logits come first in `self.logits`.
    fn read(&mut self, slot: usize, prompt: &[u32]) -> Result<(), Error> {
        let (vocab, most) = (self.decoder.vocab_size(), self.decoder.max_batch_tokens());
        for (idx, piece) in prompt.chunks(most).enumerate() {
            let start = idx * most;
            let places: Vec<Place> = (start..start + piece.len()).map(|position| Place { slot, position }).collect();
            let last = [piece.len() - 1];
            let logits_for: &[usize] = if start + piece.len() == prompt.len() { &last } else { &[] };
            let batch = Batch { tokens: piece, places: &places, logits_for };
            self.decoder.forward(&batch, &self.interrupt, &mut self.logits[..logits_for.len() * vocab])?;
        }
        Ok(())
    }
}

/// Prompt of a slot: that of slot 0 is the one that peers read; the others differ in tokens and length.
pub(crate) fn prompt(n_prompt: usize, slot: usize, vocab: usize) -> Vec<u32> {
    let len = n_prompt.saturating_sub(slot).max(1);
    (0..len).map(|idx| (((idx + slot) * 7919 + 13) % vocab.clamp(1, 4096)) as u32).collect()
}

/// FNV-1a over the bits of logits.
pub(crate) fn hash(logits: &[f32]) -> u64 {
    let bytes = logits.iter().flat_map(|logit| logit.to_bits().to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Weights that one token reads: every matrix but the table that embeddings are looked up in, and of a layer with
/// experts as many as a token is sent to.
pub(crate) fn weights_per_token(spec: &Spec) -> u64 {
    let size = |part: &Part<Tensor>| (part.linear.rows * part.linear.cols) as u64;
    let sizes = |parts: &[Part<Tensor>]| parts.iter().map(size).sum::<u64>();
    let gated = |gated: &Gated<Tensor>| sizes(&gated.gate_up) + size(&gated.down);
    let weights = spec.weights();
    let layers = weights.layers.iter().zip(&spec.layers).map(|(layer, declared)| {
        let mlp = match (&layer.mlp, &declared.mlp) {
            (MlpWeights::Dense(mlp), _) => gated(mlp),
            (MlpWeights::Experts { router, experts }, Mlp::Experts(routed)) => {
                size(router) + experts.iter().take(routed.top_k).map(gated).sum::<u64>()
            }
            (MlpWeights::Experts { router, experts }, _) => size(router) + experts.iter().map(gated).sum::<u64>(),
        };
        sizes(&layer.qkv) + size(&layer.o) + mlp
    });
    layers.sum::<u64>() + size(weights.head.as_ref().unwrap_or(&weights.embed))
}

fn likeliest(logits: &[f32]) -> u32 {
    let mut best = (0, f32::NEG_INFINITY);
    for (idx, &logit) in logits.iter().enumerate() {
        if logit > best.1 {
            best = (idx, logit);
        }
    }
    best.0 as u32
}

/// Time that passed and CPU time of the whole process, whose other threads all wait.
fn timed<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<(Timing, T), Error> {
    let (wall, cpu) = (Instant::now(), ProcessTime::now());
    let done = work()?;
    Ok((Timing { cpu_s: cpu.elapsed().as_secs_f64(), wall_s: wall.elapsed().as_secs_f64() }, done))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_in_tokens_and_length() {
        assert_eq!(prompt(3, 0, 32000), [13, 3836, 3563]);
        assert_eq!(prompt(3, 1, 32000), [3836, 3563]);
        assert_eq!(prompt(3, 9, 5).len(), 1);
        assert!(prompt(100, 0, 5).iter().all(|&token| token < 5));
    }

    #[test]
    fn likeliest_is_the_first_of_equals() {
        let check = |logits: &[f32], expected: u32| assert_eq!(likeliest(logits), expected);
        check(&[1.0, 3.0, 3.0], 1);
        check(&[f32::NEG_INFINITY, -1.0], 1);
        check(&[f32::NAN, -1.0], 1);
    }

    /// Weights that a token reads of a tiny model: 2 layers, hidden 8, 2 heads of 4, 1 key head, vocabulary 10.
    #[test]
    fn weights_of_a_token() {
        let check = |more: &str, expected: u64| {
            let config = format!(
                r#"{{"vocab_size": 10, "hidden_size": 8, "intermediate_size": 6, "num_hidden_layers": 2,
                "num_attention_heads": 2, "num_key_value_heads": 1, "rope_theta": 10000.0, {more}}}"#
            );
            assert_eq!(weights_per_token(&Spec::from_config(&config).unwrap()), expected, "{more}");
        };
        let attention = 8 * 16 + 8 * 8;
        let dense = 2 * (attention + 3 * 6 * 8) + 10 * 8;
        check(r#""architectures": ["LlamaForCausalLM"]"#, dense);
        check(r#""architectures": ["LlamaForCausalLM"], "tie_word_embeddings": true"#, dense);
        let routed = 2 * (attention + 8 * 4 + 2 * 3 * 6 * 8) + 10 * 8;
        check(r#""architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2"#, routed);
    }
}
