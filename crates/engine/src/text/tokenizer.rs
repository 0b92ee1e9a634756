//! Encodes and decodes: goes in `tokenizer.json` with the settings beside it, comes out token ids for text and text
//! for token ids. Next in the flow: stream.rs, which decodes token by token.

use std::path::Path;

use netweight_container::{Context, Error as FileError};
use tokenizers::AddedToken;

use super::settings::{AddedRow, Settings};
use super::{GenerationConfig, SideFiles, TextStream};
use crate::{Error, Result};

/// A model's tokenizer.
///
/// ```
/// use netweight_engine::Tokenizer;
///
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
/// let tokenizer = Tokenizer::read(folder)?;
/// let ids = tokenizer.encode("It was a bright morning.<|endoftext|>")?;
/// assert_eq!(tokenizer.decode(&ids)?, "It was a bright morning.");
/// assert_eq!(ids.last(), Some(&0));
/// assert!(tokenizer.is_eos(0));
/// # Ok::<(), netweight_engine::Error>(())
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    ends: Ends,
    roles: Vec<(&'static str, String)>,
    bos_id: Option<u32>,
    eos_ids: Vec<u32>, // sorted
    n_base_tokens: usize,
    n_known_tokens: usize,
}

/// What encoding puts around a text.
enum Ends {
    /// What `tokenizer.json` says.
    AsFile,
    /// What `add_bos_token` and `add_eos_token` say; where only one of them is there the other counts as false.
    Explicit { before: Option<u32>, after: Option<u32> },
}

impl Tokenizer {
    /// Reads `tokenizer.json`, `tokenizer_config.json`, `special_tokens_map.json`, and the ids of
    /// `generation_config.json` and `config.json`. Only the first must be there.
    ///
    /// # Errors
    /// `File`: `InvalidArgument` where there is no tokenizer, `Unsupported` where there is one of another kind,
    /// `Corrupt` where a file is broken.
    pub fn read<F: SideFiles + ?Sized>(files: &F) -> Result<Tokenizer> {
        let files: &dyn SideFiles = &files;
        let bytes = files.side_file("tokenizer.json")?.ok_or_else(|| explain_missing(files))?;
        let mut inner = parse(&bytes).in_file(Path::new("tokenizer.json"))?;
        drop(bytes);
        // Some publishers leave the limits of their training here; a cut prompt would be a silent error.
        inner.with_padding(None).with_truncation(None).map_err(|error| FileError::corrupt(error.to_string()))?;
        let settings = Settings::read(files)?;
        add_tokens(&mut inner, &settings)?;
        let mut eos_ids = GenerationConfig::read(files)?.eos_ids;
        eos_ids.extend(settings.eos().and_then(|token| inner.token_to_id(token)));
        eos_ids.sort_unstable();
        eos_ids.dedup();
        let n_base_tokens = inner.get_vocab(false).values().max().map_or(0, |id| *id as usize + 1);
        let n_known_tokens = inner.get_vocab(true).values().max().map_or(0, |id| *id as usize + 1);
        Ok(Tokenizer {
            ends: ends(&inner, &settings)?,
            roles: settings.roles().into_iter().map(|(role, token)| (role, token.to_owned())).collect(),
            bos_id: settings.bos().and_then(|token| inner.token_to_id(token)),
            eos_ids,
            n_base_tokens,
            n_known_tokens,
            inner,
        })
    }

    /// Holds the tokenizer against the number of tokens that a model knows. A model may know more tokens, since
    /// publishers pad; it may lack added tokens, as text models cut out of models for images do, and then only texts
    /// that need them are refused.
    ///
    /// # Errors
    /// `InvalidArgument` where the model lacks tokens of the tokenizer's own vocabulary, or one that ends a text.
    pub fn check_fits(&mut self, vocab_size: usize) -> Result<()> {
        if self.n_base_tokens > vocab_size {
            return Err(Error::invalid(format!(
                "the tokenizer has {} tokens, but the model knows only {vocab_size}: they do not belong together",
                self.n_base_tokens
            )));
        }
        if let Some(id) = self.eos_ids.iter().find(|id| **id as usize >= vocab_size) {
            return Err(Error::invalid(format!(
                "token {id}, which ends a text, is beyond the model's vocabulary of {vocab_size} tokens"
            )));
        }
        self.n_known_tokens = vocab_size;
        Ok(())
    }

