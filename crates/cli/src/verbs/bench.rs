//! `netweight bench`: speed and size beside other compressors, or speed of a model beside other engines, in one run.

use std::path::{Path, PathBuf};

use netweight_bench::{
    Error, GpuModel, GpuModelOptions, KernelOptions, MatrixShape, ModelOptions, Options, measure_memory, open_gpu,
    run as measure, run_gpu_model, run_kernels, run_model,
};
use netweight_engine::DeviceChoice;
use netweight_pack::Level;
use netweight_synth::Kind as SynthKind;

use crate::args::{KindArg, LevelArg, ShapesArg, parse_bytes};
use crate::failure::{Failure, Kind};
use crate::models::{LayoutArg, PrecisionArg, parse_device, preset_device};
use crate::signals;
use crate::ui::Ui;
use crate::verbs::Outcome;

const EXAMPLES: &str = "\
Examples:
  netweight bench                                        Four synthetic data sets, all peers
  netweight bench --file Llama-3.1-8B --budget 1GiB      The first rows of a checkpoint of yours
  netweight bench --set bf16 --rounds 3 --no-peers       Seconds instead of minutes
  netweight --json bench --set bf16 > run.json
  netweight bench Llama-3.2-1B                           How fast it runs, raw and compressed, and elsewhere
  netweight bench Llama-3.2-1B --no-peers --batch 1,4,16 --layout bf16,exact11,exact12
  netweight bench Llama-3.1-8B --device cuda             The same on an NVIDIA GPU, where there are no peers
  netweight bench --random llama-8b --device cuda        A model of that size, made up on the GPU
  netweight bench --kernels --device cuda:1              Linear layers alone, beside cuBLAS

Peers are Python packages, of the codec zipnn, openzl and zstandard, of the engine llama-cpp-python with gguf, and
torch with transformers; those that --python does not have are named and left out.";

/// Measure speed and size beside other compressors, or a model's speed beside other engines
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
#[command(group = clap::ArgGroup::new("runs").args(["model", "random", "kernels"]))]
pub struct Args {
    /// Measure how fast this model runs, a checkpoint or an archive; without one, the codec is measured.
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    /// How often everything is measured [default: 7, with MODEL 5, with --kernels 25].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,
    /// Measure one thread, powers of two, and this many; with MODEL, each of these numbers, peers with the largest
    /// [default: as many as the machine runs at once; with MODEL 1 and that].
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Vec<u16>,
    /// Leave the peers out.
    #[arg(long)]
    pub no_peers: bool,
    /// Python interpreter that has the peers.
    #[arg(long, default_value = "python3", value_name = "PATH")]
    pub python: PathBuf,
    /// What of the codec to measure.
    #[command(flatten)]
    pub codec: CodecArgs,
    /// What of a model to measure.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// What of a GPU to measure.
    #[command(flatten)]
    pub gpu: GpuArgs,
}

/// Flags without MODEL.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options without MODEL")]
pub struct CodecArgs {
    /// A safetensors file, or a folder of them, to measure on; may be given several times.
    #[arg(long = "file", value_name = "PATH", conflicts_with = "runs")]
    pub files: Vec<PathBuf>,
    /// Synthetic data sets [default: all of them, or none with --file].
    #[arg(long = "set", value_name = "KIND", value_enum, value_delimiter = ',', conflicts_with = "runs")]
    pub sets: Vec<KindArg>,
    /// Measure f32 tensors of files also after rounding them to bf16.
    #[arg(long, conflicts_with = "runs")]
    pub cast_bf16: bool,
    /// Bytes that a data set may have; larger ones are cut.
    #[arg(long, default_value = "256MiB", value_name = "SIZE", value_parser = parse_bytes, conflicts_with = "runs")]
    pub budget: u64,
    /// Levels [default: all].
    #[arg(long = "level", value_name = "LEVEL", value_enum, value_delimiter = ',', conflicts_with = "runs")]
    pub levels: Vec<LevelArg>,
    /// Dimensions of the synthetic data sets.
    #[arg(long, value_enum, default_value = "8b", conflicts_with = "runs")]
    pub shapes: ShapesArg,
    /// Seed of the synthetic data sets.
    #[arg(long, default_value_t = 1, value_name = "S", conflicts_with = "runs")]
    pub seed: u64,
}

