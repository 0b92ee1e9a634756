//! Is an archive whole? Every byte of it is checked, and every original is decoded, without writing anything.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use netweight_codec::Level;
use netweight_container::{
    CARD_NAME, Checkpoint, Digest, Error, ErrorKind, FOLDER_MANIFEST_NAME, FileKind, FolderFile, InputFile, Result,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::archive::{ArchiveShard, read_folder_manifest};
use crate::decode::decode_shard;
use crate::workers::Workers;
use crate::{Progress, refinement, side};

/// How [`verify`] works.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Threads; 0 for as many as the machine runs at once.
    pub threads: usize,
    /// The original file or folder, to compare with byte by byte; of an archive with a refinement what that gives, which
    /// then must be there.
    pub against: Option<PathBuf>,
}

/// What [`verify`] found.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Files looked at.
    pub n_files: u64,
    /// Bytes of originals gone through.
    pub original_bytes: u64,
    /// Refinements looked at, which are among the files.
    pub n_refinements: u64,
    /// Refinements that belong to the archive and are not there: it is whole without, but its original does not come back.
    pub n_left_out: u64,
    /// Whether originals were there to compare with.
    pub is_compared: bool,
    /// Wall-clock time.
    pub seconds: f64,
    /// What is wrong; nothing where the archive is whole.
    pub problems: Vec<Problem>,
}

/// Something wrong with one file.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Problem {
    /// Relative path; the file name for a single file.
    pub path: String,
    /// What is wrong, for people.
    pub what: String,
}

impl VerifyReport {
    /// Whether nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Checks an archive: digests, checksums, padding, that every chunk decodes, that every restored file has the
/// SHA-256 of its original, that no file is missing and none too many. Damage is in the report, not an error.
///
/// # Errors
/// `InvalidArgument` where it is no archive; what is wrong with `netweight.json` itself; `Io` where the archive is
/// not there.
pub fn verify(archive: &Path, options: &VerifyOptions, progress: &dyn Progress) -> Result<VerifyReport> {
    let begin = Instant::now();
    let workers = Workers::new(options.threads, Level::Default)?;
    let report = VerifyReport { is_compared: options.against.is_some(), ..VerifyReport::default() };
    let mut run = Run { workers: &workers, progress, report };
    if std::fs::metadata(archive).map_err(|error| Error::io(archive, error))?.is_dir() {
        run.folder(archive, options.against.as_deref())?;
    } else {
        let name = archive.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match run.shard(archive, options.against.as_deref(), None) {
            Err(error) if matches!(error.kind(), ErrorKind::InvalidArgument | ErrorKind::Io) => return Err(error),
            found => run.record(&name, found)?,
        }
    }
    run.report.seconds = begin.elapsed().as_secs_f64();
    Ok(run.report)
}

/// Whether the archive shard at `path` is whole and gives back `original`, which is read for it.
pub(crate) fn is_archive_of(workers: &Workers, path: &Path, original: &Path) -> bool {
    let run = Run { workers, progress: &crate::Silent, report: VerifyReport::default() };
    run.shard(path, Some(original), None).is_ok()
}

struct Run<'a> {
    workers: &'a Workers,
    progress: &'a dyn Progress,
    report: VerifyReport,
}