    /// Token ids of a text, with what the model expects around one, such as a token at its beginning. Special tokens
    /// may be written out in the text.
    ///
    /// # Errors
    /// `TokenOutOfRange` where the model lacks a token; `InvalidArgument` where the tokenizer fails.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        match self.ends {
            Ends::AsFile => self.encode_with(text, true),
            Ends::Explicit { before, after } => {
                let inside = self.encode_with(text, false)?;
                Ok(before.into_iter().chain(inside).chain(after).collect())
            }
        }
    }

    /// Token ids of a text that is to be continued: as [`Tokenizer::encode`], but without a token after the text that
    /// would end it.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>> {
        let mut ids = self.encode(text)?;
        if ids.last().is_some_and(|id| self.is_eos(*id)) && self.encode_bare(text)?.last() != ids.last() {
            ids.pop();
        }
        // Where beginning and end are the same token, it begins an empty text.
        if ids.is_empty() { self.encode(text) } else { Ok(ids) }
    }

    /// Token ids of a text with nothing around it, for example of what a chat template made.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_bare(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_with(text, false)
    }

    fn encode_with(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|error| Error::invalid(error.to_string()))?;
        self.check_ids(encoding.get_ids())?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of tokens, without special ones. `clean_up_tokenization_spaces` of old configurations is not followed: it
    /// takes spaces out of texts that had them.
    ///
    /// # Errors
    /// `TokenOutOfRange`; `InvalidArgument` where the tokenizer fails.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, false)
    }

    /// Text of tokens with special ones written out.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn decode_all(&self, ids: &[u32]) -> Result<String> {
        self.decode_with(ids, true)
    }

    pub(super) fn decode_with(&self, ids: &[u32], with_special: bool) -> Result<String> {
        self.check_ids(ids)?;
        self.inner.decode(ids, !with_special).map_err(|error| Error::invalid(error.to_string()))
    }

    fn check_ids(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|id| **id as usize >= self.n_known_tokens) {
            Some(&id) => Err(Error::TokenOutOfRange { id, vocab_size: self.n_known_tokens }),
            None => Ok(()),
        }
    }

    /// Decodes token by token, from the beginning of a text.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// Tokens that end a text, ascending: those of `generation_config.json` or else of `config.json`, and the
    /// tokenizer's own.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// Whether a token ends a text.
    pub fn is_eos(&self, id: u32) -> bool {
        self.eos_ids.binary_search(&id).is_ok()
    }

    /// The token at the beginning of a text, if the tokenizer names one. Not every model wants it there:
    /// [`Tokenizer::encode`] puts it there where it belongs.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Tokens that the tokenizer or, after [`Tokenizer::check_fits`], the model knows: ids are below.
    pub fn n_tokens(&self) -> usize {
        self.n_known_tokens
    }

    /// The token that stands for exactly this text, if it is a special one.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        let id = self.inner.token_to_id(text).filter(|id| (*id as usize) < self.n_known_tokens);
        id.filter(|_| self.inner.get_added_vocabulary().is_special_token(text))
    }

    /// A token as it stands in the vocabulary, for display.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Texts of the tokens with a role: `bos_token`, `eos_token`, `unk_token`, `pad_token`, as templates know them.
    pub fn roles(&self) -> impl Iterator<Item = (&str, &str)> {
        self.roles.iter().map(|(role, token)| (*role, token.as_str()))
    }
}