/// Flags with MODEL.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options with MODEL")]
pub struct EngineArgs {
    /// Tokens of the prompt [default: 128, on a GPU 2048].
    #[arg(long, value_name = "N", requires = "runs", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub prompt: Option<u32>,
    /// Tokens that follow, of each sequence [default: 32].
    #[arg(long, value_name = "N", requires = "runs", conflicts_with = "kernels", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub generate: Option<u32>,
    /// Sequences that are decoded together [default: 1,8, on a GPU 1,8,32].
    #[arg(long = "batch", value_name = "N", value_delimiter = ',', requires = "runs", conflicts_with = "kernels")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batches: Vec<u16>,
    /// How bf16 weights lie in memory [default: bf16 and the fastest exact layout of this CPU, or all of a GPU].
    #[arg(long = "layout", value_name = "LAYOUT", value_enum, value_delimiter = ',', requires = "runs")]
    #[arg(conflicts_with = "kernels")]
    pub layouts: Vec<LayoutArg>,
    /// What activations are rounded to, each with every layout that has it [default: bf16 for bf16 weights, else f32].
    #[arg(long, value_name = "PRECISION", value_enum, value_delimiter = ',', requires = "model")]
    pub activations: Vec<PrecisionArg>,
    /// Positions of a sequence [default: as many as are needed].
    #[arg(long, value_name = "N", requires = "runs", conflicts_with = "kernels")]
    pub context: Option<usize>,
    /// Other engines run this checkpoint, for an archive, which they cannot read.
    #[arg(long, value_name = "CHECKPOINT", requires = "model", conflicts_with = "no_peers")]
    pub peers_of: Option<PathBuf>,
    /// Keep the files that llama.cpp reads in this folder, and use those that are there already.
    #[arg(long, value_name = "DIR", requires = "model", conflicts_with = "no_peers")]
    pub gguf: Option<PathBuf>,
    /// Load and run the model once, and say how much memory this process took.
    #[arg(long, hide = true, requires = "model")]
    pub memory: bool,
}

/// Flags of GPUs.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Options of GPUs")]
pub struct GpuArgs {
    /// What computes: auto, cpu, cuda or cuda:N; auto is the first NVIDIA GPU where there is one, else the CPU
    /// [default: NETWEIGHT_DEVICE, or auto].
    #[arg(long, value_name = "DEVICE", value_parser = parse_device, requires = "runs")]
    pub device: Option<DeviceChoice>,
    /// Memory of the GPU that weights may take; the rest streams in from the host [default: all that is free].
    #[arg(long, value_name = "SIZE", value_parser = parse_bytes, requires = "runs", conflicts_with = "kernels")]
    pub gpu_memory: Option<u64>,
    /// Measure how fast a model with random weights runs, which are made on the GPU: llama-8b, or what a config.json
    /// declares.
    #[arg(long, value_name = "NAME|CONFIG")]
    pub random: Option<String>,
    /// Measure linear layers alone, by the GPU's clock, in every layout and beside the vendor's library.
    #[arg(long)]
    pub kernels: bool,
    /// Matrices to measure [default: those of a Llama of 8 billion weights].
    #[arg(long = "matrix", value_name = "ROWSxCOLS", value_delimiter = ',', requires = "kernels")]
    #[arg(value_parser = parse_matrix)]
    pub matrices: Vec<(u32, u32)>,
    /// Tokens to multiply with [default: 1,2,4,8,16,32,64].
    #[arg(long, value_name = "N", value_delimiter = ',', requires = "kernels")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=8192))]
    pub tokens: Vec<u16>,
}

/// `4096x14336`
fn parse_matrix(text: &str) -> Result<(u32, u32), String> {
    let number = |text: &str| text.parse().ok().filter(|number| (1..=1 << 20).contains(number));
    let parsed = text.split_once('x').and_then(|(rows, cols)| Some((number(rows)?, number(cols)?)));
    parsed.ok_or_else(|| "a matrix is ROWSxCOLS, each of 1 to 1048576".to_owned())
}

