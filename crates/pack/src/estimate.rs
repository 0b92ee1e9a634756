//! What compressing would bring, from a sample: chunks spread over all tensors, coded and thrown away.

use std::collections::HashSet;
use std::path::Path;
use std::time::{Duration, Instant};

use netweight_codec::Level;
use netweight_container::{Checkpoint, Error, Header, InputFile, Result};
use netweight_tensor::Dtype;
use rayon::prelude::*;
use serde::Serialize;

use crate::Progress;
use crate::chunk::{self, CodedChunk};
use crate::coding::Coding;
use crate::progress::check_interrupted;
use crate::shard_file::is_archive;
use crate::workers::Workers;

/// How [`estimate`] works.
#[derive(Clone, Debug)]
pub struct EstimateOptions {
    /// The level to estimate for.
    pub level: Level,
    /// Threads; 0 for as many as the machine runs at once.
    pub threads: usize,
    /// Stop sampling after this many seconds.
    pub max_seconds: f64,
}

impl Default for EstimateOptions {
    fn default() -> EstimateOptions {
        EstimateOptions { level: Level::Default, threads: 0, max_seconds: 2.0 }
    }
}

/// What [`estimate`] predicts.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Estimate {
    /// Size of the checkpoint in bytes.
    pub original_bytes: u64,
    /// Bytes of it that were coded.
    pub sampled_bytes: u64,
    /// Size that the archive will have, in bytes; tied tensors, which may save more, are not looked for.
    pub predicted_bytes: u64,
    /// `predicted_bytes` divided by `original_bytes`.
    pub ratio: f64,
    /// `original_bytes` less `predicted_bytes`, 0 at least.
    pub saving_bytes: u64,
    /// Speed of coding the sample, with checking, on all threads.
    pub encode_bytes_per_second: f64,
    /// Time that compressing will take where the disks keep up.
    pub predicted_seconds: f64,
    /// Whether it saves at least 5 %.
    pub worth_it: bool,
    /// What to do, for people.
    pub advice: String,
}

/// Below this saving an archive is more trouble than it is worth.
const WORTH_IT: f64 = 0.05;

/// Predicts the size and the time of compressing a checkpoint.
///
/// # Errors
/// `InvalidArgument` where it is no checkpoint, or an archive already; `Truncated`, `Corrupt`, `Io`.
pub fn estimate(source: &Path, options: &EstimateOptions, progress: &dyn Progress) -> Result<Estimate> {
    let checkpoint = Checkpoint::discover(source)?;
    let workers = Workers::new(options.threads, options.level)?;
    let layout = Layout::read(&checkpoint, options.level)?;
    progress.start(layout.n_bytes);
    let sample = layout.sample(&workers, options, progress)?;
    let original_bytes: u64 = checkpoint.files.iter().map(|file| file.bytes).sum();
    Ok(predict(original_bytes, layout.n_bytes, &sample))
}

/// Where the chunks of a checkpoint's tensors lie.
struct Layout {
    inputs: Vec<InputFile>,
    runs: Vec<Tensor>, // in order; `before` ascending
    n_bytes: u64,
    chunk_bytes: u64,
}

struct Tensor {
    input_idx: usize,
    dtype: Dtype,
    /// Offset in its file.
    start: u64,
    len_bytes: u64,
    /// Bytes of all tensors before it.
    before: u64,
}

#[derive(Default)]
struct Sample {
    bytes: u64,
    stored_bytes: u64,
    seconds: f64,
}

impl Layout {
    fn read(checkpoint: &Checkpoint, level: Level) -> Result<Layout> {
        let chunk_bytes = level.chunk_bytes() as u64;
        let mut layout = Layout { inputs: Vec::new(), runs: Vec::new(), n_bytes: 0, chunk_bytes };
        for file in checkpoint.shards() {
            let input = InputFile::open(&file.path)?;
            let (header, _) = Header::read(&input)?;
            if checkpoint.is_archive_folder() || is_archive(&header) {
                return Err(Error::invalid("is a netweight archive already").in_file(&file.path));
            }
            for entry in header.tensors.iter().filter(|entry| entry.start < entry.end) {
                let (start, len_bytes) = (header.header_bytes + entry.start, entry.len_bytes());
                let input_idx = layout.inputs.len();
                layout.runs.push(Tensor { input_idx, dtype: entry.dtype, start, len_bytes, before: layout.n_bytes });
                layout.n_bytes += len_bytes;
            }
            layout.inputs.push(input);
        }
        Ok(layout)
    }

