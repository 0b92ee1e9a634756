//! What is in a checkpoint or an archive: each tensor, how it is stored, and how small it could get.

use std::collections::BTreeMap;
use std::path::Path;

use netweight_codec::{Bound, BoundReport, Level};
use netweight_container::{
    Checkpoint, Context, Entry, FOLDER_MANIFEST_NAME, FolderFile, Header, InputFile, Mode, Result, SameAs,
};
use rayon::prelude::*;
use serde::Serialize;

use crate::Progress;
use crate::archive::{Archive, ArchiveShard};
use crate::chunk;
use crate::progress::check_interrupted;
use crate::shard_file::is_archive;
use crate::workers::Workers;

/// How [`inspect`] works.
#[derive(Clone, Debug, Default)]
pub struct InspectOptions {
    /// Threads; 0 for as many as the machine runs at once.
    pub threads: usize,
    /// Go through all elements for `bound_bits`, `joint_bits` and `exponents`.
    pub bounds: bool,
}

/// What [`inspect`] found.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Inspection {
    /// The path as given.
    pub path: String,
    /// Whether it is a checkpoint or an archive.
    pub kind: InspectedKind,
    /// For an archive: its format version, the largest of its shards.
    pub format: Option<u32>,
    /// For an archive: the level it was written at.
    pub level: Option<String>,
    /// For an archive: the resident layout that some of its tensors lie in.
    pub resident: Option<String>,
    /// For an archive that has one: what gives the original back.
    pub refinement: Option<InspectedRefinement>,
    /// The tensors, by shard and offset.
    pub tensors: Vec<TensorReport>,
    /// Sums over the tensors.
    pub totals: Totals,
}

/// The refinement of a tuned archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct InspectedRefinement {
    /// Files that belong to it.
    pub n_files: u64,
    /// Those that are there.
    pub n_here: u64,
    /// Their size in bytes.
    pub bytes: u64,
}

/// What was inspected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum InspectedKind {
    /// Plain safetensors files.
    Checkpoint,
    /// An archive.
    Archive,
}

/// One tensor.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Relative path of its shard; the file name for a single file.
    pub shard: String,
    /// Its dtype as the header spells it.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<u64>,
    /// Product of the dimensions.
    pub n_elements: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// For an archive: size of its payload in bytes; 0 for a tied tensor; `None` in an opaque shard.
    pub stored_bytes: Option<u64>,
    /// For an archive: how its chunks are coded, `half 6: raw + rans8`, the name of a resident layout, or
    /// `grid: rans12`; where they
    /// differ, the commonest way and how many chunks of how many use it. Empty for a checkpoint and for what has no chunks.
    pub coder: String,
    /// For an archive: the resident layout that it is stored in; for a tied tensor, that its bytes are stored in, if
    /// as a matrix of the same shape.
    pub layout: Option<&'static str>,
    /// For an archive: stored bits per element.
    pub bits_per_element: Option<f64>,
    /// Bits per element with the exponent coded at its order-0 entropy; byte types: every byte plane.
    pub bound_bits: Option<f64>,
    /// Bits per element with the top 16 bits together coded at their order-0 entropy; byte types: as `bound_bits`.
    pub joint_bits: Option<f64>,
    /// Floats: the exponent fields that occur and how often, ascending.
    pub exponents: Vec<(u16, u64)>,
    /// For a tied tensor: the tensor that holds its bytes, `name` or `shard: name`.
    pub same_as: Option<String>,
}

/// Sums over all tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Tensors' bytes.
    pub bytes: u64,
    /// For an archive: payloads' bytes.
    pub stored_bytes: Option<u64>,
    /// Bytes at `bound_bits`; tied tensors count nothing.
    pub bound_bytes: Option<f64>,
    /// Bytes at `joint_bits`; tied tensors count nothing.
    pub joint_bytes: Option<f64>,
}

