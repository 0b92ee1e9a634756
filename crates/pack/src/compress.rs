//! Checkpoint in, archive out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Instant;

use netweight_codec::Level;
use netweight_container::{
    AtomicFile, Checkpoint, Context, Digest, Error, FOLDER_MANIFEST_NAME, FORMAT, FileKind, FolderFile, FolderManifest,
    Header, InputFile, MAX_REWRITTEN_BYTES, Mode, REFINEMENT_SUFFIX, Refined, Result, SourceFile, Staging,
};
use netweight_layout::Layout;
use serde::Serialize;

use crate::archive::{Archive, ArchiveShard};
use crate::encode::{Input, Job, encode_shard, must_be_opaque};
use crate::grid_source::{GridSource, Grids};
use crate::parts::Siblings;
use crate::shard_file::is_archive;
use crate::ties::{SourceShard, Ties};
use crate::verify::is_archive_of;
use crate::workers::Workers;
use crate::{FileReport, Progress, Report, WRITER, config, index, places, refinement, resident, side};

/// The file of a folder that says what model it is.
const CONFIG_NAME: &str = "config.json";

/// How [`compress`] works.
#[derive(Clone, Debug)]
pub struct CompressOptions {
    /// How much time to spend on size.
    pub level: Level,
    /// Layout in which bf16 weight matrices are stored, so that an engine multiplies with the file as it lies:
    /// [`Layout::Exact11`] or [`Layout::Exact12`]. Larger than what `level` makes of them.
    pub resident: Option<Layout>,
    /// Threads; 0 for as many as the machine runs at once. The archive does not depend on it.
    pub threads: usize,
    /// Replace what is at the destination.
    pub force: bool,
    /// Decode every chunk again and compare it before it is written.
    pub check: bool,
    /// With grids: write what they lack of the original beside each shard, in a file that nobody needs but who wants the
    /// original back.
    pub keep_exact: bool,
}

impl Default for CompressOptions {
    fn default() -> CompressOptions {
        let (level, resident) = (Level::Default, None);
        CompressOptions { level, resident, threads: 0, force: false, check: true, keep_exact: false }
    }
}

/// Archives a checkpoint, file to file or folder to folder. The destination appears at the very end, whole. A
/// folder's finished shards are kept beside it after an error, and a second run goes on from there.
///
/// # Errors
/// `InvalidArgument` where the destination is there (without `force`), or is or holds the source, or the source is
/// an archive already or no checkpoint; `Truncated`, `Corrupt`, `Io`.
pub fn compress(
    source: &Path,
    destination: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    if options.keep_exact {
        return Err(Error::invalid("an archive without grids has no refinement: it is exact as it is"));
    }
    compress_with(source, destination, None, options, progress)
}

/// As [`compress`], with grids in the place of some tensors: the archive is that of the checkpoint in which these tensors
/// have their grids' values, in bf16. Such an archive is of format 2; `resident` is not for it.
///
/// # Errors
/// As [`compress`]; `InvalidArgument` also where a grid does not fit its tensor, or there is no tensor for it.
pub fn compress_grids(
    source: &Path,
    destination: &Path,
    grids: &dyn Grids,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    if options.resident.is_some() {
        return Err(Error::invalid("an archive with grids has no resident tensors"));
    }
    compress_with(source, destination, Some(grids), options, progress)
}

fn compress_with(
    source: &Path,
    destination: &Path,
    grids: Option<&dyn Grids>,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let begin = Instant::now();
    if let Some(layout) = options.resident.filter(|&layout| !resident::is_for_archives(layout)) {
        return Err(Error::invalid(format!("{} is no layout for archives: exact11 and exact12 are", layout.name())));
    }
    let checkpoint = Checkpoint::discover(source)?;
    let shards = read_shards(&checkpoint)?;
    if options.keep_exact {
        refinement::check_source(&checkpoint)?;
    }
    let grid_names = grids.map(Grids::names).unwrap_or_default();
    check_grids(&grid_names, &shards)?;
    places::check_apart(source, destination)?;
    let outputs = places::outputs(&checkpoint);
    if checkpoint.is_folder {
        places::check_folder_free(destination, options.force, &outputs)?;
    } else {
        places::check_file_free(destination, options.force)?;
    }
    check_former_archive(destination)?;
    let workers = Workers::new(options.threads, options.level)?;
    let n_refined = if options.keep_exact { checkpoint.shards().map(|file| file.bytes).sum() } else { 0 };
    progress.start(checkpoint.files.iter().map(|file| file.bytes).sum::<u64>() + n_refined);
    let ties = Ties::find(&shards, |shard_idx| must_be_opaque(&shards[shard_idx].header))?;
    let mut run = Run {
        options,
        progress,
        workers: &workers,
        shards: &shards,
        ties: &ties,
        grids,
        grid_names,
        opaque: BTreeSet::new(),
        refined: BTreeMap::new(),
        report: Report::default(),
    };
    run.report.left_out.clone_from(&checkpoint.left_out);
    if checkpoint.is_folder {
        run.folder(&checkpoint, destination, &outputs)?;
    } else {
        let out = AtomicFile::create(destination, options.force)?;
        run.shard(0, out)?;
    }
    run.report.seconds = begin.elapsed().as_secs_f64();
    Ok(run.report)
}

