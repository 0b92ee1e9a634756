//! Archives with grids and a refinement: the original comes back byte for byte, the tuned values do where they are asked
//! for or the refinement was left out, and a refinement that is damaged or another's is refused.

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{Random, Tensor, bf16, problems, read_folder, safetensors, tensor, try_restore, weights, write_folder};
use netweight_container::ErrorKind;
use netweight_pack::{
    Archive, CompressOptions, InspectOptions, Report, RestoreOptions, Silent, VerifyOptions, VerifyReport, compress,
    compress_grids, inspect, restore, restore_rows, verify,
};
use netweight_tensor::Grid;

type GridMap = BTreeMap<String, Arc<Grid>>;
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Normal weights and a grid that is wrong by about half a step, as error feedback leaves it.
fn matrix(rows: usize, cols: usize, seed: u64) -> (Vec<f32>, Grid) {
    let mut random = Random(seed);
    let weights: Vec<f32> = (0..rows * cols).map(|_| bf16(random.normal() * 0.02)).collect();
    let shifted: Vec<f32> = weights.iter().map(|weight| weight + random.normal() * 0.001).collect();
    let row_steps = (0..rows).map(|row| bf16(0.006 * (1.0 + (row % 5) as f32 / 9.0))).collect();
    let col_steps = (0..cols).map(|col| bf16(1.0 + (col % 7) as f32 / 50.0)).collect();
    (weights, Grid::nearest(&shifted, row_steps, col_steps))
}

fn bytes_of(dtype: &str, weights: &[f32]) -> Vec<u8> {
    let high = |weight: &f32| (weight.to_bits() >> 16) as u16;
    match dtype {
        "BF16" => weights.iter().flat_map(|weight| high(weight).to_le_bytes()).collect(),
        "F16" => weights.iter().flat_map(|weight| (high(weight) & 0xbfff).to_le_bytes()).collect(),
        _ => weights.iter().flat_map(|weight| (weight * 1.0001).to_le_bytes()).collect(),
    }
}

