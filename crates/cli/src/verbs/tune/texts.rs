//! Which texts a model is calibrated and measured on. Goes in: flags. Comes out: tokens, and what the card says of them.

use std::path::PathBuf;

use netweight_card::{Role, Text, TextRecord};
use netweight_engine::Tokenizer;
use netweight_tune::{CALIBRATION, HELD_OUT, OUT_OF_DOMAIN};
use rand::SeedableRng;
use rand::seq::index::sample;
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::failure::{Failure, Kind};
use crate::models;

/// `--calibration`, `--held-out` and `--ood`
#[derive(Clone, Debug, clap::Args)]
pub struct TextArgs {
    /// Texts in UTF-8 of the kind that the model is for, to calibrate on [default: parts of fifteen novels, in English].
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub calibration: Vec<PathBuf>,
    /// A text of the same kind that is not among these, to measure on [default: parts of two other novels].
    #[arg(long, value_name = "FILE")]
    pub held_out: Option<PathBuf>,
    /// A text of another kind, to measure on [default: a part of a play].
    #[arg(long, value_name = "FILE")]
    pub ood: Option<PathBuf>,
    /// Windows of the calibration text to take.
    #[arg(long, default_value_t = 128, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sequences: u32,
    /// Tokens of a window [default: 512, or as many as the model knows positions].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(2..))]
    pub window: Option<u32>,
    /// Tokens of each text to measure on.
    #[arg(long, default_value_t = 16384, value_name = "N", value_parser = clap::value_parser!(u32).range(64..))]
    pub eval_tokens: u32,
    /// Which windows of the calibration text are taken.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// What a model is calibrated on.
pub struct CalibrationText {
    /// Which text.
    pub record: TextRecord,
    /// Whole windows.
    pub tokens: Vec<u32>,
    /// Others, for the search.
    pub search: Vec<u32>,
}

/// Tokens of the search's own text, about.
const SEARCH_TOKENS: usize = 4096;
/// Bytes of a token, at most, on average: text beyond what can be needed is not read into tokens.
const BYTES_PER_TOKEN: usize = 12;

impl TextArgs {
    /// Draws windows of the calibration text, and others for the search.
    ///
    /// # Errors
    /// `Io`; `Usage` where the text is too short for both.
    pub fn calibration(&self, tokenizer: &Tokenizer, window: usize) -> Result<CalibrationText, Failure> {
        let texts: Vec<String> = self.calibration.iter().map(models::read_text).collect::<Result<_, _>>()?;
        let (name, texts): (String, Vec<&str>) = match texts.is_empty() {
            true => ("bundled: parts of fifteen novels".to_owned(), vec![CALIBRATION]),
            false => (names(&self.calibration), texts.iter().map(String::as_str).collect()),
        };
        let mut tokens = Vec::new();
        for text in &texts {
            tokens.extend(tokenizer.encode_bare(text).map_err(Failure::running)?);
        }
        let n_windows = tokens.len() / window;
        let n_search = SEARCH_TOKENS.div_ceil(window);
        if n_windows < n_search + 1 {
            let what = format!("the calibration text has {} tokens", tokens.len());
            let hint =
                format!("at least {} are needed: give a longer one, or a smaller --window", (n_search + 1) * window);
            return Err(Failure::new(Kind::Usage, what, hint));
        }
        let n_taken = n_windows.min(n_search + self.sequences as usize);
        let mut drawn = sample(&mut Xoshiro256PlusPlus::seed_from_u64(self.seed), n_windows, n_taken).into_vec();
        let mut searched = drawn.split_off(n_taken - n_search);
        drawn.sort_unstable();
        searched.sort_unstable();
        let of = |windows: &[usize]| windows.iter().flat_map(|&at| &tokens[at * window..][..window]).copied().collect();
        Ok(CalibrationText {
            record: TextRecord::of(name, texts.iter().copied()),
            tokens: of(&drawn),
            search: of(&searched),
        })
    }

    /// The texts that evidence is taken on.
    ///
    /// # Errors
    /// `Io`; `Usage` where one is too short.
    pub fn evidence(&self, tokenizer: &Tokenizer) -> Result<Vec<Text>, Failure> {
        evidence(tokenizer, self.held_out.as_ref(), self.ood.as_ref(), self.eval_tokens)
    }
}

/// The texts that evidence is taken on: at most so many tokens of each.
///
/// # Errors
/// `Io`; `Usage` where one is too short.
pub fn evidence(
    tokenizer: &Tokenizer,
    held_out: Option<&PathBuf>,
    ood: Option<&PathBuf>,
    n_tokens: u32,
) -> Result<Vec<Text>, Failure> {
    let held_out = (Role::HeldOut, held_out, "bundled: parts of two novels", HELD_OUT);
    let ood = (Role::OutOfDomain, ood, "bundled: a part of a play", OUT_OF_DOMAIN);
    [held_out, ood].into_iter().map(|text| one(tokenizer, text, n_tokens as usize)).collect()
}

fn one(
    tokenizer: &Tokenizer,
    (role, path, name, bundled): (Role, Option<&PathBuf>, &str, &str),
    most: usize,
) -> Result<Text, Failure> {
    let given = path.map(models::read_text).transpose()?;
    let text = given.as_deref().unwrap_or(bundled);
    let name = path.map_or_else(|| name.to_owned(), |path| names(std::slice::from_ref(path)));
    let mut end = text.len().min(most * BYTES_PER_TOKEN);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut tokens = tokenizer.encode_bare(&text[..end]).map_err(Failure::running)?;
    tokens.truncate(most);
    if tokens.len() < 64 {
        let what = format!("{name}: a text of {} tokens says nothing of a model", tokens.len());
        return Err(Failure::new(Kind::Usage, what, "give one of some thousand"));
    }
    Ok(Text { role, record: TextRecord::of(name, [text]), tokens })
}

fn names(paths: &[PathBuf]) -> String {
    let name = |path: &PathBuf| path.file_name().map_or_else(|| "-".into(), |name| name.to_string_lossy().into_owned());
    paths.iter().map(name).collect::<Vec<_>>().join(", ")
}
