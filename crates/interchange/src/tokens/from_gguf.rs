//! From `tokenizer.ggml.*` to tokenizer.json and tokenizer_config.json.

use std::collections::HashMap;

use netweight_container::{Error, Result};
use serde_json::{Map, Value, json};

use super::scores::merges_of_scores;
use super::{CUTTINGS, Cutting, DEFAULT_CUTTING, SPACE, byte_token, kind, known_cuttings};
use crate::config::SpecialIds;
use crate::gguf::Metadata;

/// Longer ones nobody has; all ways to cut a token in two are looked at.
const MAX_TOKEN_BYTES: usize = 4096;

/// What a checkpoint says about tokens.
#[derive(Debug)]
pub(crate) struct TokenFiles {
    /// tokenizer.json
    pub(crate) tokenizer: Value,
    /// tokenizer_config.json
    pub(crate) config: Value,
    pub(crate) ids: SpecialIds,
    /// What a person may want to know.
    pub(crate) notes: Vec<String>,
}

/// The vocabulary of a file, checked.
struct Vocabulary<'a> {
    metadata: &'a Metadata,
    tokens: Vec<&'a str>,
    kinds: Vec<i32>,
    ids: HashMap<&'a str, u32>,
    is_sentencepiece: bool,
}

/// Tokenizer files of a GGUF file; `None` where it has no vocabulary.
///
/// # Errors
/// `Unsupported` for a vocabulary of another kind; `Corrupt`.
pub(crate) fn from_gguf(metadata: &Metadata) -> Result<Option<TokenFiles>> {
    let is_sentencepiece = match metadata.text("tokenizer.ggml.model")? {
        None | Some("none" | "no_vocab") => return Ok(None),
        Some("gpt2") => false,
        Some("llama") => true,
        Some(other) => {
            return Err(Error::unsupported(format!(
                "a vocabulary of kind {other:?}; known are \"gpt2\" and \"llama\""
            )));
        }
    };
    let vocabulary = Vocabulary::read(metadata, is_sentencepiece)?;
    let mut notes = Vec::new();
    let (model, adds_bos) =
        if is_sentencepiece { (vocabulary.sentencepiece()?, true) } else { vocabulary.byte_level(&mut notes)? };
    let mut tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added_tokens(),
    });
    for (key, value) in model {
        tokenizer[key] = value;
    }
    tokenizer["post_processor"] = vocabulary.post_processor(adds_bos)?;
    let config = vocabulary.config()?;
    Ok(Some(TokenFiles { tokenizer, config, ids: vocabulary.special_ids()?, notes }))
}

