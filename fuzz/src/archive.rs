//! Whole archives: shards as they stand, shards whose digests hold but nothing else need, and folders.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use netweight_container::{Digest, MappedFile};
use netweight_pack::{ArchiveShard, InspectOptions, RestoreOptions, Silent, VerifyOptions, inspect, restore, verify};

use crate::scratch::Scratch;
use crate::{forge, make};

/// Originals that are larger, which a few bytes can announce, are opened but not read.
const MAX_ORIGINAL_BYTES: u64 = 4 << 20;

/// Input: an archive shard.
pub(crate) fn read(input: &[u8]) {
    let scratch = Scratch::new();
    exercise(&scratch.write("a.safetensors", input));
}

pub(crate) fn read_seeds() -> Vec<Vec<u8>> {
    make::archives()
}

/// Input: the parts of [`forge::archive`].
pub(crate) fn forged(input: &[u8]) {
    read(&forge::archive(input));
}

pub(crate) fn forged_seeds() -> Vec<Vec<u8>> {
    make::archives().iter().map(|archive| forge::archive_parts(archive)).collect()
}

/// Input: the parts of [`forge::archive`], as the refinement of a good shard.
pub(crate) fn refined(input: &[u8]) {
    let scratch = Scratch::new();
    scratch.write("a.safetensors", refined_shard());
    exercise(&scratch.write("a.safetensors.refinement", &forge::archive(input)));
}

pub(crate) fn refined_seeds() -> Vec<Vec<u8>> {
    let scratch = Scratch::new();
    vec![forge::archive_parts(&make::refined(&scratch.path("archive")))]
}

fn refined_shard() -> &'static [u8] {
    static SHARD: OnceLock<Vec<u8>> = OnceLock::new();
    SHARD.get_or_init(|| {
        let scratch = Scratch::new();
        make::refined(&scratch.path("archive"));
        std::fs::read(scratch.path("archive").join("a.safetensors")).expect("a shard")
    })
}

/// Reads a shard in every way there is and compares the results.
fn exercise(path: &Path) {
    let verified =
        |is_small: bool| is_small.then(|| verify(path, &VerifyOptions { threads: 1, against: None }, &Silent));
    let Ok(shard) = ArchiveShard::open(path) else {
        let found = verified(true);
        assert!(!found.is_some_and(|found| found.is_ok_and(|report| report.is_ok())), "whole, but cannot be opened");
        return;
    };
    let is_small = shard.original_bytes() <= MAX_ORIGINAL_BYTES;
    let found = verified(is_small);
    let _ = inspect(path, &InspectOptions { threads: 1, bounds: is_small }, &Silent);
    if !is_small {
        return;
    }
    let (over_zeros, over_ones) = (read_all(&shard, 0), read_all(&shard, 0xff));
    assert!(over_zeros == over_ones, "what is read depends on what was in memory");
    let is_whole = found.is_some_and(|found| found.is_ok_and(|report| report.is_ok()));
    match &over_zeros {
        Some(bytes) => {
            assert!(!is_whole || Digest::of(&[bytes]) == shard.original_sha256(), "verify approves other bytes");
            read_parts(&shard, bytes);
        }
        None => assert!(!is_whole, "verify approves what cannot be read"),
    }
    map_matrices(&shard, over_zeros.as_deref());
    assert!(shard.read_range(shard.original_bytes(), &mut [0]).is_err());
}

/// Takes resident tensors from the mapped file, as an engine does; `whole` is the original, if it can be read.
fn map_matrices(shard: &ArchiveShard, whole: Option<&[u8]>) {
    for entry in shard.tensors().iter().take(20) {
        let Some(found) = shard.resident(&entry.name) else { continue };
        let memory = Arc::new(MappedFile::open(&found.path).expect("the file just read"));
        let mut bytes = vec![0xaa; entry.len_bytes() as usize]; // At most 4 MiB.
        let is_decoded = found.matrix(memory).is_ok_and(|matrix| matrix.decode(&mut bytes).is_ok());
        let Some(whole) = whole else { continue };
        assert!(is_decoded, "read, but not mapped");
        let start = (shard.header().header_bytes + entry.start) as usize;
        assert!(bytes == whole[start..start + bytes.len()], "mapped otherwise than read");
    }
}

