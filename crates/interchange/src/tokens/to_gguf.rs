//! From tokenizer.json and tokenizer_config.json to `tokenizer.ggml.*`. Next in the flow: ../export.rs.

use netweight_container::{Error, Result};
use serde_json::{Map, Value};

use super::scores::scores_of_merges;
use super::{CUTTINGS, Cutting, SPACE, is_byte_token, kind, known_cuttings};
use crate::config::SpecialIds;
use crate::gguf::MetaValue;

/// A vocabulary in the words of GGUF.
#[derive(Debug)]
pub(crate) struct Words {
    pub(crate) metadata: Vec<(String, MetaValue)>,
    /// What a person may want to know.
    pub(crate) notes: Vec<String>,
}

/// A vocabulary with an entry for each row of the embedding.
struct Vocabulary {
    tokens: Vec<String>,
    kinds: Vec<i32>,
}

/// How a text becomes words, by tokenizer.json.
enum Manner {
    ByteLevel(&'static Cutting),
    Sentencepiece { adds_space: bool, only_at_start: bool },
}

/// Metadata of a vocabulary; `n_rows`: rows of the embedding; `config`: tokenizer_config.json.
///
/// # Errors
/// `Unsupported` for a tokenizer that no name of GGUF's stands for; `Corrupt`.
pub(crate) fn to_gguf(tokenizer: &Value, config: &Map<String, Value>, ids: &SpecialIds, n_rows: u64) -> Result<Words> {
    let model = &tokenizer["model"];
    if model["type"].as_str().is_some_and(|kind| kind != "BPE") || !model["merges"].is_array() {
        return Err(Error::unsupported("a tokenizer other than BPE"));
    }
    for field in ["dropout", "continuing_subword_prefix", "end_of_word_suffix"] {
        if !matches!(&model[field], Value::Null) && model[field] != "" && model[field] != 0.0 {
            return Err(Error::unsupported(format!("a tokenizer with {field}")));
        }
    }
    let manner = manner(tokenizer)?;
    let vocabulary = Vocabulary::read(tokenizer, n_rows, &manner)?;
    let merges = merges(model)?;
    let mut words = Words { metadata: Vec::new(), notes: Vec::new() };
    let mut put = |key: &str, value: MetaValue| words.metadata.push((format!("tokenizer.ggml.{key}"), value));
    match manner {
        Manner::ByteLevel(cutting) => {
            put("model", MetaValue::Text("gpt2".to_owned()));
            put("pre", MetaValue::Text(cutting.names[0].to_owned()));
            put("merges", MetaValue::Texts(merges.iter().map(|(left, right)| format!("{left} {right}")).collect()));
        }
        Manner::Sentencepiece { adds_space, only_at_start } => {
            put("model", MetaValue::Text("llama".to_owned()));
            put("pre", MetaValue::Text("default".to_owned()));
            put("scores", MetaValue::F32s(vocabulary.scores(&merges)?));
            put("add_space_prefix", MetaValue::Bool(adds_space));
            if only_at_start {
                words.notes.push(
                    "readers of GGUF put a space after special tokens too, tokenizer.json only at the start of a text"
                        .to_owned(),
                );
            }
        }
    }
    words.metadata.extend(vocabulary.special(tokenizer, config, ids)?);
    let mut put = |key: &str, value: MetaValue| words.metadata.push((format!("tokenizer.ggml.{key}"), value));
    put("tokens", MetaValue::Texts(vocabulary.tokens));
    put("token_type", MetaValue::I32s(vocabulary.kinds));
    if let Some(template) = chat_template(config) {
        words.metadata.push(("tokenizer.chat_template".to_owned(), MetaValue::Text(template.to_owned())));
    }
    Ok(words)
}

impl Vocabulary {
    fn read(tokenizer: &Value, n_rows: u64, manner: &Manner) -> Result<Vocabulary> {
        let n_rows = usize::try_from(n_rows).map_err(|_| Error::corrupt("the vocabulary is too large"))?;
        let (mut tokens, mut kinds) = (vec![None; n_rows], vec![kind::UNUSED; n_rows]);
        let mut put = |id: Option<u64>, token: &str, kind: i32| {
            let idx = id.and_then(|id| usize::try_from(id).ok()).filter(|&idx| idx < n_rows);
            let idx = idx.ok_or_else(|| Error::corrupt(format!("the token {token:?} has no row in the embedding")))?;
            (tokens[idx], kinds[idx]) = (Some(token.to_owned()), kind);
            Ok(())
        };
        let vocab = tokenizer["model"]["vocab"].as_object();
        let has_bytes = matches!(manner, Manner::Sentencepiece { .. });
        for (token, id) in vocab.ok_or_else(|| Error::corrupt("tokenizer.json has no vocabulary"))? {
            let is_byte = has_bytes && is_byte_token(token);
            put(id.as_u64(), token, if is_byte { kind::BYTE } else { kind::NORMAL })?;
        }
        let unknown = tokenizer["model"]["unk_token"].as_str();
        for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
            let token = added["content"].as_str().ok_or_else(|| Error::corrupt("an added token has no content"))?;
            let is_special = added["special"].as_bool().unwrap_or(false);
            let kind = match (is_special, Some(token) == unknown) {
                (_, true) => kind::UNKNOWN,
                (true, _) => kind::CONTROL,
                (false, _) => kind::USER_DEFINED,
            };
            put(added["id"].as_u64(), token, kind)?;
        }
        let named = tokens.into_iter().enumerate().map(|(idx, token)| token.unwrap_or_else(|| format!("[PAD{idx}]")));
        Ok(Vocabulary { tokens: named.collect(), kinds })
    }

