//! Models for the verbs that run one: the flags that say how, and the way from a path to a model that is ready.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clap::builder::PossibleValue;
use netweight_engine::{AnyDecoder, DeviceChoice, Interrupt, LoadOptions, LoadReport, Store, Tokenizer};
use netweight_kernels_cpu::Precision;
use netweight_layout::Layout;
use netweight_pack::Progress;
use serde_json::{Value, json};

use crate::bar::Bar;
use crate::failure::{Failure, Kind};
use crate::ui::Ui;
use crate::units::{bytes, duration};

/// What computes.
#[derive(Clone, Debug, clap::Args)]
pub struct DeviceArgs {
    /// What computes: auto, cpu, cuda or cuda:N; auto is the first NVIDIA GPU where there is one, else the CPU.
    #[arg(long, env = "NETWEIGHT_DEVICE", default_value = "auto", value_name = "DEVICE", value_parser = parse_device)]
    pub device: DeviceChoice,
    /// Memory of the GPU that weights may take; the rest streams in from the host [default: all that is free].
    #[arg(long, value_name = "SIZE", value_parser = crate::args::parse_bytes)]
    pub gpu_memory: Option<u64>,
}

/// `auto`, `cpu`, `cuda`, `cuda:1`
///
/// # Errors
/// Anything else.
pub fn parse_device(text: &str) -> Result<DeviceChoice, String> {
    match text.split_once(':') {
        None if text.is_empty() || text == "auto" => Ok(DeviceChoice::Auto),
        None if text == "cpu" => Ok(DeviceChoice::Cpu),
        None if text == "cuda" => Ok(DeviceChoice::Cuda(0)),
        Some(("cuda", number)) => number.parse().map(DeviceChoice::Cuda).map_err(|_| "cuda:N has a number".to_owned()),
        _ => Err("a device is auto, cpu, cuda or cuda:N".to_owned()),
    }
}

/// The device where a command line names none.
///
/// # Errors
/// Where `NETWEIGHT_DEVICE` is not one.
pub fn preset_device() -> Result<DeviceChoice, Failure> {
    let preset = std::env::var("NETWEIGHT_DEVICE").ok();
    preset.map_or(Ok(DeviceChoice::Auto), |text| {
        let wrong = |what| {
            Failure::new(Kind::Usage, format!("NETWEIGHT_DEVICE is {text}: {what}"), "unset it, or pass --device")
        };
        parse_device(&text).map_err(wrong)
    })
}

/// How to run a model.
#[derive(Clone, Debug, clap::Args)]
pub struct ModelArgs {
    /// What computes.
    #[command(flatten)]
    pub where_to: DeviceArgs,
    /// Threads of the CPU; 0 for as many as the machine runs at once.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u16).range(..=1024))]
    pub threads: u16,
    /// How bf16 weights lie in memory; the logits are the same [default: the fastest exact one of the device].
    #[arg(long, value_enum, value_name = "LAYOUT")]
    pub layout: Option<LayoutArg>,
    /// What activations are rounded to where they enter a linear layer [default: bf16 for bf16 weights, else f32].
    #[arg(long, value_enum, value_name = "PRECISION")]
    pub activations: Option<PrecisionArg>,
    /// Tokens of context [default: the model's, at most 8192].
    #[arg(long, value_name = "N")]
    pub context: Option<usize>,
}

impl ModelArgs {
    /// As options of the engine.
    pub fn options(&self) -> LoadOptions {
        LoadOptions {
            device: self.where_to.device,
            gpu_memory: self.where_to.gpu_memory,
            n_threads: usize::from(self.threads),
            layout: self.layout.map(|layout| layout.0),
            precision: self.activations.map(|precision| precision.0),
            max_positions: self.context,
            ..LoadOptions::default()
        }
    }
}

/// `--layout`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutArg(pub Layout);