/// Measures, then prints the tables.
///
/// # Errors
/// Those of [`measure`] and [`run_model`].
pub fn run(args: &Args, ui: &Ui) -> Outcome {
    let device = args.gpu.device.map_or_else(preset_device, Ok)?;
    if args.gpu.kernels {
        return run_on_kernels(device, args, ui);
    }
    if let Some(name) = &args.gpu.random {
        let model = GpuModel::random(name, 1).map_err(failure)?;
        return run_on_gpu(device, model, args, ui);
    }
    if let Some(model) = &args.model {
        return match device.resolve() {
            DeviceChoice::Cuda(_) if !args.engine.memory => {
                run_on_gpu(device, GpuModel::Files(model.clone()), args, ui).map_err(|failure| failure.at(model))
            }
            _ => run_on(model, args, ui),
        };
    }
    let report = measure(&options(args)?).map_err(failure)?;
    ui.answer("bench", &report, || report.to_string())?;
    Ok(0)
}

fn run_on(model: &Path, args: &Args, ui: &Ui) -> Outcome {
    let mut options = model_options(model, args);
    let failure = |error: Error| match error {
        Error::Engine(error) => Failure::running(error).at(model),
        error => failure(error),
    };
    if args.engine.memory {
        let found = measure_memory(&options).map_err(failure)?;
        ui.answer("bench", &found, || format!("{found:?}"))?;
        return Ok(0);
    }
    options.program = std::env::current_exe().ok();
    // Files for llama.cpp are as large as the model: they must not stay behind, whatever ends the run.
    let scratch = tempfile::Builder::new().prefix("netweight-bench-").tempdir();
    let scratch = scratch.map_err(|error| Failure::io(&std::env::temp_dir(), error))?;
    signals::scratch(scratch.path());
    options.gguf.get_or_insert_with(|| scratch.path().to_path_buf());
    let report = run_model(&options).map_err(failure)?;
    ui.answer("bench", &report, || report.to_string())?;
    Ok(0)
}

fn run_on_gpu(device: DeviceChoice, model: GpuModel, args: &Args, ui: &Ui) -> Outcome {
    needs_gpu(device)?;
    let (defaults, engine) = (GpuModelOptions::new(model), &args.engine);
    if let Some(layout) = engine.layouts.iter().find(|layout| !netweight_engine::is_of_gpus(layout.0)) {
        let message = format!("a GPU has no layout {}", layout.0.name());
        return Err(Failure::new(Kind::Usage, message, "leave --layout out for all of a GPU's, or pass --device cpu"));
    }
    if !engine.activations.is_empty() || engine.peers_of.is_some() {
        let message = "--activations and --peers-of are for benchmarks of the CPU";
        return Err(Failure::new(Kind::Usage, message, "leave them out, or pass --device cpu"));
    }
    let batches: Vec<usize> = engine.batches.iter().copied().map(usize::from).collect();
    let options = GpuModelOptions {
        layouts: engine.layouts.iter().map(|layout| layout.0).collect(),
        prompt: engine.prompt.map_or(defaults.prompt, |prompt| prompt as usize),
        generate: engine.generate.map_or(defaults.generate, |generate| generate as usize),
        batches: if batches.is_empty() { defaults.batches } else { batches },
        rounds: args.rounds.map_or(defaults.rounds, usize::from),
        context: engine.context,
        gpu_memory: args.gpu.gpu_memory,
        ..defaults
    };
    let report = open_gpu(device).and_then(|gpu| run_gpu_model(&gpu, &options)).map_err(gpu_failure)?;
    ui.answer("bench", &report, || report.to_string())?;
    Ok(0)
}