    /// Codes chunks at positions that fill the checkpoint ever more evenly (multiples of the golden ratio).
    fn sample(&self, workers: &Workers, options: &EstimateOptions, progress: &dyn Progress) -> Result<Sample> {
        let begin = Instant::now();
        let limit = Duration::try_from_secs_f64(options.max_seconds).unwrap_or(Duration::MAX);
        let most_chunks = self.n_bytes.div_ceil(self.chunk_bytes).saturating_mul(2).min(1 << 20);
        let mut positions = (0..most_chunks).map(|step| {
            let fraction = (step + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((u128::from(fraction) * u128::from(self.n_bytes)) >> 64) as u64
        });
        let (mut sample, mut seen) = (Sample::default(), HashSet::new());
        loop {
            let group = positions.by_ref().take(4 * workers.n_threads());
            let group: Vec<(usize, u64)> = group.filter_map(|position| self.chunk_at(position)).collect();
            if group.is_empty() {
                break;
            }
            let group: Vec<(usize, u64)> = group.into_iter().filter(|chunk| seen.insert(*chunk)).collect();
            let sizes: Result<Vec<(u64, u64)>> = workers
                .run(|| group.par_iter().map(|&(run_idx, offset)| self.code(workers, run_idx, offset)).collect());
            for (bytes, stored_bytes) in sizes? {
                sample.bytes += bytes;
                sample.stored_bytes += stored_bytes;
                progress.advance(bytes);
            }
            check_interrupted(progress)?;
            if begin.elapsed() >= limit {
                break;
            }
        }
        sample.seconds = begin.elapsed().as_secs_f64();
        Ok(sample)
    }

    /// The tensor at a position, and the offset in it of the chunk there.
    fn chunk_at(&self, position: u64) -> Option<(usize, u64)> {
        let run_idx = self.runs.partition_point(|run| run.before <= position).checked_sub(1)?;
        let offset = position - self.runs[run_idx].before;
        Some((run_idx, offset / self.chunk_bytes * self.chunk_bytes))
    }

    /// Codes a chunk; gives its size and its coded size with its directory entry, in bytes.
    fn code(&self, workers: &Workers, run_idx: usize, offset: u64) -> Result<(u64, u64)> {
        let run = &self.runs[run_idx];
        let len_bytes = (run.len_bytes - offset).min(self.chunk_bytes);
        let raw = self.inputs[run.input_idx].read_vec(run.start + offset, len_bytes)?;
        let mut coded = CodedChunk::default();
        workers.with(|worker| chunk::encode(worker, &Coding::Chunks(run.dtype), 0, &raw, true, &mut coded))?;
        Ok((len_bytes, coded.bytes.len() as u64 + 12))
    }
}

fn predict(original_bytes: u64, tensor_bytes: u64, sample: &Sample) -> Estimate {
    let sampled = sample.bytes.max(1) as f64;
    let tensors = if sample.bytes == 0 { 0.0 } else { tensor_bytes as f64 * sample.stored_bytes as f64 / sampled };
    let predicted_bytes = (original_bytes - tensor_bytes).saturating_add(tensors as u64);
    let ratio = if original_bytes == 0 { 1.0 } else { predicted_bytes as f64 / original_bytes as f64 };
    let encode_bytes_per_second = sample.bytes as f64 / sample.seconds.max(1e-9);
    let predicted_seconds = original_bytes as f64 / encode_bytes_per_second.max(1.0);
    let worth_it = 1.0 - ratio >= WORTH_IT;
    let advice = if worth_it {
        format!("Compress it: about {:.1} % smaller.", (1.0 - ratio) * 100.0)
    } else {
        "Leave it as it is: its weights are already close to as small as they get without loss, as quantised \
         weights are."
            .to_owned()
    };
    Estimate {
        original_bytes,
        sampled_bytes: sample.bytes,
        predicted_bytes,
        ratio,
        saving_bytes: original_bytes.saturating_sub(predicted_bytes),
        encode_bytes_per_second,
        predicted_seconds,
        worth_it,
        advice,
    }
}