impl Run<'_> {
    fn folder(&mut self, root: &Path, against: Option<&Path>) -> Result<()> {
        let manifest = read_folder_manifest(root)?;
        let n_bytes = |file: &FolderFile| file.bytes.saturating_add(file.refined.map_or(0, |refined| refined.bytes));
        self.progress.start(manifest.files.iter().fold(0, |sum: u64, file| sum.saturating_add(n_bytes(file))));
        for file in &manifest.files {
            let original = against.map(|against| against.join(&file.path));
            let found = match file.kind {
                FileKind::Shard => {
                    let original = original.as_deref().filter(|_| file.refined.is_none());
                    self.shard(&root.join(&file.path), original, Some((file.bytes, file.sha256)))
                }
                _ => self.other_file(&root.join(&file.path), original.as_deref(), file),
            };
            self.record(&file.path, found)?;
            self.refinement(root, file.clone(), original.as_deref())?;
        }
        let refinements: Vec<String> = manifest.files.iter().filter_map(FolderFile::refinement).collect();
        let mut known: BTreeSet<&str> = manifest.files.iter().map(|file| file.path.as_str()).collect();
        known.extend(refinements.iter().map(String::as_str));
        known.extend([FOLDER_MANIFEST_NAME, CARD_NAME]);
        for file in Checkpoint::list(root)?.files {
            if !known.contains(file.relative.as_str()) {
                self.problem(&file.relative, "is not listed in netweight.json");
            }
        }
        for file in against.map(Checkpoint::list).transpose()?.into_iter().flat_map(|original| original.files) {
            if !known.contains(file.relative.as_str()) {
                self.problem(&file.relative, "is in the original folder but not in the archive");
            }
        }
        Ok(())
    }

    /// The refinement of a shard, if it has one; that it is not there is wrong only where it is needed.
    fn refinement(&mut self, root: &Path, mut file: FolderFile, original: Option<&Path>) -> Result<()> {
        let Some(relative) = file.refinement() else { return Ok(()) };
        match refinement::take(&mut file, root) {
            Err(error) if original.is_some() => self.problem(&relative, &error.to_string()),
            Err(_) => self.report.n_left_out += 1,
            Ok(None) => {}
            Ok(Some((refined, place))) => {
                self.report.n_refinements += 1;
                let found = self.shard(&place, original, Some((refined.bytes, refined.sha256)));
                self.record(&relative, found)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, path: &str, found: Result<u64>) -> Result<()> {
        self.report.n_files += 1;
        match found {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Ok(bytes) => self.report.original_bytes = self.report.original_bytes.saturating_add(bytes),
            Err(error) => self.problem(path, &error.to_string()),
        }
        Ok(())
    }

    fn problem(&mut self, path: &str, what: &str) {
        self.progress.note(&format!("{path}: {what}"));
        self.report.problems.push(Problem { path: path.to_owned(), what: what.to_owned() });
    }

    /// Gives the original's size in bytes. `listed`: that, and the original's SHA-256, as `netweight.json` has them.
    fn shard(&self, path: &Path, original: Option<&Path>, listed: Option<(u64, Digest)>) -> Result<u64> {
        let shard = ArchiveShard::open(path)?;
        if listed.is_some_and(|listed| listed != (shard.original_bytes(), shard.original_sha256())) {
            return Err(Error::corrupt("not the shard that netweight.json lists").in_file(path));
        }
        if listed.is_none() {
            self.progress.start(shard.original_bytes());
        }
        shard.file.check_padding()?;
        let original = original.map(InputFile::open).transpose()?;
        let mut hasher = Sha256::new();
        let (mut expected, progress) = (Vec::new(), self.progress);
        decode_shard(self.workers, &shard, progress, &mut |offset, bytes| {
            hasher.update(bytes);
            progress.advance(bytes.len() as u64);
            original.as_ref().map_or(Ok(()), |original| compare(original, offset, bytes, &mut expected))
        })?;
        if Digest(hasher.finalize().into()) != shard.original_sha256() {
            return Err(Error::corrupt("does not give back its original (SHA-256)").in_file(path));
        }
        original.as_ref().map_or(Ok(()), |original| same_size(original, shard.original_bytes()))?;
        Ok(shard.original_bytes())
    }

    fn other_file(&self, path: &Path, original: Option<&Path>, file: &FolderFile) -> Result<u64> {
        let input = InputFile::open(path)?;
        side::check_bytes(file, &input)?;
        let expected = file.rewritten.as_ref().map_or(file.sha256, |(archived, _)| *archived);
        if side::sha256(&input, self.progress)? != expected {
            return Err(Error::corrupt("was changed since it was archived (SHA-256)").in_file(path));
        }
        if let Some(original) = original.map(InputFile::open).transpose()? {
            let mut buffer = Vec::new();
            match &file.rewritten {
                Some((_, bytes)) => compare(&original, 0, bytes, &mut buffer)?,
                None => side::for_each_part(&input, |offset, bytes| compare(&original, offset, bytes, &mut buffer))?,
            }
            same_size(&original, file.bytes)?;
        }
        Ok(file.bytes)
    }
}

fn compare(original: &InputFile, offset: u64, bytes: &[u8], buffer: &mut Vec<u8>) -> Result<()> {
    buffer.resize(bytes.len(), 0);
    original.read_exact_at(offset, buffer)?;
    match buffer.iter().zip(bytes).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(idx) => Err(differs(original, offset + idx as u64)),
    }
}

fn same_size(original: &InputFile, bytes: u64) -> Result<()> {
    if original.len_bytes() == bytes { Ok(()) } else { Err(differs(original, bytes.min(original.len_bytes()))) }
}

fn differs(original: &InputFile, offset: u64) -> Error {
    Error::corrupt("the original differs from the archive, first here").in_file(original.path()).at_offset(offset)
}
