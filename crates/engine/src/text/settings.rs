//! `tokenizer_config.json` with what `special_tokens_map.json` adds: which tokens are special, whether encoding adds
//! them, and the chat template. Next in the flow: tokenizer.rs.

use std::collections::BTreeMap;

use netweight_container::Result;
use serde::Deserialize;
use serde_json::Value;

use super::files::{SideFiles, json_file};

/// A token named in a file: its text, or an object that has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum NamedToken {
    Text(String),
    Object { content: String },
    Other(serde::de::IgnoredAny), // null, or what older tools left there
}

impl NamedToken {
    fn text(&self) -> Option<&str> {
        match self {
            NamedToken::Text(text) | NamedToken::Object { content: text } => Some(text),
            NamedToken::Other(_) => None,
        }
    }
}

/// A row of `added_tokens_decoder`.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct AddedRow {
    pub content: String,
    #[serde(default)]
    pub special: bool,
    #[serde(default)]
    pub lstrip: bool,
    #[serde(default)]
    pub rstrip: bool,
    #[serde(default)]
    pub single_word: bool,
    pub normalized: Option<bool>,
}

/// What the two files say.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Settings {
    bos_token: Option<NamedToken>,
    eos_token: Option<NamedToken>,
    unk_token: Option<NamedToken>,
    pad_token: Option<NamedToken>,
    additional_special_tokens: Option<Vec<NamedToken>>,
    pub add_bos_token: Option<bool>,
    pub add_eos_token: Option<bool>,
    #[serde(default)]
    pub added_tokens_decoder: BTreeMap<u32, AddedRow>,
    pub chat_template: Option<Value>,
}

impl Settings {
    /// Reads both files; where neither exists nothing is set.
    pub fn read(files: &dyn SideFiles) -> Result<Settings> {
        let mut settings: Settings = json_file(files, "tokenizer_config.json")?.unwrap_or_default();
        let map: Settings = json_file(files, "special_tokens_map.json")?.unwrap_or_default();
        settings.bos_token = settings.bos_token.or(map.bos_token);
        settings.eos_token = settings.eos_token.or(map.eos_token);
        settings.unk_token = settings.unk_token.or(map.unk_token);
        settings.pad_token = settings.pad_token.or(map.pad_token);
        settings.additional_special_tokens = settings.additional_special_tokens.or(map.additional_special_tokens);
        Ok(settings)
    }

    /// Text of the token that begins a text.
    pub fn bos(&self) -> Option<&str> {
        self.bos_token.as_ref()?.text()
    }

    /// Text of the token that ends a text.
    pub fn eos(&self) -> Option<&str> {
        self.eos_token.as_ref()?.text()
    }

    /// Texts of all tokens that have a role, with the names of the roles; templates see them under these names.
    pub fn roles(&self) -> Vec<(&'static str, &str)> {
        let named = [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("unk_token", &self.unk_token),
            ("pad_token", &self.pad_token),
        ];
        named.into_iter().filter_map(|(role, token)| Some((role, token.as_ref()?.text()?))).collect()
    }

    /// Texts of all tokens that these files call special.
    pub fn special(&self) -> impl Iterator<Item = &str> {
        let additional = self.additional_special_tokens.iter().flatten().filter_map(NamedToken::text);
        self.roles().into_iter().map(|(_, text)| text).chain(additional)
    }
}
