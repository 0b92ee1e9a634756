//! Small tokenizers and a toy decoder for the tests.
#![allow(dead_code)] // each test file uses some of them

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;

use netweight_engine::decoder::Batch;
use netweight_engine::{Decoder, Error, Interrupt, Tokenizer};
use serde_json::{Value, json};

pub type Files = HashMap<String, Vec<u8>>;

/// The folder of the model that is in the repository.
pub fn bookworm() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm")
}

pub fn bookworm_tokenizer() -> Tokenizer {
    Tokenizer::read(bookworm().as_path()).expect("bookworm's tokenizer")
}

/// Names and JSON values as files.
pub fn files(entries: &[(&str, Value)]) -> Files {
    entries.iter().map(|(name, value)| ((*name).to_owned(), value.to_string().into_bytes())).collect()
}

/// A tokenizer as those that come from sentencepiece: `<unk>`, `<s>`, `</s>`, 256 byte tokens, then these pieces with
/// `▁` for a space. The decoder turns `▁` into a space, joins bytes, and drops the first space.
pub fn sentencepiece(pieces: &[&str]) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(pieces.iter().map(|piece| (*piece).to_owned()));
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let added = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
            "vocab": vocab, "merges": []}
    })
}

/// Id of a sentencepiece tokenizer's token for a byte.
pub fn byte_id(byte: u8) -> u32 {
    3 + u32::from(byte)
}

/// What a toy decoder was asked to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Pass {
    pub first_position: usize,
    pub tokens: Vec<u32>,
    pub n_logits: usize,
}

/// A decoder whose logits are a function of all tokens of the sequence so far, so that wrong positions, a stale cache
/// or a lost chunk show in the answer. It predicts `script` from the prompt's end on where there is one.
pub struct Toy {
    pub vocab_size: usize,
    pub max_positions: usize,
    pub max_batch_tokens: usize,
    pub script: Vec<u32>,
    pub prompt_len: usize,
    pub passes: Rc<RefCell<Vec<Pass>>>,
    pub on_pass: Box<dyn FnMut(usize)>,
    cache: Vec<u32>,
}

impl Toy {
    pub fn new(vocab_size: usize, max_positions: usize, max_batch_tokens: usize) -> Toy {
        Toy {
            vocab_size,
            max_positions,
            max_batch_tokens,
            script: Vec::new(),
            prompt_len: 0,
            passes: Rc::default(),
            on_pass: Box::new(|_| ()),
            cache: vec![u32::MAX; max_positions],
        }
    }

    /// A toy that says these tokens after a prompt of that length.
    pub fn scripted(vocab_size: usize, max_positions: usize, prompt_len: usize, script: &[u32]) -> Toy {
        Toy { script: script.to_vec(), prompt_len, ..Toy::new(vocab_size, max_positions, 4) }
    }

    fn logit(&self, position: usize, id: usize) -> f32 {
        if !self.script.is_empty() {
            let said = (position + 1).checked_sub(self.prompt_len).and_then(|idx| self.script.get(idx));
            return if said == Some(&(id as u32)) { 9.0 } else { 0.0 };
        }
        let seen = self.cache[..=position].iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, token| {
            assert_ne!(*token, u32::MAX, "a position was never written");
            (hash ^ u64::from(*token)).wrapping_mul(0x0100_0000_01b3)
        });
        let mixed = (seen ^ (id as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        (mixed >> 40) as f32 / (1 << 22) as f32
    }
}

impl Decoder for Toy {
    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.max_positions
    }

    fn max_batch_tokens(&self) -> usize {
        self.max_batch_tokens
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<(), Error> {
        assert!(!batch.tokens.is_empty() && batch.tokens.len() <= self.max_batch_tokens);
        assert_eq!(batch.tokens.len(), batch.places.len());
        assert_eq!(logits.len(), batch.logits_for.len() * self.vocab_size);
        (self.on_pass)(self.passes.borrow().len());
        self.passes.borrow_mut().push(Pass {
            first_position: batch.places[0].position,
            tokens: batch.tokens.to_vec(),
            n_logits: batch.logits_for.len(),
        });
        interrupt.check()?;
        for (place, token) in batch.places.iter().zip(batch.tokens) {
            assert_eq!(place.slot, 0);
            self.cache[place.position] = *token;
        }
        for (row, &idx) in logits.chunks_mut(self.vocab_size).zip(batch.logits_for) {
            for (id, logit) in row.iter_mut().enumerate() {
                *logit = self.logit(batch.places[idx].position, id);
            }
        }
        Ok(())
    }
}