/// A model of two shards: grids of all sizes and dtypes, ties between and within shards, weights that are no numbers.
fn model() -> ([(&'static str, Vec<u8>); 4], GridMap) {
    let mut grids = GridMap::new();
    let mut of = |name: &str, dtype: &'static str, rows: usize, cols: usize, seed: u64| -> Tensor {
        let (mut weights, mut grid) = matrix(rows, cols, seed);
        if name == "odd" {
            let odd = [f32::NAN, f32::INFINITY, -0.0, 0.0, f32::from_bits(0x8001_0000), -f32::MAX, 1e-30, -1e30];
            weights.iter_mut().step_by(3).zip(odd.iter().cycle()).for_each(|(weight, &odd)| *weight = odd);
            (grid.row_steps[3], grid.col_steps[5]) = (0.0, 0.0);
            grid.indices.iter_mut().step_by(7).zip(-128..=127).for_each(|(to, index)| *to = index);
        }
        grids.insert(name.to_owned(), Arc::new(grid));
        tensor(name, dtype, &[rows as u64, cols as u64], bytes_of(dtype, &weights))
    };
    let first = [
        of("large", "BF16", 1300, 1001, 1),
        tensor("norm", "F32", &[31], weights(124, 5)),
        of("odd", "BF16", 40, 70, 2),
        tensor("tied", "BF16", &[30, 20], weights(1200, 9)),
        tensor("nothing", "BF16", &[0, 20], Vec::new()),
        tensor("tied again", "BF16", &[20, 30], weights(1200, 9)),
        of("same weights", "BF16", 64, 64, 3),
    ];
    let second = [
        of("single", "F32", 40, 70, 4),
        of("half", "F16", 33, 64, 6),
        tensor("tied across", "BF16", &[600], weights(1200, 9)),
        of("same weights again", "BF16", 64, 64, 3),
        of("column", "BF16", 50, 1, 7),
    ];
    let index = br#"{"metadata":{"total_size":7},"weight_map":{"large":"a.safetensors","single":"b.safetensors"}}"#;
    let files = [
        ("a.safetensors", safetensors(&first)),
        ("b.safetensors", safetensors(&second)),
        ("model.safetensors.index.json", index.to_vec()),
        ("config.json", b"{\"model_type\": \"x\"} ".to_vec()),
    ];
    (files, grids)
}

fn keep() -> CompressOptions {
    CompressOptions { threads: 2, keep_exact: true, ..CompressOptions::default() }
}

/// The model, tuned, in `folder`/archive, its original in `folder`/from.
fn tuned(folder: &Path) -> (Report, GridMap) {
    let (files, grids) = model();
    write_folder(&folder.join("from"), &files);
    let report = compress_grids(&folder.join("from"), &folder.join("archive"), &grids, &keep(), &Silent).unwrap();
    (report, grids)
}

fn restored(archive: &Path, to: &Path, is_tuned: bool) -> Files {
    let options = RestoreOptions { threads: 2, tuned: is_tuned, ..RestoreOptions::default() };
    restore(archive, to, &options, &Silent).unwrap();
    let files = read_folder(to);
    std::fs::remove_dir_all(to).unwrap();
    files
}

fn verified(archive: &Path, against: Option<PathBuf>) -> VerifyReport {
    verify(archive, &VerifyOptions { threads: 2, against }, &Silent).unwrap()
}

#[test]
fn the_original_comes_back() {
    let work = tempfile::tempdir().unwrap();
    let (report, grids) = tuned(work.path());
    let path = |name: &str| work.path().join(name);
    let files = read_folder(&path("archive"));
    let names: Vec<&str> = files.keys().map(|name| name.to_str().unwrap()).collect();
    let refinements = ["a.safetensors.refinement", "b.safetensors.refinement"];
    assert_eq!(names[..5], ["a.safetensors", refinements[0], "b.safetensors", refinements[1], "config.json"]);
    let n_bytes: usize = refinements.iter().map(|&name| files[Path::new(name)].len()).sum();
    let kept = report.refinement.unwrap();
    assert_eq!((kept.n_files, kept.bytes), (2, n_bytes as u64));
    let all: usize = files.values().map(Vec::len).sum();
    assert_eq!(report.archive_bytes, (all - n_bytes) as u64);
    let original = read_folder(&path("from"));
    assert!(restored(&path("archive"), &path("back"), false) == original);
    let found = verified(&path("archive"), Some(path("from")));
    assert_eq!((found.problems.len(), found.n_refinements, found.n_left_out), (0, 2, 0), "{:?}", found.problems);

    // The tuned values are those of an archive that has no refinement, whose other files are the same.
    let plain = CompressOptions { keep_exact: false, ..keep() };
    compress_grids(&path("from"), &path("plain"), &grids, &plain, &Silent).unwrap();
    let values = restored(&path("plain"), &path("back"), false);
    assert!(restored(&path("archive"), &path("back"), true) == values && values != original);
    for (name, bytes) in read_folder(&path("plain")) {
        assert!(name == Path::new("netweight.json") || files[&name] == bytes, "{}", name.display());
    }
    let about = inspect(&path("archive"), &InspectOptions::default(), &Silent).unwrap().refinement.unwrap();
    assert_eq!((about.n_files, about.n_here, about.bytes), (2, 2, n_bytes as u64));

    // One tensor, and one shard, of either.
    for (is_tuned, files) in [(false, &original), (true, &values)] {
        let options = RestoreOptions { tuned: is_tuned, force: true, ..RestoreOptions::default() };
        restore_rows(&path("archive"), "large", Some(700..702), &path("rows"), &options).unwrap();
        let rows = std::fs::read(path("rows")).unwrap();
        let shard = &files[Path::new("a.safetensors")];
        let start = 8 + u64::from_le_bytes(*shard.first_chunk().unwrap()) as usize + 700 * 2002;
        assert!(rows.ends_with(&shard[start..start + 2 * 2002]) && rows.len() < 2 * 2002 + 200);
        let name = if is_tuned { "a.safetensors" } else { refinements[0] };
        restore(&path("archive").join(name), &path("shard"), &options, &Silent).unwrap();
        assert!(std::fs::read(path("shard")).unwrap() == *shard);
    }
}

/// Grids near 4 bits and their refinement together take little more than the weights' own entropy, 10.5 bits.
#[test]
fn takes_few_bits() {
    let work = tempfile::tempdir().unwrap();
    let (weights, grid) = matrix(1024, 1024, 11);
    let file = safetensors(&[tensor("w", "BF16", &[1024, 1024], bytes_of("BF16", &weights))]);
    write_folder(&work.path().join("from"), &[("model.safetensors", file)]);
    let grids = GridMap::from([("w".to_owned(), Arc::new(grid))]);
    let report = compress_grids(&work.path().join("from"), &work.path().join("to"), &grids, &keep(), &Silent).unwrap();
    let bits = |bytes: u64| bytes as f64 * 8.0 / (1 << 20) as f64;
    let (small, more) = (bits(report.archive_bytes), bits(report.refinement.unwrap().bytes));
    println!("{small:.3} bits, and {more:.3} for the original");
    assert!((3.0..4.0).contains(&small) && small + more < 11.2, "{small} {more}");
}

#[test]
fn left_out() {
    let work = tempfile::tempdir().unwrap();
    tuned(work.path());
    let path = |name: &str| work.path().join(name);
    let values = restored(&path("archive"), &path("back"), true);
    std::fs::remove_file(path("archive/b.safetensors.refinement")).unwrap();
    let error = try_restore(&path("archive"), &path("back")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("b.safetensors.refinement: its refinement is not here"), "{error}");
    assert!(!path("back").exists() && Archive::open_original(&path("archive")).is_err());
    let rows = restore_rows(&path("archive"), "large", None, &path("rows"), &RestoreOptions::default());
    assert!(rows.is_err() && !path("rows").exists());
    std::fs::remove_file(path("archive/a.safetensors.refinement")).unwrap();
    let found = verified(&path("archive"), None);
    assert_eq!((found.problems.len(), found.n_refinements, found.n_left_out), (0, 0, 2), "{:?}", found.problems);
    assert_eq!(verified(&path("archive"), Some(path("from"))).problems.len(), 2);
    assert!(restored(&path("archive"), &path("back"), true) == values);
    let about = inspect(&path("archive"), &InspectOptions::default(), &Silent).unwrap().refinement.unwrap();
    assert_eq!((about.n_files, about.n_here, about.bytes), (2, 0, 0));
}

#[test]
fn others_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let (_, mut grids) = tuned(work.path());
    let path = |name: &str| work.path().join(name);
    let check = |other: &str, part: &str| {
        let name = "a.safetensors.refinement";
        let good = std::fs::read(path("archive").join(name)).unwrap();
        std::fs::copy(path(other).join(name), path("archive").join(name)).unwrap();
        let found = problems(&path("archive")).join("\n");
        assert!(found.contains(name) && found.contains(part), "{found}");
        let error = try_restore(&path("archive"), &path("back")).unwrap_err();
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(part), "{error}");
        assert!(!path("back").exists());
        std::fs::write(path("archive").join(name), good).unwrap();
        assert_eq!(problems(&path("archive")), Vec::<String>::new());
    };
    // The same original on other grids.
    let mut other = (*grids["odd"]).clone();
    other.indices[500] = if other.indices[500] == 1 { 2 } else { 1 };
    grids.insert("odd".to_owned(), Arc::new(other));
    compress_grids(&path("from"), &path("other grid"), &grids, &keep(), &Silent).unwrap();
    check("other grid", "the refinement of another model");
    // Another original on the same grids.
    let (files, grids) = model();
    write_folder(&path("from other"), &files);
    let mut shard = files[0].1.clone();
    *shard.last_mut().unwrap() ^= 1;
    std::fs::write(path("from other/a.safetensors"), shard).unwrap();
    compress_grids(&path("from other"), &path("other original"), &grids, &keep(), &Silent).unwrap();
    check("other original", "not the shard that netweight.json lists");
    // What is no refinement at all.
    std::fs::create_dir(path("not one")).unwrap();
    std::fs::copy(path("archive/a.safetensors"), path("not one/a.safetensors.refinement")).unwrap();
    check("not one", "not the shard that netweight.json lists");
    // One that says it refines itself.
    let name = path("archive/a.safetensors.refinement");
    std::fs::rename(&name, path("archive/a.safetensors")).unwrap();
    std::fs::copy(path("archive/a.safetensors"), &name).unwrap();
    assert!(problems(&path("archive")).join("\n").contains("refinement of a refinement"));
    assert!(try_restore(&path("archive"), &path("back")).is_err());
}

