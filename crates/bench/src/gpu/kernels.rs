//! Linear layers on a GPU, shape by shape. Next in the flow: kernels_table.rs prints what comes out.

use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::measure::{Bandwidth, Effort, Linears, Setup, Timing, Way, bandwidth};
use netweight_kernels_cuda::{Device, Layout, Loader, Result as GpuResult};
use serde::Serialize;

use crate::machine::Machine;
use crate::options::Error;
use crate::stats::Spread;

/// Times that weights stand in memory, at most.
const MAX_COPIES: usize = 64;
/// Seconds after which a comparison begins no further round.
const MOST_SECONDS: f64 = 0.5;

/// A matrix to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixShape {
    /// Name in tables.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Whether a prompt runs through it with all its tokens; logits are computed of the last one alone.
    pub takes_prompts: bool,
}

/// What to measure of a GPU's kernels.
#[derive(Clone, Debug)]
pub struct KernelOptions {
    /// The matrices.
    pub matrices: Vec<MatrixShape>,
    /// Numbers of tokens, each at least 1.
    pub tokens: Vec<usize>,
    /// Tokens of a prompt.
    pub prompt: usize,
    /// How often everything is measured; at least 1.
    pub rounds: usize,
    /// Bytes of memory to read and copy; `None`: more than any cache holds.
    pub memory_bytes: Option<usize>,
}

impl Default for KernelOptions {
    /// Those of a Llama of 8 billion weights.
    fn default() -> KernelOptions {
        let shapes = [
            ("qkv", 6144, 4096),
            ("o", 4096, 4096),
            ("gate_up", 28672, 4096),
            ("down", 4096, 14336),
            ("lm_head", 128_256, 4096),
        ];
        let matrix = |(name, rows, cols): (&str, usize, usize)| MatrixShape {
            name: name.to_owned(),
            rows,
            cols,
            takes_prompts: name != "lm_head",
        };
        KernelOptions {
            matrices: shapes.into_iter().map(matrix).collect(),
            tokens: vec![1, 2, 4, 8, 16, 32, 64],
            prompt: 2048,
            rounds: 25,
            memory_bytes: None,
        }
    }
}

/// A GPU, as its driver describes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gpu {
    /// Its name.
    pub name: String,
    /// As `9.0`.
    pub compute_capability: String,
    /// As `13.0`: the CUDA that its driver is for.
    pub driver: String,
    /// Multiprocessors.
    pub n_multiprocessors: u32,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the second-level cache.
    pub l2_bytes: u64,
}

impl Gpu {
    /// The one that a device is.
    pub fn of(device: &Device) -> Gpu {
        let properties = device.properties();
        let dotted = |[major, minor]: [u32; 2]| format!("{major}.{minor}");
        Gpu {
            name: properties.name.clone(),
            compute_capability: dotted(properties.compute_capability),
            driver: dotted(properties.driver_version),
            n_multiprocessors: properties.n_multiprocessors,
            memory_bytes: properties.memory_bytes,
            l2_bytes: properties.l2_bytes,
        }
    }
}

/// How fast memory is, in GB per second.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MemoryRate {
    /// Bytes that were read, and that were copied.
    pub n_bytes: usize,
    /// Reading.
    pub read: Spread,
    /// Copying; bytes read and bytes written both count.
    pub copy: Spread,
}

/// What a run on kernels found.
#[derive(Clone, Debug, Serialize)]
pub struct KernelReport {
    /// Version of netweight.
    pub version: String,
    /// The GPU.
    pub gpu: Gpu,
    /// Where and when.
    pub machine: Machine,
    /// Rounds that medians are of, at most.
    pub rounds: usize,
    /// Whether the vendor's library is there.
    pub has_vendor: bool,
    /// Its memory.
    pub memory: MemoryRate,
    /// Linear layers.
    pub linear: Vec<LinearRow>,
    /// Decoding to bf16.
    pub decode: Vec<DecodeRow>,
    /// Prompts.
    pub prefill: Vec<PrefillRow>,
}

/// A linear layer with some tokens, in one way.
#[derive(Clone, Debug, Serialize)]
pub struct LinearRow {
    /// Name of the matrix.
    pub matrix: String,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub cols: usize,
    /// Tokens.
    pub n_tokens: usize,
    /// `bf16`, an exact layout, or `vendor bf16`.
    pub way: String,
    /// Microseconds.
    pub microseconds: Spread,
    /// GB of stored weights per second.
    pub gigabytes_per_second: f64,
    /// The same over what reading memory reaches.
    pub of_read: f64,
    /// Times as fast as the better of our bf16 and the vendor's; of exact layouts.
    pub of_raw: Option<f64>,
}

/// Decoding a matrix to bf16 in memory.
#[derive(Clone, Debug, Serialize)]
pub struct DecodeRow {
    /// Name of the matrix.
    pub matrix: String,
    /// Layout that is decoded.
    pub layout: String,
    /// Microseconds.
    pub microseconds: Spread,
    /// GB of bf16 written per second.
    pub gigabytes_per_second: f64,
}

/// A matrix with all tokens of a prompt: the vendor's library on bf16, and on what is decoded for it.
#[derive(Clone, Debug, Serialize)]
pub struct PrefillRow {
    /// Name of the matrix.
    pub matrix: String,
    /// Layout that is decoded.
    pub layout: String,
    /// Tokens.
    pub n_tokens: usize,
    /// Microseconds with decoding.
    pub microseconds: Spread,
    /// Microseconds on bf16 as it is.
    pub raw_microseconds: Spread,
    /// What decoding adds, over the latter.
    pub overhead: f64,
}