    fn scores(&self, merges: &[(&str, &str)]) -> Result<Vec<f32>> {
        let rows = self.tokens.iter().zip(&self.kinds).enumerate();
        let normal: Vec<(usize, &str)> = rows
            .filter(|(_, (_, kind))| **kind == kind::NORMAL)
            .map(|(idx, (token, _))| (idx, token.as_str()))
            .collect();
        let names: Vec<&str> = normal.iter().map(|(_, token)| *token).collect();
        let found = scores_of_merges(&names, merges).ok_or_else(|| {
            Error::unsupported("a tokenizer whose merges do not follow from scores of tokens, as GGUF has them")
        })?;
        let mut scores = vec![0.0; self.tokens.len()];
        for ((idx, _), score) in normal.iter().zip(found) {
            scores[*idx] = score;
        }
        Ok(scores)
    }

    /// Ids of tokens with a meaning, and which of them texts get.
    fn special(
        &self,
        tokenizer: &Value,
        config: &Map<String, Value>,
        ids: &SpecialIds,
    ) -> Result<Vec<(String, MetaValue)>> {
        let id_of = |token: &str| self.tokens.iter().position(|found| found == token).map(|id| id as u32);
        let named = |field: &str| {
            let value = config.get(field)?;
            value.as_str().or_else(|| value.get("content")?.as_str()).and_then(id_of)
        };
        let bos = named("bos_token").or(ids.bos);
        let eos = named("eos_token").or(ids.eos.first().copied());
        let turn = ids.eos.iter().copied().find(|id| Some(*id) != eos);
        let unknown = named("unk_token").or_else(|| tokenizer["model"]["unk_token"].as_str().and_then(id_of));
        let pad = named("pad_token").or(ids.pad);
        let mut values = Vec::new();
        let mut put = |key: &str, value: MetaValue| values.push((format!("tokenizer.ggml.{key}"), value));
        let names = [("bos", bos), ("eos", eos), ("eot", turn), ("unknown", unknown), ("padding", pad)];
        for (name, id) in names {
            let Some(id) = id else { continue };
            if id as usize >= self.tokens.len() {
                return Err(Error::corrupt(format!("the {name} token is {id}, which is no token")));
            }
            put(&format!("{name}_token_id"), MetaValue::U32(id));
        }
        let (before, after) = ends(tokenizer)?;
        let added = |token: Option<&str>, id: Option<u32>, what: &str| match token.map(id_of) {
            None => Ok(false),
            Some(found) if found.is_some() && found == id => Ok(true),
            Some(_) => Err(Error::unsupported(format!("texts that {what} with another token than the model's own"))),
        };
        let flag = |name: &str| config.get(name).and_then(Value::as_bool);
        let (adds_bos, adds_eos) = (added(before, bos, "begin")?, added(after, eos, "end")?);
        put("add_bos_token", MetaValue::Bool(flag("add_bos_token").unwrap_or(adds_bos) && bos.is_some()));
        put("add_eos_token", MetaValue::Bool(flag("add_eos_token").unwrap_or(adds_eos) && eos.is_some()));
        Ok(values)
    }
}

/// What stands before and after a text, by `post_processor`.
fn ends(tokenizer: &Value) -> Result<(Option<&str>, Option<&str>)> {
    let steps = flattened(&tokenizer["post_processor"], "processors");
    let mut found = (None, None);
    for step in steps {
        match step["type"].as_str() {
            None | Some("ByteLevel") => {}
            Some("TemplateProcessing") => {
                let parts = step["single"].as_array().map(Vec::as_slice).unwrap_or_default();
                let is_text = |part: &Value| !part["Sequence"].is_null();
                let at = parts.iter().position(is_text).unwrap_or(0);
                if parts.len() > at + 2 || at > 1 {
                    return Err(Error::unsupported("texts with several tokens before or after them"));
                }
                found = (
                    at.checked_sub(1).and_then(|idx| parts[idx]["SpecialToken"]["id"].as_str()),
                    parts.get(at + 1).and_then(|part| part["SpecialToken"]["id"].as_str()),
                );
            }
            Some(other) => return Err(Error::unsupported(format!("a tokenizer's post-processor {other}"))),
        }
    }
    Ok(found)
}