/// Describes a checkpoint or an archive, file or folder.
///
/// # Errors
/// `InvalidArgument` where it is neither; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
pub fn inspect(path: &Path, options: &InspectOptions, progress: &dyn Progress) -> Result<Inspection> {
    let workers = Workers::new(options.threads, Level::Default)?;
    let mut inspection = Inspection {
        path: path.display().to_string(),
        kind: if is_archive_at(path)? { InspectedKind::Archive } else { InspectedKind::Checkpoint },
        format: None,
        level: None,
        resident: None,
        refinement: None,
        tensors: Vec::new(),
        totals: Totals::default(),
    };
    let run = Run { workers: &workers, bounds: options.bounds, progress };
    match inspection.kind {
        InspectedKind::Archive => run.archive(path, &mut inspection)?,
        InspectedKind::Checkpoint => run.checkpoint(path, &mut inspection)?,
    }
    Ok(inspection)
}

/// Whether there is an archive, folder or shard, at `path`.
fn is_archive_at(path: &Path) -> Result<bool> {
    if std::fs::metadata(path).in_file(path)?.is_dir() {
        return Ok(path.join(FOLDER_MANIFEST_NAME).exists());
    }
    let (header, _) = Header::read(&InputFile::open(path)?)?;
    Ok(is_archive(&header))
}

struct Run<'a> {
    workers: &'a Workers,
    bounds: bool,
    progress: &'a dyn Progress,
}