/// Measures a GPU's kernels.
///
/// # Errors
/// The driver's, and where memory is short.
pub fn run_kernels(device: &Device, options: &KernelOptions) -> Result<KernelReport, Error> {
    measure(device, options).map_err(|error| Error::Engine(error.into()))
}

fn measure(device: &Device, options: &KernelOptions) -> GpuResult<KernelReport> {
    let effort = Effort { rounds: options.rounds.max(1), seconds: MOST_SECONDS };
    let memory = bandwidth(device, options.memory_bytes, effort)?;
    let mut report = KernelReport {
        version: env!("CARGO_PKG_VERSION").into(),
        gpu: Gpu::of(device),
        machine: Machine::here(),
        rounds: effort.rounds,
        has_vendor: false,
        memory: memory_rate(&memory),
        linear: Vec::new(),
        decode: Vec::new(),
        prefill: Vec::new(),
    };
    let mut loader = Loader::new(device)?;
    for (idx, matrix) in options.matrices.iter().enumerate() {
        let shape = Shape { rows: matrix.rows, cols: matrix.cols };
        let prompt = if matrix.takes_prompts { options.prompt } else { 0 };
        let max_tokens = options.tokens.iter().copied().chain([prompt, 1]).max().unwrap_or(1);
        let setup = Setup { max_tokens, max_copies: MAX_COPIES, seed: idx as u64 };
        let linears = Linears::new(device, &mut loader, shape, setup)?;
        for &n_tokens in &options.tokens {
            report.linear(matrix, &linears, n_tokens.max(1), effort)?;
        }
        report.decode(matrix, &linears, effort)?;
        if prompt > 0 {
            report.prefill(matrix, &linears, prompt, effort)?;
        }
    }
    Ok(report)
}

/// In GB per second.
pub(crate) fn memory_rate(memory: &Bandwidth) -> MemoryRate {
    let gigabytes = |n_bytes: usize, timing: Timing| rates(n_bytes as f64 / 1e9, timing);
    MemoryRate {
        n_bytes: memory.n_bytes,
        read: gigabytes(memory.n_bytes, memory.read),
        copy: gigabytes(2 * memory.n_bytes, memory.copy),
    }
}

/// Microseconds of a call.
fn microseconds(timing: Timing) -> Spread {
    Spread { median: 1e6 * timing.seconds, min: 1e6 * timing.least, max: 1e6 * timing.most }
}

/// `amount` per second.
fn rates(amount: f64, timing: Timing) -> Spread {
    let per_second = |seconds: f64| amount / seconds.max(1e-12);
    Spread { median: per_second(timing.seconds), min: per_second(timing.most), max: per_second(timing.least) }
}

fn exact() -> impl Iterator<Item = Layout> {
    Layout::ALL.into_iter().filter(|&layout| layout != Layout::Rows)
}

impl KernelReport {
    fn linear(&mut self, matrix: &MatrixShape, linears: &Linears, n_tokens: usize, effort: Effort) -> GpuResult<()> {
        let vendor = Way::Vendor(Layout::Rows);
        let ways: Vec<Way> = Layout::ALL.into_iter().map(Way::Fused).chain([vendor]).collect();
        let timings = linears.time(n_tokens, &ways, effort)?;
        let raw =
            ways.iter().zip(&timings).filter(|(way, _)| matches!(way, Way::Fused(Layout::Rows)) || **way == vendor);
        let raw = raw.filter_map(|(_, timing)| *timing).map(|timing| timing.seconds).fold(f64::INFINITY, f64::min);
        for (way, timing) in ways.into_iter().zip(timings) {
            let Some(timing) = timing else { continue };
            let (Way::Fused(layout) | Way::Vendor(layout)) = way;
            let n_bytes = linears.layouts().find(|(of, _)| *of == layout).map_or(0, |(_, n_bytes)| n_bytes);
            let gigabytes_per_second = rates(n_bytes as f64 / 1e9, timing).median;
            self.has_vendor |= way == vendor;
            self.linear.push(LinearRow {
                matrix: matrix.name.clone(),
                rows: matrix.rows,
                cols: matrix.cols,
                n_tokens,
                way: if way == vendor { "vendor bf16".to_owned() } else { layout.name().to_owned() },
                microseconds: microseconds(timing),
                gigabytes_per_second,
                of_read: gigabytes_per_second / self.memory.read.median,
                of_raw: (layout != Layout::Rows).then(|| raw / timing.seconds.max(1e-12)),
            });
        }
        Ok(())
    }

    fn decode(&mut self, matrix: &MatrixShape, linears: &Linears, effort: Effort) -> GpuResult<()> {
        for layout in exact() {
            let Some(timing) = linears.time_decode(layout, effort)? else { continue };
            self.decode.push(DecodeRow {
                matrix: matrix.name.clone(),
                layout: layout.name().to_owned(),
                microseconds: microseconds(timing),
                gigabytes_per_second: rates(linears.decoded_bytes() as f64 / 1e9, timing).median,
            });
        }
        Ok(())
    }

    fn prefill(&mut self, matrix: &MatrixShape, linears: &Linears, n_tokens: usize, effort: Effort) -> GpuResult<()> {
        let ways: Vec<Way> = Layout::ALL.into_iter().map(Way::Vendor).collect();
        let timings = linears.time(n_tokens, &ways, effort)?;
        let Some(raw) = timings[0] else { return Ok(()) };
        for (layout, timing) in Layout::ALL.into_iter().zip(timings).skip(1) {
            let Some(timing) = timing else { continue };
            self.prefill.push(PrefillRow {
                matrix: matrix.name.clone(),
                layout: layout.name().to_owned(),
                n_tokens,
                microseconds: microseconds(timing),
                raw_microseconds: microseconds(raw),
                overhead: timing.seconds / raw.seconds.max(1e-12) - 1.0,
            });
        }
        Ok(())
    }
}