/// Whatever byte of a refinement is changed, or of the shard that it refines, is noticed.
#[test]
fn damage_is_noticed() {
    let work = tempfile::tempdir().unwrap();
    let (weights, grid) = matrix(20, 30, 3);
    let tensors = [tensor("w", "BF16", &[20, 30], bytes_of("BF16", &weights)), tensor("n", "I8", &[3], vec![1, 2, 3])];
    write_folder(&work.path().join("from"), &[("model.safetensors", safetensors(&tensors))]);
    let grids = GridMap::from([("w".to_owned(), Arc::new(grid))]);
    let archive = work.path().join("archive");
    compress_grids(&work.path().join("from"), &archive, &grids, &keep(), &Silent).unwrap();
    let place = archive.join("model.safetensors.refinement");
    let good = std::fs::read(&place).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&place, &bytes).unwrap();
        let found = problems(&archive);
        assert!(found.len() == 1 && found[0].contains("model.safetensors.refinement"), "byte {at}: {found:?}");
        if at % 17 == 0 {
            std::fs::write(&place, &good[..at]).unwrap();
            assert_ne!(problems(&archive), Vec::<String>::new(), "{at} bytes of {}", good.len());
            assert!(try_restore(&archive, &work.path().join("back")).is_err());
        }
    }
    std::fs::write(&place, good).unwrap();
    assert_eq!(problems(&archive), Vec::<String>::new());
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let work = tempfile::tempdir().unwrap();
    let (_, grids) = tuned(work.path());
    let again = work.path().join("again");
    let options = CompressOptions { threads: 1, check: false, ..keep() };
    compress_grids(&work.path().join("from"), &again, &grids, &options, &Silent).unwrap();
    assert!(read_folder(&again) == read_folder(&work.path().join("archive")));
}