fn read_all(shard: &ArchiveShard, memory: u8) -> Option<Vec<u8>> {
    let mut bytes = vec![memory; shard.original_bytes() as usize]; // At most 4 MiB.
    shard.read_range(0, &mut bytes).is_ok().then_some(bytes)
}

/// Ranges, tensors and rows, of an original that can be read.
fn read_parts(shard: &ArchiveShard, whole: &[u8]) {
    for (from, to) in [(0, 0), (0, 1), (whole.len() / 3, whole.len() / 2), (whole.len() / 2, whole.len())] {
        let mut part = vec![0xaa; to.min(whole.len()) - from];
        shard.read_range(from as u64, &mut part).expect("part of what could be read");
        assert_eq!(part, whole[from..from + part.len()]);
    }
    let header_bytes = shard.header().header_bytes;
    for entry in shard.tensors().iter().take(20) {
        let mut tensor = vec![0xaa; entry.len_bytes() as usize];
        shard.read_tensor(&entry.name, &mut tensor).expect("part of what could be read");
        let range = (header_bytes + entry.start) as usize..(header_bytes + entry.end) as usize;
        assert_eq!(tensor, whole[range]);
        let n_rows = entry.shape.first().copied().unwrap_or(0);
        for rows in [0..1, n_rows / 2..n_rows, n_rows..n_rows + 1] {
            let Ok(range) = shard.rows_range(&entry.name, &rows) else { continue };
            let mut bytes = vec![0xaa; (range.end - range.start) as usize];
            shard.read_rows(&entry.name, rows, &mut bytes).expect("part of what could be read");
            assert_eq!(bytes, whole[range.start as usize..range.end as usize]);
        }
    }
}

/// Input: `netweight.json` before its digest, for a folder with good files. Nothing but the destination is written.
pub(crate) fn folder_restore(input: &[u8]) {
    let scratch = Scratch::new();
    let (archive, back) = (scratch.path("archive"), scratch.path("back"));
    std::fs::create_dir_all(archive.join("sub")).expect("room");
    for (name, bytes) in good_folder() {
        std::fs::write(archive.join(name), bytes).expect("room");
    }
    let manifest = forge::folder_manifest(input);
    std::fs::write(archive.join("netweight.json"), &manifest).expect("room");
    let outside = scratch.write("outside", b"as it was");
    let before = listing(&archive);
    let is_whole =
        verify(&archive, &VerifyOptions { threads: 1, against: None }, &Silent).is_ok_and(|found| found.is_ok());
    let restored = restore(&archive, &back, &RestoreOptions { threads: 1, ..RestoreOptions::default() }, &Silent);
    assert!(!is_whole || restored.is_ok(), "whole, but cannot be restored: {:?}", restored.err());
    assert_eq!(restored.is_ok(), back.exists());
    assert!(listing(&archive) == before, "the archive was written to");
    assert_eq!(std::fs::read(outside).expect("the file outside"), b"as it was");
    let names = scratch.names();
    let known = ["archive", "back", "outside"];
    assert!(
        names.iter().all(|name| known.contains(&name.as_str()) || name.starts_with(".back.netweight-")),
        "{names:?}"
    );
}

pub(crate) fn folder_restore_seeds() -> Vec<Vec<u8>> {
    let scratch = Scratch::new();
    vec![forge::before_digest(&make::archive_folder(&scratch.path("archive"))).to_vec()]
}

type Files = Vec<(String, Vec<u8>)>; // relative path, bytes; sorted

fn good_folder() -> &'static Files {
    static FILES: OnceLock<Files> = OnceLock::new();
    FILES.get_or_init(|| {
        let scratch = Scratch::new();
        let folder = scratch.path("archive");
        make::archive_folder(&folder);
        listing(&folder)
    })
}

/// The files of a folder and of the folders in it.
fn listing(folder: &Path) -> Files {
    let mut files = vec![];
    let mut folders = vec![folder.to_path_buf()];
    while let Some(inner) = folders.pop() {
        for entry in std::fs::read_dir(inner).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder).expect("a path below").to_string_lossy().into_owned();
                files.push((relative, std::fs::read(&path).expect("a file")));
            }
        }
    }
    files.sort();
    files
}
