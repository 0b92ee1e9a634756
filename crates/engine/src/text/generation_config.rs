//! `generation_config.json` and the ids in `config.json`: how the model's publisher wants it sampled, and which tokens
//! end a text. Next in the flow: tokenizer.rs.

use netweight_container::Result;
use serde::Deserialize;

use super::files::{SideFiles, json_file};

/// How the publisher wants the model sampled; `None` where nothing is said.
///
/// ```
/// # let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
/// let config = netweight_engine::GenerationConfig::read(folder)?;
/// assert_eq!(config.eos_ids, [0]);
/// assert_eq!(config.temperature, None);
/// # Ok::<(), netweight_engine::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a text: from `generation_config.json`, or else from `config.json`.
    pub eos_ids: Vec<u32>,
    /// Whether to sample at all. `Some(false)` or `None` with no other value set means greedy.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Keeps that many tokens; 0 keeps all.
    pub top_k: Option<usize>,
    /// Keeps the likeliest tokens up to this probability.
    pub top_p: Option<f32>,
    /// Keeps tokens of at least this share of the likeliest one's probability.
    pub min_p: Option<f32>,
    /// Weakens tokens that occurred.
    pub repetition_penalty: Option<f32>,
}

#[derive(Default, Deserialize)]
struct File {
    eos_token_id: Option<Ids>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
}

/// `config.json`, of which only the ids are read here. Models for images and text nest them.
#[derive(Default, Deserialize)]
struct ModelFile {
    eos_token_id: Option<Ids>,
    text_config: Option<Box<ModelFile>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Ids {
    fn into_vec(self) -> Vec<u32> {
        match self {
            Ids::One(id) => vec![id],
            Ids::Many(ids) => ids,
        }
    }
}

impl GenerationConfig {
    /// Reads both files; where neither exists nothing is set.
    ///
    /// # Errors
    /// `File`: a file is not JSON, or a value is of the wrong type.
    pub fn read<F: SideFiles + ?Sized>(files: &F) -> crate::Result<GenerationConfig> {
        Ok(Self::read_files(&files)?)
    }

    fn read_files(files: &dyn SideFiles) -> Result<GenerationConfig> {
        let file: File = json_file(files, "generation_config.json")?.unwrap_or_default();
        let eos_ids = match file.eos_token_id {
            Some(ids) => ids.into_vec(),
            None => {
                let model: ModelFile = json_file(files, "config.json")?.unwrap_or_default();
                let nested = model.text_config.and_then(|inner| inner.eos_token_id);
                model.eos_token_id.or(nested).map_or_else(Vec::new, Ids::into_vec)
            }
        };
        Ok(GenerationConfig {
            eos_ids,
            do_sample: file.do_sample,
            temperature: file.temperature,
            top_k: file.top_k,
            top_p: file.top_p,
            min_p: file.min_p,
            repetition_penalty: file.repetition_penalty,
        })
    }
}