fn read_shards(checkpoint: &Checkpoint) -> Result<Vec<SourceShard<'_>>> {
    if checkpoint.is_archive_folder() {
        return Err(Error::invalid("is a netweight archive already").in_file(&checkpoint.root));
    }
    checkpoint
        .shards()
        .map(|file| {
            let (header, _) = Header::read(&InputFile::open(&file.path)?)?;
            if is_archive(&header) {
                return Err(Error::invalid("is a netweight archive already").in_file(&file.path));
            }
            Ok(SourceShard { file, header })
        })
        .collect()
}

/// Every grid must have a tensor.
fn check_grids(names: &BTreeSet<String>, shards: &[SourceShard<'_>]) -> Result<()> {
    let tensors = shards.iter().flat_map(|shard| &shard.header.tensors);
    let there: BTreeSet<&str> = tensors.map(|entry| entry.name.as_str()).collect();
    match names.iter().find(|name| !there.contains(name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Error::invalid("a grid for a tensor that is not there").in_tensor(name)),
    }
}

/// What a staging folder is made of. A second run goes on only where all of it is the same.
#[derive(Serialize)]
struct Record<'a> {
    writer: &'a str,
    verb: &'a str,
    level: &'a str,
    resident: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    grids: &'a BTreeSet<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    keep_exact: bool,
    files: Vec<(&'a str, u64, u64)>, // relative path, bytes, time of last modification in ns
}

/// Force is for replacing an archive, or an empty folder: anything else might be somebody's only copy.
pub(crate) fn check_former_archive(destination: &Path) -> Result<()> {
    let Ok(about) = std::fs::symlink_metadata(destination) else { return Ok(()) };
    let is_ours = if about.is_dir() {
        Archive::open(destination).is_ok() || std::fs::read_dir(destination).in_file(destination)?.next().is_none()
    } else {
        ArchiveShard::open(destination).is_ok()
    };
    if is_ours {
        return Ok(());
    }
    Err(Error::invalid("would be lost: it is no archive, so it is not replaced even with force").in_file(destination))
}

struct Run<'a> {
    options: &'a CompressOptions,
    progress: &'a dyn Progress,
    workers: &'a Workers,
    shards: &'a [SourceShard<'a>],
    ties: &'a Ties,
    grids: Option<&'a dyn Grids>,
    grid_names: BTreeSet<String>,
    opaque: BTreeSet<usize>,            // shards so far that have no payload for each tensor
    refined: BTreeMap<String, Refined>, // by relative path of the shard
    report: Report,
}

