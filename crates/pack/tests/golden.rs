//! Archives that were written once and are read forever: `tests/golden/<set>/NAME`, made by `examples/make_golden.rs` and, for
//! archives with grids, `examples/make_golden_grid.rs`.
//!
//! Every set must restore. The set [`CURRENT`] must also come out of the encoder again, payload for payload, so that
//! no change to what is written goes unnoticed. Where such a change is meant (and the format version stays), let
//! `make_golden` write a new set, point [`CURRENT`] to it, and leave the old one in place.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{problems, read_folder, try_restore};
use netweight_container::{Header, InputFile};
use netweight_pack::{Archive, ArchiveShard, CompressOptions, Layout, Level, Silent, compress, compress_grids};
use netweight_tensor::Grid;

/// The newest set without grids.
const CURRENT: &str = "v1";

/// (folder within a golden, level, resident layout)
const ARCHIVES: [(&str, Level, Option<Layout>); 4] = [
    ("archive", Level::Default, None),
    ("archive-max", Level::Max, None),
    ("archive-exact11", Level::Default, Some(Layout::Exact11)),
    ("archive-exact12", Level::Default, Some(Layout::Exact12)),
];

#[test]
fn goldens_restore() {
    let goldens = goldens(|_| true);
    for golden in &goldens {
        for (archive, _, _) in archives(golden) {
            let scratch = tempfile::tempdir().unwrap();
            let back = restore_into(scratch.path(), &golden.join(archive));
            let original = golden.join("original");
            if original.exists() {
                assert!(read_folder(&back) == read_folder(&original), "{}: restored bytes differ", golden.display());
            }
        }
    }
}

#[test]
fn the_encoder_still_writes_the_same() {
    for golden in &goldens(|set| set == CURRENT) {
        for (archive, level, resident) in archives(golden) {
            let scratch = tempfile::tempdir().unwrap();
            let (expected, again) = (golden.join(archive), scratch.path().join("again"));
            let original = restore_into(scratch.path(), &expected);
            let options = CompressOptions { level, resident, ..CompressOptions::default() };
            if is_folder(&expected) {
                compress(&original, &again, &options, &Silent).unwrap();
            } else {
                fs::create_dir(&again).unwrap();
                compress(&single_file(&original), &again.join("model.safetensors"), &options, &Silent).unwrap();
            }
            assert_same_payloads(&expected, &again);
        }
    }
}

/// Archives with grids, of format version 2, come out again from their own values, steps and indices.
#[test]
fn grids_are_still_written_the_same() {
    for golden in &goldens(|set| set == "v2") {
        for (archive, level, _) in archives(golden) {
            let scratch = tempfile::tempdir().unwrap();
            let (expected, again) = (golden.join(archive), scratch.path().join("again"));
            let original = restore_into(scratch.path(), &expected);
            let grids = grids_of(&expected);
            assert!(!grids.is_empty());
            let keep_exact = read_folder(&expected).keys().any(|name| name.ends_with("model-1.safetensors.refinement"));
            assert_eq!(keep_exact, golden.ends_with("refined"));
            let options = CompressOptions { level, keep_exact, ..CompressOptions::default() };
            compress_grids(&original, &again, &grids, &options, &Silent).unwrap();
            assert_same_payloads(&expected, &again);
        }
    }
}

fn grids_of(archive: &Path) -> BTreeMap<String, Arc<Grid>> {
    let archive = Archive::open(archive).unwrap();
    archive.shards().flat_map(|(_, shard)| grids_of_shard(shard)).collect()
}

fn grids_of_shard(shard: &ArchiveShard) -> BTreeMap<String, Arc<Grid>> {
    let grid = |entry: &netweight_container::Entry| {
        let steps = shard.grid(&entry.name)?;
        let (rows, cols) = (steps.row_steps.len(), steps.col_steps.len());
        let mut indices = vec![0; rows * cols];
        shard.read_indices(&entry.name, 0..rows, &mut indices).unwrap();
        let indices = indices.into_iter().map(|index| index as i8).collect();
        let (row_steps, col_steps) = (steps.row_steps.to_vec(), steps.col_steps.to_vec());
        Some((entry.name.clone(), Arc::new(Grid { rows, cols, indices, row_steps, col_steps })))
    };
    shard.tensors().iter().filter_map(grid).collect()
}

/// The goldens of those sets; none, with a line that says so, before the first set is there.
fn goldens(is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    if !root.exists() {
        println!("skipped: no goldens");
        return Vec::new();
    }
    let mut goldens: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|set| set.unwrap())
        .filter(|set| is_wanted(&set.file_name().to_string_lossy()))
        .flat_map(|set| fs::read_dir(set.path()).unwrap())
        .map(|golden| golden.unwrap().path())
        .collect();
    goldens.sort();
    assert!(goldens.len() >= 2, "only {} goldens", goldens.len());
    goldens
}

/// The archives of a golden.
fn archives(golden: &Path) -> Vec<(&'static str, Level, Option<Layout>)> {
    let found: Vec<_> = ARCHIVES.into_iter().filter(|(archive, ..)| golden.join(archive).exists()).collect();
    let n_entries = fs::read_dir(golden).unwrap().count();
    assert_eq!(found.len(), n_entries - usize::from(golden.join("original").exists()), "{}", golden.display());
    found
}

fn is_folder(archive: &Path) -> bool {
    archive.join("netweight.json").exists()
}

fn single_file(folder: &Path) -> PathBuf {
    fs::read_dir(folder).unwrap().next().unwrap().unwrap().path()
}

/// Restores a golden archive, verified, to a folder; gives the folder.
fn restore_into(scratch: &Path, archive: &Path) -> PathBuf {
    let back = scratch.join("back");
    let (source, destination) = if is_folder(archive) {
        (archive.to_path_buf(), back.clone())
    } else {
        fs::create_dir(&back).unwrap();
        let file = single_file(archive);
        (file.clone(), back.join(file.file_name().unwrap()))
    };
    assert_eq!(problems(&source), Vec::<String>::new(), "{}", source.display());
    try_restore(&source, &destination).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    back
}

/// Manifests name the writer, so they may differ; nothing else may.
fn assert_same_payloads(expected: &Path, again: &Path) {
    let (expected_files, again_files) = (read_folder(expected), read_folder(again));
    assert!(expected_files.keys().eq(again_files.keys()), "{}", expected.display());
    for (relative, bytes) in &expected_files {
        let place = expected.join(relative);
        if relative.extension().is_some_and(|extension| extension == "safetensors" || extension == "refinement") {
            assert!(payloads(&place) == payloads(&again.join(relative)), "{}: written otherwise", place.display());
        } else if relative != Path::new("netweight.json") {
            assert!(again_files[relative] == *bytes, "{}: written otherwise", place.display());
        }
    }
}

/// Names and bytes of the payloads of an archive shard.
fn payloads(shard: &Path) -> Vec<(String, Vec<u8>)> {
    let input = InputFile::open(shard).unwrap();
    let (header, _) = Header::read(&input).unwrap();
    let payload = |entry: &netweight_container::Entry| {
        (entry.name.clone(), input.read_vec(header.header_bytes + entry.start, entry.len_bytes()).unwrap())
    };
    let payloads: Vec<_> = header.tensors.iter().map(payload).collect();
    payloads.into_iter().filter(|(name, _)| name != "netweight.manifest").collect()
}