impl Run<'_> {
    fn checkpoint(&self, path: &Path, inspection: &mut Inspection) -> Result<()> {
        let checkpoint = Checkpoint::discover(path)?;
        self.progress.start(checkpoint.shards().map(|file| file.bytes).sum());
        for file in checkpoint.shards() {
            let input = InputFile::open(&file.path)?;
            let (header, _) = Header::read(&input)?;
            for entry in &header.tensors {
                let mut report = tensor_report(&file.relative, entry);
                let start = header.header_bytes + entry.start;
                let bound = self.bound(entry, |offset, raw| input.read_exact_at(start + offset, raw))?;
                self.push(inspection, &mut report, bound, None);
                check_interrupted(self.progress)?;
            }
        }
        Ok(())
    }

    fn archive(&self, path: &Path, inspection: &mut Inspection) -> Result<()> {
        let archive = Archive::open(path)?;
        for relative in archive.folder().into_iter().flat_map(|folder| &folder.files).filter_map(FolderFile::refinement)
        {
            let here = std::fs::metadata(path.join(relative)).ok();
            let found = inspection.refinement.get_or_insert_default();
            found.n_files += 1;
            found.n_here += u64::from(here.is_some());
            found.bytes += here.map_or(0, |about| about.len());
        }
        inspection.format = archive.shards().map(|(_, shard)| shard.file.manifest.format()).max();
        self.progress.start(archive.shards().map(|(_, shard)| shard.original_bytes()).sum());
        for (relative, shard) in archive.shards() {
            inspection.level = Some(shard.level().to_owned());
            if let Some(resident) = &shard.file.manifest.resident {
                inspection.resident = Some(resident.layout.clone());
            }
            for (tensor_idx, entry) in shard.tensors().iter().enumerate() {
                let mut report = tensor_report(relative, entry);
                let start = shard.header().header_bytes + entry.start;
                report.same_as = shard.file.manifest.same_as.get(&entry.name).map(tie);
                let counts = report.same_as.is_none();
                let is_bound = self.bounds && counts;
                let read = |offset, raw: &mut [u8]| shard.read_range(start + offset, raw);
                let bound = if is_bound { self.bound(entry, read)? } else { None };
                if shard.mode() != Mode::Opaque {
                    report.layout = shard.resident_at(tensor_idx).map(|resident| resident.layout.name());
                    report.stored_bytes = Some(shard.file.payloads[tensor_idx].stored_bytes());
                    report.coder = self.coder(shard, tensor_idx).in_tensor(&entry.name)?;
                }
                let stored_bytes = report.stored_bytes;
                self.push(inspection, &mut report, bound, stored_bytes);
                check_interrupted(self.progress)?;
            }
            if shard.mode() == Mode::Opaque {
                *inspection.totals.stored_bytes.get_or_insert(0) += shard.file.payload_bytes();
            }
        }
        Ok(())
    }

    fn push(
        &self,
        inspection: &mut Inspection,
        report: &mut TensorReport,
        bound: Option<BoundReport>,
        stored_bytes: Option<u64>,
    ) {
        let n_elements = report.n_elements as f64;
        let per_element = |bits: f64| (n_elements > 0.0).then(|| bits / n_elements);
        let totals = &mut inspection.totals;
        totals.bytes += report.bytes;
        if let Some(stored_bytes) = stored_bytes {
            *totals.stored_bytes.get_or_insert(0) += stored_bytes;
            report.bits_per_element = per_element(stored_bytes as f64 * 8.0);
        }
        if let Some(bound) = bound {
            *totals.bound_bytes.get_or_insert(0.0) += bound.bound_bits / 8.0;
            *totals.joint_bytes.get_or_insert(0.0) += bound.joint_bits / 8.0;
            report.bound_bits = per_element(bound.bound_bits);
            report.joint_bits = per_element(bound.joint_bits);
            report.exponents = bound.exponents;
        }
        self.progress.advance(report.bytes);
        inspection.tensors.push(report.clone());
    }

    /// `read`: fills a buffer from an offset in the tensor on.
    fn bound(&self, entry: &Entry, read: impl Fn(u64, &mut [u8]) -> Result<()> + Sync) -> Result<Option<BoundReport>> {
        const STEP_BYTES: u64 = 4 << 20;
        if !self.bounds {
            return Ok(None);
        }
        let len_bytes = entry.len_bytes();
        let empty = || (Bound::new(entry.dtype), Vec::new());
        let bound: Result<(Bound, Vec<u8>)> = self.workers.run(|| {
            (0..len_bytes.div_ceil(STEP_BYTES))
                .into_par_iter()
                .try_fold(empty, |(mut bound, mut raw), step_idx| {
                    let start = step_idx * STEP_BYTES;
                    raw.resize((len_bytes - start).min(STEP_BYTES) as usize, 0); // At most 4 MiB.
                    read(start, &mut raw)?;
                    bound.add(&raw);
                    Ok((bound, raw))
                })
                .try_reduce(empty, |(mut bound, raw), (other, _)| {
                    bound.merge(&other);
                    Ok((bound, raw))
                })
        });
        bound.map(|(bound, _)| Some(bound.report())).in_tensor(&entry.name)
    }

    fn coder(&self, shard: &ArchiveShard, tensor_idx: usize) -> Result<String> {
        let payload = &shard.file.payloads[tensor_idx];
        let labels: Result<Vec<String>> = self.workers.run(|| {
            payload
                .chunks
                .par_iter()
                .enumerate()
                .map(|(chunk_idx, &chunk)| {
                    let coding = (&payload.coding, chunk_idx);
                    self.workers.with(|worker| chunk::describe(worker, &shard.file.input, chunk, coding))
                })
                .collect()
        });
        Ok(commonest(&labels?))
    }
}

fn commonest(labels: &[String]) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    match counts.iter().max_by_key(|&(_, &count)| count) {
        None => String::new(),
        Some((label, count)) if *count == labels.len() => (*label).to_owned(),
        Some((label, count)) => format!("{label} ({count} of {} chunks)", labels.len()),
    }
}

fn tie(same: &SameAs) -> String {
    match &same.shard {
        Some(shard) => format!("{shard}: {}", same.tensor),
        None => same.tensor.clone(),
    }
}

fn tensor_report(shard: &str, entry: &Entry) -> TensorReport {
    TensorReport {
        name: entry.name.clone(),
        shard: shard.to_owned(),
        dtype: entry.dtype_name.clone(),
        shape: entry.shape.clone(),
        n_elements: entry.shape.iter().fold(1, |product: u64, &dim| product.saturating_mul(dim)),
        bytes: entry.len_bytes(),
        stored_bytes: None,
        coder: String::new(),
        layout: None,
        bits_per_element: None,
        bound_bits: None,
        joint_bits: None,
        exponents: Vec::new(),
        same_as: None,
    }
}
