//! Small tokenizers and a toy decoder for the tests.
#![allow(dead_code)] // each test file uses some of them

use std::collections::HashMap;
use std::path::PathBuf;

use netweight_engine::Tokenizer;
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
