//! The command line: global flags, the list of verbs, and how values are spelt. Next in the flow: verbs/mod.rs.

use std::ops::Range;
use std::sync::LazyLock;

use clap::builder::PossibleValue;
use clap::{Parser, Subcommand, ValueEnum};
use netweight_container::FORMAT;
use netweight_interchange::{FloatType, Format, WeightType};
use netweight_pack::{Layout, Level};
use netweight_synth::{Kind, Shapes};

use crate::units::grouped;
use crate::verbs::{
    audit, bench, completions, compress, demo, estimate, eval, export, import, inspect, restore, run, synth, tune,
    verify,
};

/// What `--version` says.
static VERSION: LazyLock<String> = LazyLock::new(|| format!("{} (archive format {FORMAT})", env!("CARGO_PKG_VERSION")));

const EXAMPLES: &str = "\
Examples:
  netweight demo                                    Try it on the bundled model
  netweight estimate Llama-3.1-8B                   What would it bring? Takes two seconds
  netweight compress Llama-3.1-8B -o Llama-3.1-8B.nw
  netweight verify Llama-3.1-8B.nw
  netweight restore Llama-3.1-8B.nw -o Llama-3.1-8B
  netweight run Llama-3.1-8B.nw                     Chat with it, compressed in memory too

Exit codes:
  0    done
  1    damage: verify or restore found an archive truncated, corrupt or different from its original
  2    usage: the command line asks for something that cannot be
  3    input: not a checkpoint or archive, damaged before it was archived, or of a newer format
  4    the operating system refused: not found, no permission, no space; or a GPU did: it failed, or is too small
  5    refused: something is at the destination already
  130  interrupted (128 + the signal's number)

With --json every verb writes exactly one JSON document to standard output; an error is
{\"error\": {\"kind\", \"message\", \"path\", \"tensor\", \"offset\", \"hint\", \"exit_code\"}}, there as well.";

/// Makes language-model checkpoints about a third smaller, and gives every byte back.
///
/// A checkpoint is a .safetensors file or a folder with such files; whatever else the folder holds is kept too.
/// An archive is again a file or a folder, of valid safetensors files.
#[derive(Debug, Parser)]
#[command(name = "netweight", version = VERSION.as_str(), after_long_help = EXAMPLES, max_term_width = 110)]
pub struct Cli {
    /// Write one JSON document to standard output instead of text, for errors too.
    #[arg(long, global = true)]
    pub json: bool,
    /// No progress bar and no summary: print only what was asked for, and errors.
    #[arg(long, short, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// One row for each verb; its file in verbs/ has its arguments and its main path.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Archive a checkpoint
    Compress(compress::Args),
    /// Give the original back, byte for byte; or one tensor, or some of its rows
    Restore(restore::Args),
    /// Check every byte of an archive, and that every original comes out of it
    Verify(verify::Args),
    /// Show the tensors of a checkpoint or archive, how they are stored and how small they could get
    Inspect(inspect::Args),
    /// Predict size and time from a sample, and say whether it is worth it
    Estimate(estimate::Args),
    /// Read a model of another engine: GGUF, compressed-tensors
    Import(import::Args),
    /// Write a model for another engine: GGUF, compressed-tensors
    Export(export::Args),
    /// Answer a prompt, or chat, with a checkpoint or an archive
    Run(run::Args),
    /// Measure perplexity on a text, and the distance to another model
    Eval(eval::Args),
    /// Make a model several times smaller, within a loss that you set and it measures
    Tune(tune::Args),
    /// Show what was measured of a model, and check that its files and its card are untouched
    Audit(audit::Args),
    /// Compress, verify and restore the bundled model, compare every file, and run it
    Demo(demo::Args),
    /// Measure speed and size beside other compressors, in one run
    Bench(Box<bench::Args>),
    /// Write a synthetic checkpoint with the statistics of trained weights
    Synth(synth::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// `--level`
#[derive(Clone, Copy, Debug)]
pub struct LevelArg(pub Level);

impl ValueEnum for LevelArg {
    fn value_variants<'a>() -> &'a [LevelArg] {
        &[LevelArg(Level::Default), LevelArg(Level::Max)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Level::Default => "fastest",
            Level::Max => "a little smaller, slower to write and to read",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// `--resident`
#[derive(Clone, Copy, Debug)]
pub struct ResidentArg(pub Layout);

impl ValueEnum for ResidentArg {
    fn value_variants<'a>() -> &'a [ResidentArg] {
        &[ResidentArg(Layout::Exact11), ResidentArg(Layout::Exact12)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Layout::Exact11 => "some 11.2 bits a weight",
            _ => "some 12 bits a weight, less work to multiply with",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// `import --dtype`
#[derive(Clone, Copy, Debug)]
pub struct FloatArg(pub FloatType);

impl ValueEnum for FloatArg {
    fn value_variants<'a>() -> &'a [FloatArg] {
        const ALL: [FloatArg; 3] =
            [FloatArg(FloatType::ALL[0]), FloatArg(FloatType::ALL[1]), FloatArg(FloatType::ALL[2])];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

/// `export --weights`
#[derive(Clone, Copy, Debug)]
pub struct WeightArg(pub WeightType);

impl ValueEnum for WeightArg {
    fn value_variants<'a>() -> &'a [WeightArg] {
        const ALL: [WeightArg; 6] = {
            let all = WeightType::ALL;
            [
                WeightArg(all[0]),
                WeightArg(all[1]),
                WeightArg(all[2]),
                WeightArg(all[3]),
                WeightArg(all[4]),
                WeightArg(all[5]),
            ]
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            WeightType::Float(_) => "GGUF, ONNX",
            WeightType::Q8_0 => "GGUF, 8.5 bits a weight",
            WeightType::Int8 => "compressed-tensors, ONNX: a scale for each row",
            WeightType::Int4 => "compressed-tensors, a scale for every 128 weights",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// What an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FormatArg(pub Format);

impl ValueEnum for FormatArg {
    fn value_variants<'a>() -> &'a [FormatArg] {
        &[FormatArg(Format::Gguf), FormatArg(Format::CompressedTensors), FormatArg(Format::Onnx)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Format::Gguf => "a file for llama.cpp",
            Format::CompressedTensors => "a folder for vLLM and transformers",
            Format::Onnx => "a folder for ONNX Runtime",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// A kind of synthetic weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KindArg(pub Kind);

impl ValueEnum for KindArg {
    fn value_variants<'a>() -> &'a [KindArg] {
        &[KindArg(Kind::Bf16), KindArg(Kind::F16), KindArg(Kind::F32), KindArg(Kind::Fp8)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.0.name()))
    }
}

/// `--shapes`
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ShapesArg {
    /// Layers of Llama-3.1-8B and a cut embedding: 34 M weights, and 218 M in each layer
    #[value(name = "8b")]
    Llama8b,
    /// A quarter of that in each dimension: 2 M weights, and 14 M in each layer
    Small,
    /// For tests: 0.1 M weights, and 0.3 M in each layer
    Tiny,
}

impl ShapesArg {
    /// The dimensions.
    pub fn shapes(self) -> Shapes {
        match self {
            ShapesArg::Llama8b => Shapes::LLAMA_8B,
            ShapesArg::Small => Shapes::SMALL,
            ShapesArg::Tiny => Shapes::TINY,
        }
    }
}

/// `100`, `64MiB`, `5GB`: a number of bytes, decimal or binary units.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 10] = [
        ("", 1),
        ("b", 1),
        ("kb", 1_000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
    ];
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let unit = text[digits..].trim().to_ascii_lowercase();
    let factor = UNITS.iter().find(|row| row.0 == unit).map(|row| row.1);
    let bytes = text[..digits].parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
    bytes.filter(|&bytes| bytes > 0).ok_or_else(|| "a size is a number and a unit, such as 64MiB or 5GB".to_owned())
}

/// `A..B`: rows from A on, B not included.
pub fn parse_rows(text: &str) -> Result<Range<u64>, String> {
    let rows = text.split_once("..").and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
    let rows = rows.ok_or_else(|| "rows are written A..B, such as 0..16; B is not included".to_owned())?;
    if rows.start < rows.end {
        return Ok(rows);
    }
    Err(format!("{}..{} has no rows: B is not included", grouped(rows.start), grouped(rows.end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_is_sound() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(parse_bytes(text).ok(), expected, "{text}");
        check("1", Some(1));
        check("64MiB", Some(64 << 20));
        check("64 mib", Some(64 << 20));
        check("5GB", Some(5_000_000_000));
        check("0", None);
        check("", None);
        check("GB", None);
        check("-1", None);
        check("99999999999999999999", None);
        check("99999999999TiB", None);
        check("1XB", None);
    }

    #[test]
    fn rows() {
        let check = |text: &str, expected: Option<Range<u64>>| assert_eq!(parse_rows(text).ok(), expected, "{text}");
        check("0..16", Some(0..16));
        check("3..4", Some(3..4));
        check("4..4", None);
        check("5..4", None);
        check("5", None);
        check("..4", None);
        check("a..b", None);
    }
}