#[test]
fn places() {
    let work = tempfile::tempdir().unwrap();
    let (_, grids) = tuned(work.path());
    let path = |name: &str| work.path().join(name);
    let refused = |source: &str, to: &str, grids: Option<&GridMap>, part: &str| {
        let to = path(to);
        let found = match grids {
            Some(grids) => compress_grids(&path(source), &to, grids, &keep(), &Silent),
            None => compress(&path(source), &to, &keep(), &Silent),
        };
        let error = found.unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(part), "{part}: {error}");
    };
    refused("from", "x", None, "exact as it is");
    refused("archive", "x", Some(&grids), "archive already");
    refused("from", "archive", Some(&grids), "already there");
    refused("from/a.safetensors", "x", Some(&grids), "name its folder");
    std::fs::write(path("from/b.safetensors.refinement"), "mine").unwrap();
    refused("from", "x", Some(&grids), "stands where its refinement is needed");
    assert!(!path("x").exists());
    // To who does not keep one it is a file as any other.
    let plain = CompressOptions { keep_exact: false, force: true, ..keep() };
    compress_grids(&path("from"), &path("archive"), &grids, &plain, &Silent).unwrap();
    assert_eq!(restored(&path("archive"), &path("back"), false)[Path::new("b.safetensors.refinement")], b"mine");
    std::fs::remove_file(path("from/b.safetensors.refinement")).unwrap();
    // One in the place of another, with and without.
    for keep_exact in [true, false, true] {
        let options = CompressOptions { keep_exact, force: true, ..keep() };
        compress_grids(&path("from"), &path("archive"), &grids, &options, &Silent).unwrap();
        assert_eq!(path("archive/a.safetensors.refinement").exists(), keep_exact);
        assert_eq!(problems(&path("archive")), Vec::<String>::new());
    }
    compress(&path("from"), &path("archive"), &CompressOptions { keep_exact: false, force: true, ..keep() }, &Silent)
        .unwrap();
    assert!(restored(&path("archive"), &path("back"), true) == read_folder(&path("from")));
}