/// The steps of a sequence, or the only one, or none.
fn flattened<'a>(step: &'a Value, list: &str) -> Vec<&'a Value> {
    match step {
        Value::Null => Vec::new(),
        step if step["type"] == "Sequence" => step[list].as_array().into_iter().flatten().collect(),
        step => vec![step],
    }
}

fn manner(tokenizer: &Value) -> Result<Manner> {
    let cuts = flattened(&tokenizer["pre_tokenizer"], "pretokenizers");
    let norms = flattened(&tokenizer["normalizer"], "normalizers");
    if cuts.iter().any(|step| step["type"] == "ByteLevel") {
        return byte_level(tokenizer, &cuts, &norms);
    }
    if tokenizer["model"]["byte_fallback"] != true {
        return Err(Error::unsupported("a tokenizer that is neither byte-level nor falls back to bytes"));
    }
    let is_replace =
        |step: &Value| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE;
    let is_prepend = |step: &Value| step["type"] == "Prepend" && step["prepend"] == SPACE;
    match (norms.as_slice(), cuts.as_slice()) {
        ([first, second], []) if is_prepend(first) && is_replace(second) => {
            Ok(Manner::Sentencepiece { adds_space: true, only_at_start: false })
        }
        ([only], []) if is_replace(only) => Ok(Manner::Sentencepiece { adds_space: false, only_at_start: false }),
        ([], [only]) if only["type"] == "Metaspace" && only["split"] == false && only["replacement"] == SPACE => {
            let scheme = only["prepend_scheme"].as_str().unwrap_or("always");
            Ok(Manner::Sentencepiece { adds_space: scheme != "never", only_at_start: scheme == "first" })
        }
        _ => Err(Error::unsupported("a tokenizer whose normalizer is not SentencePiece's")),
    }
}

fn byte_level(tokenizer: &Value, cuts: &[&Value], norms: &[&Value]) -> Result<Manner> {
    let unknown = || {
        let what = "a tokenizer that cuts texts into words in a way that has no name here";
        Error::unsupported(format!("{what}; known are {}", known_cuttings()))
    };
    let (patterns, uses_own) = match cuts {
        [only] => (Vec::new(), only["use_regex"].as_bool().unwrap_or(true)),
        [splits @ .., last] if last["type"] == "ByteLevel" => {
            let pattern = |step: &&Value| {
                let is_plain = step["type"] == "Split" && step["behavior"] == "Isolated" && step["invert"] != true;
                step["pattern"]["Regex"].as_str().filter(|_| is_plain).map(str::to_owned)
            };
            let patterns = splits.iter().map(pattern).collect::<Option<Vec<String>>>().ok_or_else(unknown)?;
            (patterns, last["use_regex"].as_bool().unwrap_or(true))
        }
        _ => return Err(unknown()),
    };
    let prefixes = cuts.iter().any(|step| step["add_prefix_space"] == true);
    let is_nfc = match norms {
        [] => false,
        [only] if only["type"] == "NFC" => true,
        _ => return Err(unknown()),
    };
    let ignores = tokenizer["model"]["ignore_merges"] == true;
    let fits = |cutting: &&Cutting| {
        let is_nfc_right = cutting.is_nfc || !is_nfc; // llama.cpp normalises nothing; publishers of qwen2 have both.
        cutting.patterns == patterns && cutting.patterns.is_empty() == uses_own && is_nfc_right
            // Early files of Llama 3 do not say it.
            && (cutting.ignores_merges || !ignores)
    };
    CUTTINGS.iter().find(fits).filter(|_| !prefixes).map(Manner::ByteLevel).ok_or_else(unknown)
}

/// Merges, in either of the two spellings that tokenizer.json has had.
fn merges(model: &Value) -> Result<Vec<(&str, &str)>> {
    let wrong = || Error::corrupt("a merge in tokenizer.json is not of two tokens");
    let list = model["merges"].as_array().map(Vec::as_slice).unwrap_or_default();
    list.iter()
        .map(|merge| match merge {
            Value::String(text) => text.split_once(' ').ok_or_else(wrong),
            Value::Array(parts) => match parts.as_slice() {
                [left, right] => left.as_str().zip(right.as_str()).ok_or_else(wrong),
                _ => Err(wrong()),
            },
            _ => Err(wrong()),
        })
        .collect()
}

/// The chat template; where there are several, the one named "default".
fn chat_template(config: &Map<String, Value>) -> Option<&str> {
    match config.get("chat_template")? {
        Value::String(text) => Some(text),
        Value::Array(named) => named.iter().find(|row| row["name"] == "default")?["template"].as_str(),
        _ => None,
    }
}
