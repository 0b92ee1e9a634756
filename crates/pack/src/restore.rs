//! Archive in, the original checkpoint out, byte for byte.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Instant;

use netweight_codec::Level;
use netweight_container::{
    AtomicFile, Context, Digest, Error, FileKind, FolderFile, FolderManifest, InputFile, Mode, Result, Staging,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::archive::{Archive, ArchiveShard};
use crate::decode::decode_shard;
use crate::workers::Workers;
use crate::{FileReport, Progress, Report, WRITER, places, side};

/// How [`restore`] works.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    /// Threads; 0 for as many as the machine runs at once.
    pub threads: usize,
    /// Replace what is at the destination.
    pub force: bool,
    /// Compute the SHA-256 of every restored file and compare it with the original's. Checksums of chunks are
    /// always checked.
    pub check_sha256: bool,
    /// Of an archive with a refinement: restore the tuned values, in bf16, and not the original.
    pub tuned: bool,
}

impl Default for RestoreOptions {
    fn default() -> RestoreOptions {
        RestoreOptions { threads: 0, force: false, check_sha256: true, tuned: false }
    }
}

/// Restores an archive, file to file or folder to folder. The destination appears at the very end, whole, and
/// nothing outside it is written. Finished files of a folder are kept after an error, for a second run.
///
/// # Errors
/// `InvalidArgument` where the destination is there (without `force`), or is or holds the archive, or the source is
/// no archive, or its refinement is not there (without `tuned`); `Truncated`, `Corrupt`, `Unsupported`, `Io`.
pub fn restore(
    archive: &Path,
    destination: &Path,
    options: &RestoreOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let begin = Instant::now();
    let archive = if options.tuned { Archive::open(archive)? } else { Archive::open_original(archive)? };
    places::check_apart(archive.path(), destination)?;
    let workers = Workers::new(options.threads, Level::Default)?;
    let mut run = Run { archive: &archive, options, progress, workers: &workers, report: Report::default() };
    if let Some(folder) = archive.folder() {
        let outputs: BTreeSet<String> = folder.files.iter().map(|file| file.path.clone()).collect();
        places::check_folder_free(destination, options.force, &outputs)?;
        progress.start(folder.files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes)));
        run.folder(folder, destination, &outputs)?;
    } else {
        places::check_file_free(destination, options.force)?;
        progress.start(archive.shards().map(|(_, shard)| shard.original_bytes()).sum());
        for (relative, shard) in archive.shards() {
            run.shard(relative, shard, AtomicFile::create(destination, options.force)?)?;
        }
    }
    run.report.seconds = begin.elapsed().as_secs_f64();
    Ok(run.report)
}

#[derive(Serialize)]
struct Record<'a> {
    writer: &'a str,
    verb: &'a str,
    files: Vec<(&'a str, u64, u64, Digest)>, // relative path, archived bytes, time of last modification in ns, original
}

struct Run<'a> {
    archive: &'a Archive,
    options: &'a RestoreOptions,
    progress: &'a dyn Progress,
    workers: &'a Workers,
    report: Report,
}

impl Run<'_> {
    fn folder(&mut self, folder: &FolderManifest, destination: &Path, outputs: &BTreeSet<String>) -> Result<()> {
        let mut files = Vec::new();
        for file in &folder.files {
            let place = self.archive.path().join(&file.path);
            let input = InputFile::open(self.archive.shard(&file.path).map_or(&place, ArchiveShard::path))?;
            files.push((file.path.as_str(), input.len_bytes(), input.modified_ns(), file.sha256));
        }
        let record = Record { writer: WRITER, verb: "restore", files };
        let record = serde_json::to_vec(&record).map_err(|error| Error::invalid(error.to_string()))?;
        let staging = Staging::open(destination, &record)?;
        for file in &folder.files {
            match self.archive.shard(&file.path) {
                Some(shard) if staging.is_resumed() && self.keep_shard(file, shard, &staging)? => {}
                Some(shard) => self.shard(&file.path, shard, staging.create(&file.path)?)?,
                None => self.other_file(file, &staging)?,
            }
        }
        places::check_folder_free(destination, self.options.force, outputs)?; // Again: that was long ago.
        staging.commit(self.options.force)
    }

    fn shard(&mut self, relative: &str, shard: &ArchiveShard, out: AtomicFile) -> Result<()> {
        let mut hasher = self.options.check_sha256.then(Sha256::new);
        let progress = self.progress;
        decode_shard(self.workers, shard, progress, &mut |offset, bytes| {
            let (written, ()) = rayon::join(
                || out.write_all_at(offset, bytes),
                || {
                    if let Some(hasher) = &mut hasher {
                        hasher.update(bytes)
                    }
                },
            );
            progress.advance(bytes.len() as u64);
            written
        })?;
        if hasher.is_some_and(|hasher| Digest(hasher.finalize().into()) != shard.original_sha256()) {
            return Err(Error::corrupt("does not give back its original (SHA-256)").in_file(shard.path()));
        }
        out.commit()?;
        self.push_shard(relative, shard, false);
        Ok(())
    }

    /// Takes over a file that an earlier run finished, if its bytes are right.
    fn keep_shard(&mut self, file: &FolderFile, shard: &ArchiveShard, staging: &Staging) -> Result<bool> {
        let place = staging.place(&file.path)?;
        let Ok(input) = InputFile::open(&place) else { return Ok(false) };
        if input.len_bytes() != file.bytes || side::sha256(&input, &crate::Silent)? != file.sha256 {
            return Ok(false);
        }
        self.progress.note(&format!("{}: kept from an earlier run", file.path));
        self.progress.advance(file.bytes);
        self.push_shard(&file.path, shard, true);
        Ok(true)
    }

    fn push_shard(&mut self, relative: &str, shard: &ArchiveShard, is_resumed: bool) {
        self.report.n_tensors += shard.tensors().len() as u64;
        if shard.mode() != Mode::Refined {
            self.report.n_tied += shard.file.manifest.same_as.len() as u64; // Those of a refinement lie in its base.
        }
        self.report.push(FileReport {
            path: relative.to_owned(),
            kind: FileKind::Shard,
            original_bytes: shard.original_bytes(),
            archive_bytes: shard.archive_bytes() + shard.file.base_bytes,
            sha256: shard.original_sha256(),
            mode: Some(shard.mode()),
            is_resumed,
        });
    }

    fn other_file(&mut self, file: &FolderFile, staging: &Staging) -> Result<()> {
        let path = self.archive.path().join(&file.path);
        let input = InputFile::open(&path)?;
        side::check_bytes(file, &input)?;
        let out = staging.create(&file.path)?;
        if let Some((_, original)) = &file.rewritten {
            out.write_all_at(0, original)?; // Its SHA-256 was checked when netweight.json was read.
            out.commit()?;
            self.progress.advance(file.bytes);
        } else {
            side::copy(&input, out, Some(file.sha256), self.progress).in_file(&path)?;
        }
        self.report.push(FileReport {
            path: file.path.clone(),
            kind: file.kind,
            original_bytes: file.bytes,
            archive_bytes: input.len_bytes(),
            sha256: file.sha256,
            mode: None,
            is_resumed: false,
        });
        Ok(())
    }
}