impl<'a> Vocabulary<'a> {
    fn read(metadata: &'a Metadata, is_sentencepiece: bool) -> Result<Vocabulary<'a>> {
        let missing = || Error::corrupt("there is no tokenizer.ggml.tokens");
        let mut tokens = metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(missing)?;
        let kinds = metadata.ints("tokenizer.ggml.token_type")?;
        let mut kinds = kinds.unwrap_or_else(|| vec![kind::NORMAL; tokens.len()]);
        if kinds.len() != tokens.len() {
            return Err(Error::corrupt("tokenizer.ggml.token_type is not as long as tokenizer.ggml.tokens"));
        }
        // Names that a converter made up so that there are as many tokens as rows of the embedding.
        let is_padding = |idx: usize| kinds[idx] == kind::UNUSED && tokens[idx] == format!("[PAD{idx}]");
        let n_tokens = (0..tokens.len()).rev().find(|&idx| !is_padding(idx)).map_or(0, |idx| idx + 1);
        tokens.truncate(n_tokens);
        kinds.truncate(n_tokens);
        let mut ids = HashMap::new();
        for (idx, token) in tokens.iter().enumerate() {
            if token.len() > MAX_TOKEN_BYTES {
                return Err(Error::corrupt(format!("the token {idx} has more than {MAX_TOKEN_BYTES} bytes")));
            }
            let id = u32::try_from(idx).map_err(|_| Error::corrupt("more than 2^32 tokens"))?;
            if ids.insert(*token, id).is_some() {
                return Err(Error::corrupt(format!("the token {token:?} stands in the vocabulary twice")));
            }
        }
        Ok(Vocabulary { metadata, tokens, kinds, ids, is_sentencepiece })
    }

    /// A token that the file names by its id.
    fn special(&self, name: &str) -> Result<Option<(&'a str, u32)>> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        let Some(id) = self.metadata.number(&key)? else { return Ok(None) };
        let token = usize::try_from(id).ok().and_then(|idx| self.tokens.get(idx));
        let token = token.ok_or_else(|| Error::corrupt(format!("{key} is {id}, which is no token")))?;
        Ok(Some((token, id as u32))) // Below the number of tokens.
    }

    fn special_ids(&self) -> Result<SpecialIds> {
        let id = |name: &str| self.special(name).map(|found| found.map(|(_, id)| id));
        let mut eos: Vec<u32> = Vec::new();
        for id in [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten() {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        Ok(SpecialIds { bos: id("bos")?, eos, pad: id("padding")? })
    }

    fn vocab(&self) -> Map<String, Value> {
        self.tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect()
    }

    fn added_tokens(&self) -> Vec<Value> {
        let rows = self.tokens.iter().zip(&self.kinds).enumerate();
        let is_added = |kind: i32| matches!(kind, kind::CONTROL | kind::USER_DEFINED | kind::UNKNOWN);
        rows.filter(|(_, (_, kind))| is_added(**kind))
            .map(|(id, (token, kind))| {
                json!({
                    "id": id,
                    "content": token,
                    "single_word": false,
                    "lstrip": false,
                    "rstrip": false,
                    "normalized": false,
                    "special": *kind != kind::USER_DEFINED,
                })
            })
            .collect()
    }

    /// Parts of tokenizer.json for byte-level BPE, and whether texts begin with a token where nothing says so.
    fn byte_level(&self, notes: &mut Vec<String>) -> Result<(Vec<(&'static str, Value)>, bool)> {
        let named = self.metadata.text("tokenizer.ggml.pre")?;
        if named.is_none() {
            notes.push("the file does not say how texts are cut into words: taken as llama.cpp takes it".to_owned());
        }
        let name = named.unwrap_or(DEFAULT_CUTTING);
        let cutting = CUTTINGS.iter().find(|cutting| cutting.names.contains(&name)).ok_or_else(|| {
            Error::unsupported(format!("texts cut into words as {name:?} does; known are {}", known_cuttings()))
        })?;
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": cutting.ignores_merges,
            "vocab": self.vocab(),
            "merges": self.merges()?,
        });
        let parts = vec![
            ("normalizer", if cutting.is_nfc { json!({"type": "NFC"}) } else { Value::Null }),
            ("pre_tokenizer", pre_tokenizer(cutting)),
            ("decoder", byte_level_step(true)),
            ("model", model),
        ];
        Ok((parts, cutting.adds_bos))
    }

    fn merges(&self) -> Result<Vec<Value>> {
        let missing = || Error::corrupt("there is no tokenizer.ggml.merges");
        let merges = self.metadata.texts("tokenizer.ggml.merges")?.ok_or_else(missing)?;
        let parse = |text: &&str| {
            let parts = text.split_once(' ').filter(|(left, right)| {
                let is_token = |token: &str| self.ids.contains_key(token);
                is_token(left) && is_token(right) && is_token(&format!("{left}{right}"))
            });
            let wrong = || Error::corrupt(format!("the merge {text:?} is not of tokens, or gives none"));
            parts.map(|(left, right)| json!([left, right])).ok_or_else(wrong)
        };
        merges.iter().map(parse).collect()
    }

    /// Parts of tokenizer.json for SentencePiece's BPE.
    fn sentencepiece(&self) -> Result<Vec<(&'static str, Value)>> {
        let scores = self.metadata.floats("tokenizer.ggml.scores")?;
        let scores = scores.filter(|scores| scores.len() >= self.tokens.len());
        let scores = scores.ok_or_else(|| Error::corrupt("there are not as many tokenizer.ggml.scores as tokens"))?;
        let all = self.tokens.iter().copied().zip(scores).zip(&self.kinds);
        let normal: Vec<(&str, f32)> = all.filter(|(_, kind)| **kind == kind::NORMAL).map(|(token, _)| token).collect();
        let merges: Vec<Value> =
            merges_of_scores(&normal).into_iter().map(|(left, right)| json!([left, right])).collect();
        let has_bytes = (0..=255).all(|byte| self.ids.contains_key(byte_token(byte).as_str()));
        let unknown = self.unknown()?;
        let model = json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": has_bytes,
            "ignore_merges": false,
            "vocab": self.vocab(),
            "merges": merges,
        });
        let adds_space = self.metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
        let mut decoders = vec![
            json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
            json!({"type": "ByteFallback"}),
            json!({"type": "Fuse"}),
        ];
        if adds_space {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
            decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
        }
        Ok(vec![
            ("normalizer", json!({"type": "Sequence", "normalizers": normalizers})),
            ("pre_tokenizer", Value::Null),
            ("decoder", json!({"type": "Sequence", "decoders": decoders})),
            ("model", model),
        ])
    }