/// The library panics on some files, so syntax is checked first and a panic becomes an error.
fn parse(bytes: &[u8]) -> netweight_container::Result<tokenizers::Tokenizer> {
    let corrupt = |what: &dyn std::fmt::Display| FileError::corrupt(what.to_string());
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).map_err(|error| corrupt(&error))?;
    match std::panic::catch_unwind(|| tokenizers::Tokenizer::from_bytes(bytes)) {
        Ok(parsed) => parsed.map_err(|error| corrupt(&error)),
        Err(_) => Err(corrupt(&"not a tokenizer of the library tokenizers")),
    }
}

fn explain_missing(files: &dyn SideFiles) -> Error {
    let has = |name: &str| files.side_file(name).is_ok_and(|file| file.is_some());
    const REMEDY: &str = "where transformers runs, AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) makes \
                          tokenizer.json from it";
    let others = [
        ("tokenizer.model", "a sentencepiece tokenizer.model"),
        ("spiece.model", "a sentencepiece spiece.model"),
        ("tekken.json", "a tekken.json"),
        ("vocab.json", "a vocab.json"),
        ("vocab.txt", "a vocab.txt"),
    ];
    match others.iter().find(|(name, _)| has(name)) {
        Some((_, other)) => FileError::unsupported(format!(
            "there is no tokenizer.json, only {other}, which is not supported; {REMEDY}"
        )),
        None => FileError::invalid(
            "there is no tokenizer.json beside the weights; copy it, and tokenizer_config.json, from where the \
             model was published",
        ),
    }
    .into()
}

/// Adds what `tokenizer_config.json` names and `tokenizer.json` lacks, and marks as special what the former calls so.
fn add_tokens(inner: &mut tokenizers::Tokenizer, settings: &Settings) -> Result<()> {
    for (&id, row) in &settings.added_tokens_decoder {
        if inner.token_to_id(&row.content).is_some() {
            continue;
        }
        let next_id = inner.get_vocab_size(true);
        let token = added_token(row);
        if row.special {
            inner.add_special_tokens(&[token])
        } else {
            inner.add_tokens(&[token])
        };
        if inner.token_to_id(&row.content) != Some(id) {
            let what = format!(
                "token {:?} has id {id} here, but tokenizer.json lacks it and has {next_id} tokens",
                row.content
            );
            return Err(FileError::corrupt(what).in_file(Path::new("tokenizer_config.json")).into());
        }
    }
    let is_plain = |inner: &tokenizers::Tokenizer, token: &str| {
        inner.token_to_id(token).is_some() && !inner.get_added_vocabulary().is_special_token(token)
    };
    let special: Vec<AddedToken> =
        settings.special().filter(|token| is_plain(inner, token)).map(|token| AddedToken::from(token, true)).collect();
    inner.add_special_tokens(&special);
    Ok(())
}

fn added_token(row: &AddedRow) -> AddedToken {
    let token = AddedToken::from(row.content.as_str(), row.special);
    let token = token.lstrip(row.lstrip).rstrip(row.rstrip).single_word(row.single_word);
    token.normalized(row.normalized.unwrap_or(!row.special))
}

fn ends(inner: &tokenizers::Tokenizer, settings: &Settings) -> Result<Ends> {
    if settings.add_bos_token.is_none() && settings.add_eos_token.is_none() {
        return Ok(Ends::AsFile);
    }
    let find = |flag: Option<bool>, role: &str, token: Option<&str>| match (flag, token) {
        (Some(true), Some(token)) => inner.token_to_id(token).map(Some).ok_or_else(|| {
            let what = format!("add_{role} is set, but the vocabulary has no {token:?}");
            Error::from(FileError::corrupt(what).in_file(Path::new("tokenizer_config.json")))
        }),
        _ => Ok(None),
    };
    Ok(Ends::Explicit {
        before: find(settings.add_bos_token, "bos_token", settings.bos())?,
        after: find(settings.add_eos_token, "eos_token", settings.eos())?,
    })
}