fn run_on_kernels(device: DeviceChoice, args: &Args, ui: &Ui) -> Outcome {
    needs_gpu(device)?;
    let defaults = KernelOptions::default();
    let matrix = |(idx, &(rows, cols)): (usize, &(u32, u32))| MatrixShape {
        name: format!("matrix {}", idx + 1),
        rows: rows as usize,
        cols: cols as usize,
        takes_prompts: true,
    };
    let matrices: Vec<MatrixShape> = args.gpu.matrices.iter().enumerate().map(matrix).collect();
    let tokens: Vec<usize> = args.gpu.tokens.iter().copied().map(usize::from).collect();
    let options = KernelOptions {
        matrices: if matrices.is_empty() { defaults.matrices } else { matrices },
        tokens: if tokens.is_empty() { defaults.tokens } else { tokens },
        prompt: args.engine.prompt.map_or(defaults.prompt, |prompt| prompt as usize),
        rounds: args.rounds.map_or(defaults.rounds, usize::from),
        ..defaults
    };
    let report = open_gpu(device).and_then(|gpu| run_kernels(&gpu, &options)).map_err(gpu_failure)?;
    ui.answer("bench", &report, || report.to_string())?;
    Ok(0)
}

fn needs_gpu(device: DeviceChoice) -> Result<(), Failure> {
    match device {
        DeviceChoice::Cpu => {
            Err(Failure::new(Kind::Usage, "this measures a GPU", "leave --device out, or pass --device cuda"))
        }
        _ => Ok(()),
    }
}

fn options(args: &Args) -> Result<Options, Failure> {
    let (defaults, codec) = (Options::default(), &args.codec);
    let max_threads = match args.threads.as_slice() {
        [] => defaults.max_threads,
        [one] => usize::from(*one),
        _ => {
            let message = "several numbers for --threads, but no MODEL";
            return Err(Failure::new(Kind::Usage, message, "without MODEL, --threads takes the largest number"));
        }
    };
    let synthetic: Vec<SynthKind> = match (codec.sets.is_empty(), codec.files.is_empty()) {
        (true, true) => defaults.synthetic,
        _ => codec.sets.iter().map(|set| set.0).collect(),
    };
    let levels: Vec<Level> = codec.levels.iter().map(|level| level.0).collect();
    Ok(Options {
        synthetic,
        shapes: codec.shapes.shapes(),
        seed: codec.seed,
        files: codec.files.clone(),
        cast_bf16: codec.cast_bf16,
        budget_bytes: codec.budget,
        levels: if levels.is_empty() { defaults.levels } else { levels },
        rounds: args.rounds.map_or(defaults.rounds, usize::from),
        max_threads,
        peers: !args.no_peers,
        python: args.python.clone(),
    })
}

fn model_options(model: &Path, args: &Args) -> ModelOptions {
    let (defaults, engine) = (ModelOptions::new(model.to_path_buf()), &args.engine);
    let counts = |asked: &[u16], default: Vec<usize>| {
        if asked.is_empty() { default } else { asked.iter().copied().map(usize::from).collect() }
    };
    ModelOptions {
        layouts: engine.layouts.iter().map(|layout| layout.0).collect(),
        activations: engine.activations.iter().map(|precision| precision.0).collect(),
        peers_of: engine.peers_of.clone(),
        threads: counts(&args.threads, defaults.threads),
        prompt: engine.prompt.map_or(defaults.prompt, |prompt| prompt as usize),
        generate: engine.generate.map_or(defaults.generate, |generate| generate as usize),
        batches: counts(&engine.batches, defaults.batches),
        rounds: args.rounds.map_or(defaults.rounds, usize::from),
        peers: !args.no_peers,
        python: args.python.clone(),
        gguf: engine.gguf.clone(),
        context: engine.context,
        ..defaults
    }
}

/// Of what only a GPU can do.
fn gpu_failure(error: Error) -> Failure {
    let mut failure = failure(error);
    if failure.kind == Kind::Usage {
        failure.hint = Some("this measures a GPU; `netweight bench MODEL --device cpu` measures the CPU".to_owned());
    }
    failure
}

fn failure(error: Error) -> Failure {
    const FETCH: &str = "name a .safetensors file, or a folder with such files, with --file";
    const REPORT: &str = "this must not happen: please report it with the file it happens on";
    match error {
        Error::Io { path, source } => Failure::io(&path, source),
        Error::Engine(error) => Failure::running(error),
        Error::NotSafetensors { path, what } => {
            Failure::new(Kind::Input, format!("not a safetensors file: {what}"), FETCH).at(&path)
        }
        error @ Error::Empty(_) => Failure::new(Kind::Input, error.to_string(), FETCH),
        error => Failure::new(Kind::Damaged, error.to_string(), REPORT),
    }
}