impl ValueEnum for LayoutArg {
    fn value_variants<'a>() -> &'a [LayoutArg] {
        const ALL: [LayoutArg; 8] = [
            LayoutArg(Layout::Exact11),
            LayoutArg(Layout::Exact12),
            LayoutArg(Layout::Bf16),
            LayoutArg(Layout::F32),
            LayoutArg(Layout::Index8),
            LayoutArg(Layout::Index4),
            LayoutArg(Layout::Index3),
            LayoutArg(Layout::Int4),
        ];
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Layout::Exact11 => "some 11.2 bits a weight, exact",
            Layout::Exact12 => "some 12 bits a weight, exact",
            Layout::Bf16 => "16 bits, as they are",
            Layout::Index8 => "8 bits, of tuned tensors",
            Layout::Index4 => "4 bits and escapes, of tuned tensors",
            Layout::Index3 => "3 bits and escapes, of tuned tensors",
            Layout::Int4 => "4 bits, of tuned tensors without larger indices",
            _ => "32 bits, widened",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// `--activations`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrecisionArg(pub Precision);

impl ValueEnum for PrecisionArg {
    fn value_variants<'a>() -> &'a [PrecisionArg] {
        &[PrecisionArg(Precision::Bf16), PrecisionArg(Precision::F32), PrecisionArg(Precision::Int8)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self.0 {
            Precision::Bf16 => "as engines do that compute in bf16; faster on some CPUs",
            Precision::F32 => "not at all",
            Precision::Int8 => "of tuned tensors on the CPU, 64 columns together: faster, and other logits",
        };
        Some(PossibleValue::new(self.0.name()).help(help))
    }
}

/// A model that is ready to run.
pub struct Loaded {
    /// Where its files are.
    pub store: Store,
    /// The model.
    pub decoder: AnyDecoder,
}

/// Opens the model at `path`.
///
/// # Errors
/// Where there are no weights, in words.
pub fn open(path: &Path) -> Result<Store, Failure> {
    Store::open(path).map_err(|error| Failure::running(error.into()))
}

/// Loads the model of an open store.
///
/// # Errors
/// What keeps it from running, in words.
pub fn load_from(store: Store, options: &LoadOptions, interrupt: &Interrupt, ui: &Ui) -> Result<Loaded, Failure> {
    let bar = Bar::new(ui, "load");
    bar.start(store.original_bytes());
    let decoder = AnyDecoder::load(&store, options, interrupt, &|n_bytes| bar.advance(n_bytes));
    let decoder = decoder.map_err(|error| Failure::running(error).at(store.path()))?;
    Ok(Loaded { store, decoder })
}

/// The tokenizer of a model, which must be one for its vocabulary.
///
/// # Errors
/// `Input` where there is none, or it is another model's.
pub fn tokenizer(store: &Store, vocab_size: usize) -> Result<Tokenizer, Failure> {
    let mut tokenizer = Tokenizer::read(store).map_err(|error| Failure::running(error).at(store.path()))?;
    let other = |error: netweight_engine::Error| Failure::new(Kind::Input, error.to_string(), "it is another model's");
    tokenizer.check_fits(vocab_size).map_err(|error| other(error).at(store.path()))?;
    Ok(tokenizer)
}

/// A text file whole, or standard input for `-`.
///
/// # Errors
/// `Io`.
pub fn read_text(path: &PathBuf) -> Result<String, Failure> {
    if path.as_os_str() == "-" {
        return std::io::read_to_string(std::io::stdin()).map_err(|error| Failure::io(path, error));
    }
    std::fs::read_to_string(path).map_err(|error| Failure::io(path, error))
}

/// One line about a load.
pub fn loaded_line(report: &LoadReport) -> String {
    let layouts: Vec<&str> = report.layouts.iter().map(|(layout, _)| layout.name()).collect();
    let streamed = match report.streamed_bytes {
        0 => String::new(),
        n_bytes => format!(", of which {} stay in the host's and stream in", bytes(n_bytes)),
    };
    let device = match report.n_threads {
        0 => report.isa.clone(),
        n => format!("{} with {}", report.isa, crate::units::counted(n as u64, "thread")),
    };
    let notes: String = report.notes.iter().map(|note| format!("\n{note}")).collect();
    format!(
        "{:.2} M weights as {}, {:.2} bits each, {} in memory{}, loaded in {}; {}{notes}",
        report.n_weights as f64 / 1e6,
        layouts.join(" and "),
        report.bits_per_weight(),
        bytes(report.matrix_bytes),
        streamed,
        duration(report.seconds),
        device,
    )
}

/// The same in JSON.
pub fn loaded_json(report: &LoadReport) -> Value {
    json!({
        "n_weights": report.n_weights,
        "matrix_bytes": report.matrix_bytes,
        "original_bytes": report.original_bytes,
        "bits_per_weight": report.bits_per_weight(),
        "layouts": report.layouts.iter().map(|(layout, n)| json!({ "layout": layout.name(), "n_weights": n })).collect::<Vec<_>>(),
        "seconds": report.seconds,
        "n_threads": report.n_threads,
        "isa": report.isa,
        "streamed_bytes": report.streamed_bytes,
        "notes": report.notes,
        "activations": report.precision.name(),
    })
}