impl Run<'_> {
    fn folder(&mut self, checkpoint: &Checkpoint, destination: &Path, outputs: &BTreeSet<String>) -> Result<()> {
        let files =
            checkpoint.files.iter().map(|file| (file.relative.as_str(), file.bytes, file.modified_ns)).collect();
        let (level, resident) = (self.options.level.name(), self.options.resident.map(Layout::name));
        let (grids, keep_exact) = (&self.grid_names, self.options.keep_exact);
        let record = Record { writer: WRITER, verb: "compress", level, resident, grids, keep_exact, files };
        let record = serde_json::to_vec(&record).map_err(|error| Error::invalid(error.to_string()))?;
        let staging = Staging::open(destination, &record)?;
        let mut payload_bytes = BTreeMap::new();
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            let relative = shard.file.relative.as_str();
            let place = staging.place(relative)?;
            let kept = if staging.is_resumed() { self.keep_shard(shard_idx, &place) } else { None };
            let n_bytes = match kept {
                Some(n_bytes) => n_bytes,
                None => self.shard(shard_idx, staging.create(relative)?)?,
            };
            payload_bytes.insert(relative.to_owned(), n_bytes);
            if self.options.keep_exact {
                self.refinement(shard_idx, &staging)?;
            }
        }
        let mut rewritten = BTreeMap::new();
        for file in checkpoint.files.iter().filter(|file| file.kind != FileKind::Shard) {
            let archived = self.other_file(file, &staging, &payload_bytes)?;
            rewritten.extend(archived.map(|archived| (file.relative.clone(), archived)));
        }
        self.report.files.sort_by(|a, b| a.path.cmp(&b.path));
        let listed = |file: &FileReport| FolderFile {
            path: file.path.clone(),
            kind: file.kind,
            bytes: file.original_bytes,
            sha256: file.sha256,
            rewritten: rewritten.remove(&file.path),
            refined: self.refined.get(&file.path).copied(),
        };
        let files = self.report.files.iter().map(listed).collect();
        let manifest =
            FolderManifest { writer: WRITER.to_owned(), has_grids: !self.grid_names.is_empty(), files }.encode()?;
        let out = staging.create(FOLDER_MANIFEST_NAME)?;
        out.write_all_at(0, &manifest)?;
        out.commit()?;
        self.report.archive_bytes += manifest.len() as u64;
        places::check_folder_free(destination, self.options.force, outputs)?; // Again: that was long ago.
        staging.commit(self.options.force)
    }

    /// Encodes a shard; gives the bytes of its payloads.
    fn shard(&mut self, shard_idx: usize, out: AtomicFile) -> Result<u64> {
        let shard = &self.shards[shard_idx];
        let input = InputFile::open(&shard.file.path)?;
        let (header, header_bytes) = Header::read(&input)?;
        if header != shard.header || input.modified_ns() != shard.file.modified_ns {
            return Err(Error::invalid("was changed while it was being read").in_file(&shard.file.path));
        }
        let source = self.grids.filter(|_| self.has_grids(shard_idx)).map(|grids| {
            GridSource::new(&input, &header, &header_bytes, grids, self.options.level.chunk_bytes() as u64)
        });
        let source = source.transpose().in_file(&shard.file.path)?;
        let (header, header_bytes) =
            source.as_ref().map_or((&header, &header_bytes), |source| (&source.header, &source.header_bytes));
        let job = Job {
            input: source.as_ref().map_or(&input as &dyn Input, |source| source),
            header,
            header_bytes,
            same_as: self.same_as(shard_idx),
            level: self.options.level,
            resident: self.options.resident,
            grids: source.as_ref().map(|source| source.steps.clone()).unwrap_or_default(),
            refines: None,
            check: self.options.check,
        };
        let encoded = encode_shard(self.workers, &job, &out, self.progress)?;
        input.check_unchanged()?;
        out.commit()?;
        self.note_mode(shard_idx, encoded.mode);
        for (label, more) in encoded.coders {
            let uses = self.report.coders.entry(label).or_default();
            uses.n_chunks += more.n_chunks;
            uses.bytes += more.bytes;
            uses.stored_bytes += more.stored_bytes;
        }
        self.report.n_tied += encoded.n_tied;
        self.push_shard(shard_idx, [job.input.len_bytes(), encoded.archive_bytes], encoded.sha256, encoded.mode, false);
        Ok(encoded.payload_bytes)
    }

    /// Writes what a shard lacks of its original, where it has grids.
    fn refinement(&mut self, shard_idx: usize, staging: &Staging) -> Result<()> {
        let shard = &self.shards[shard_idx];
        let relative = shard.file.relative.as_str();
        if !self.has_grids(shard_idx) {
            self.progress.advance(shard.file.bytes);
            return Ok(());
        }
        let base = Siblings::default().open(&staging.place(relative)?)?;
        let input = InputFile::open(&shard.file.path)?;
        let (header, header_bytes) = Header::read(&input)?;
        if header != shard.header || input.modified_ns() != shard.file.modified_ns {
            return Err(Error::invalid("was changed while it was being read").in_file(&shard.file.path));
        }
        let mut ties = self.ties.same_as(self.shards, shard_idx, |_| false);
        ties.retain(|name, same| self.grid_names.contains(name) && self.grid_names.contains(&same.tensor));
        let (same_as, refines) = refinement::plan(&base, relative, &header, &self.grid_names, ties);
        let job = Job {
            input: &input,
            header: &header,
            header_bytes: &header_bytes,
            same_as,
            level: self.options.level,
            resident: None,
            grids: BTreeMap::new(),
            refines: Some(refines),
            check: self.options.check,
        };
        let out = staging.create(&format!("{relative}{REFINEMENT_SUFFIX}"))?;
        let encoded = encode_shard(self.workers, &job, &out, self.progress)?;
        input.check_unchanged()?;
        out.commit()?;
        let refined = Refined { bytes: input.len_bytes(), sha256: encoded.sha256 };
        self.refined.insert(relative.to_owned(), refined);
        let report = self.report.refinement.get_or_insert_default();
        report.n_files += 1;
        report.bytes += encoded.archive_bytes;
        Ok(())
    }

    /// Takes over a shard that an earlier run finished; `None` where there is none, or it cannot be read.
    fn keep_shard(&mut self, shard_idx: usize, place: &Path) -> Option<u64> {
        if self.has_grids(shard_idx) {
            return None; // Whether it is of the same grids cannot be seen from the source.
        }
        let archived = ArchiveShard::open_with(place, &mut Siblings::default()).ok()?;
        let file = self.shards[shard_idx].file;
        let is_it = archived.original_bytes() == file.bytes
            && *archived.header() == self.shards[shard_idx].header
            && (archived.mode() == Mode::Opaque || archived.file.manifest.same_as == self.same_as(shard_idx))
            && is_archive_of(self.workers, place, &file.path);
        if !is_it {
            return None;
        }
        self.note_mode(shard_idx, archived.mode());
        self.progress.note(&format!("{}: kept from an earlier run", file.relative));
        self.progress.advance(file.bytes);
        self.report.n_tied += archived.file.manifest.same_as.len() as u64;
        let sizes = [archived.original_bytes(), archived.archive_bytes()];
        self.push_shard(shard_idx, sizes, archived.original_sha256(), archived.mode(), true);
        Some(archived.file.payload_bytes())
    }

    fn same_as(&self, shard_idx: usize) -> BTreeMap<String, netweight_container::SameAs> {
        let mut same_as = self.ties.same_as(self.shards, shard_idx, |idx| self.opaque.contains(&idx));
        // What is equal in the source need not be equal to a grid.
        same_as.retain(|name, same| !self.grid_names.contains(name) && !self.grid_names.contains(&same.tensor));
        same_as
    }

    fn has_grids(&self, shard_idx: usize) -> bool {
        self.shards[shard_idx].header.tensors.iter().any(|entry| self.grid_names.contains(&entry.name))
    }

    fn note_mode(&mut self, shard_idx: usize, mode: Mode) {
        if mode == Mode::Opaque {
            self.opaque.insert(shard_idx);
        }
    }

    /// `sizes`: of the original and of the archive, in bytes.
    fn push_shard(&mut self, shard_idx: usize, sizes: [u64; 2], sha256: Digest, mode: Mode, is_resumed: bool) {
        let shard = &self.shards[shard_idx];
        self.report.n_tensors += shard.header.tensors.len() as u64;
        let (path, [original_bytes, archive_bytes]) = (shard.file.relative.clone(), sizes);
        let (kind, mode) = (FileKind::Shard, Some(mode));
        self.report.push(FileReport { path, kind, original_bytes, archive_bytes, sha256, mode, is_resumed });
    }

    /// Copies a side file, or rewrites an index or a config and gives what the folder manifest keeps of it.
    fn other_file(
        &mut self,
        file: &SourceFile,
        staging: &Staging,
        payload_bytes: &BTreeMap<String, u64>,
    ) -> Result<Option<(Digest, Vec<u8>)>> {
        let input = InputFile::open(&file.path)?;
        let out = staging.create(&file.relative)?;
        let (mut kind, mut rewritten) = (file.kind, None);
        let is_config = file.relative == CONFIG_NAME && input.len_bytes() <= MAX_REWRITTEN_BYTES;
        if kind == FileKind::Index || is_config {
            let original = input.read_vec(0, input.len_bytes())?;
            let archived = match kind {
                FileKind::Index => Some(index::rewrite(&original, &file.relative, payload_bytes).in_file(&file.path)?),
                _ => config::declare(&original, if self.grid_names.is_empty() { 1 } else { FORMAT }),
            };
            rewritten = archived.map(|archived| (original, archived));
        }
        let (sha256, archive_bytes, kept) = match rewritten {
            Some((original, archived)) => {
                out.write_all_at(0, &archived)?;
                out.commit()?;
                self.progress.advance(file.bytes);
                kind = if kind == FileKind::Side { FileKind::Config } else { kind };
                (Digest::of(&[&original]), archived.len() as u64, Some((Digest::of(&[&archived]), original)))
            }
            None => (side::copy(&input, out, None, self.progress)?, file.bytes, None),
        };
        input.check_unchanged()?;
        let (path, original_bytes) = (file.relative.clone(), input.len_bytes());
        self.report.push(FileReport {
            path,
            kind,
            original_bytes,
            archive_bytes,
            sha256,
            mode: None,
            is_resumed: false,
        });
        Ok(kept)
    }
}