    fn unknown(&self) -> Result<Option<&'a str>> {
        let by_kind = || self.kinds.iter().position(|kind| *kind == kind::UNKNOWN).map(|idx| self.tokens[idx]);
        Ok(self.special("unknown")?.map(|(token, _)| token).or_else(by_kind))
    }

    /// Puts tokens before and after a text, if the file says so.
    fn post_processor(&self, adds_bos: bool) -> Result<Value> {
        let flag = |name: &str| self.metadata.flag(&format!("tokenizer.ggml.add_{name}_token"));
        let wanted = |name: &str, default: bool| -> Result<Option<(&str, u32)>> {
            if flag(name)?.unwrap_or(default) { self.special(name) } else { Ok(None) }
        };
        let (bos, eos) = (wanted("bos", adds_bos)?, wanted("eos", false)?);
        if bos.is_none() && eos.is_none() {
            return Ok(Value::Null);
        }
        let token = |found: Option<(&str, u32)>, type_id: u32| {
            found.map(|(token, _)| json!({"SpecialToken": {"id": token, "type_id": type_id}}))
        };
        let text = |name: &str, type_id: u32| {
            let sequence = json!({"Sequence": {"id": name, "type_id": type_id}});
            [token(bos, type_id), Some(sequence), token(eos, type_id)].into_iter().flatten().collect::<Vec<Value>>()
        };
        let specials: Map<String, Value> = [bos, eos]
            .into_iter()
            .flatten()
            .map(|(token, id)| (token.to_owned(), json!({"id": token, "ids": [id], "tokens": [token]})))
            .collect();
        let both = [text("A", 0), text("B", 1)].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": text("A", 0),
            "pair": both,
            "special_tokens": specials,
        }))
    }

    fn config(&self) -> Result<Value> {
        let mut config = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        let names = [("bos", "bos_token"), ("eos", "eos_token"), ("padding", "pad_token")];
        for (name, field) in names {
            if let Some((token, _)) = self.special(name)? {
                config[field] = json!(token);
            }
        }
        if let Some(token) = self.unknown()?.filter(|_| self.is_sentencepiece) {
            config["unk_token"] = json!(token);
        }
        if let Some(template) = self.metadata.text("tokenizer.chat_template")? {
            config["chat_template"] = json!(template);
        }
        Ok(config)
    }
}

fn byte_level_step(uses_pattern: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": uses_pattern})
}

fn pre_tokenizer(cutting: &Cutting) -> Value {
    if cutting.patterns.is_empty() {
        return byte_level_step(true);
    }
    let cut = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let steps: Vec<Value> = cutting.patterns.iter().map(cut).chain([byte_level_step(false)]).collect();
    json!({"type": "Sequence", "pretokenizers": steps})
}
