//! What is written where: nothing half done, nothing over what is there, a second run goes on from the first.

mod common;

use std::path::Path;

use common::{
    file, options, problems, read_folder, safetensors, tensor, try_compress, try_restore, weights, write_folder,
};
use netweight_pack::{
    CompressOptions, ErrorKind, EstimateOptions, InspectOptions, RestoreOptions, Silent, VerifyOptions, compress,
    estimate, inspect, restore, restore_rows, verify,
};

fn forced() -> CompressOptions {
    CompressOptions { force: true, ..options(2) }
}

fn model(seed: u64) -> Vec<u8> {
    safetensors(&[tensor("w", "BF16", &[100, 50], weights(10_000, seed))])
}

fn refused(what: &str, source: &Path, destination: &Path, options: &CompressOptions) {
    let error = compress(source, destination, options, &Silent).expect_err(what);
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{what}: {error}");
}

#[test]
fn destinations_are_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_folder(&path("src"), &[("m.safetensors", model(1)), ("config.json", b"{}".to_vec())]);
    write_folder(&path("taken"), &[("m.safetensors", b"old".to_vec())]);
    write_folder(&path("foreign"), &[("m.safetensors", b"old".to_vec()), ("sub/diary.txt", b"dear".to_vec())]);
    let single = path("src").join("m.safetensors");

    refused("taken", &path("src"), &path("taken"), &options(2));
    refused("foreign", &path("src"), &path("foreign"), &options(2));
    refused("foreign with force", &path("src"), &path("foreign"), &forced());
    refused("itself", &path("src"), &path("src"), &forced());
    refused("inside", &path("src"), &path("src").join("new/deep"), &forced());
    refused("around", &path("src").join("m.safetensors"), &path("src"), &forced());
    refused("file onto itself", &single, &single, &forced());
    refused("file onto folder", &single, &path("taken"), &forced());
    refused("folder onto file", &path("src"), &path("taken").join("m.safetensors"), &forced());
    assert_eq!(std::fs::read(path("foreign").join("sub/diary.txt")).unwrap(), b"dear");
    assert_eq!(std::fs::read(path("taken").join("m.safetensors")).unwrap(), b"old");

    // An original under the same names, or any other file, is not a former archive.
    std::fs::write(path("notes.txt"), b"dear").unwrap();
    refused("original with force", &path("src"), &path("taken"), &forced());
    refused("any file with force", &single, &path("notes.txt"), &forced());
    assert_eq!(std::fs::read(path("taken").join("m.safetensors")).unwrap(), b"old");
    assert_eq!(std::fs::read(path("notes.txt")).unwrap(), b"dear");

    std::fs::remove_file(path("taken").join("m.safetensors")).unwrap();
    compress(&path("src"), &path("taken"), &forced(), &Silent).unwrap();
    assert!(problems(&path("taken")).is_empty());
    compress(&path("src"), &path("taken"), &forced(), &Silent).unwrap();
    compress(&single, &path("one.safetensors"), &options(2), &Silent).unwrap();
    refused("one", &single, &path("one.safetensors"), &options(2));
    compress(&single, &path("one.safetensors"), &forced(), &Silent).unwrap();
    refused("archive again", &path("one.safetensors"), &path("two.safetensors"), &options(2));
    refused("archive folder again", &path("taken"), &path("two"), &options(2));

    assert!(try_restore(&path("taken"), &path("foreign")).is_err());
    let force = RestoreOptions { force: true, ..RestoreOptions::default() };
    assert!(restore(&path("taken"), &path("foreign"), &force, &Silent).is_err());
    assert!(restore(&path("taken"), &path("taken"), &force, &Silent).is_err());
    assert!(try_restore(&path("taken"), &path("back/deep")).is_ok());
    restore(&path("taken"), &path("back/deep"), &force, &Silent).unwrap();
    assert!(read_folder(&path("back/deep")) == read_folder(&path("src")));
    let leftovers: Vec<_> =
        read_folder(folder.path()).into_keys().filter(|path| path.to_string_lossy().contains("netweight-")).collect();
    assert_eq!(leftovers, Vec::<std::path::PathBuf>::new());
}

#[cfg(unix)]
#[test]
fn links_and_pipes() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // A hub cache: the snapshot's files are links to blobs.
    write_folder(&path("cache"), &[("blobs/abc", model(1)), ("blobs/def", b"{}".to_vec())]);
    std::fs::create_dir_all(path("cache/snapshots/1")).unwrap();
    symlink("../../blobs/abc", path("cache/snapshots/1/model.safetensors")).unwrap();
    symlink("../../blobs/def", path("cache/snapshots/1/config.json")).unwrap();
    try_compress(&path("cache/snapshots/1"), &path("arc")).unwrap();
    assert!(problems(&path("arc")).is_empty());
    let against = VerifyOptions { threads: 1, against: Some(path("cache/snapshots/1")) };
    assert!(verify(&path("arc"), &against, &Silent).unwrap().is_ok());

    // Links in the target are not written through.
    std::fs::create_dir_all(path("target")).unwrap();
    write_folder(&path("outside"), &[("config.json", b"mine".to_vec())]);
    symlink(path("outside/config.json"), path("target/config.json")).unwrap();
    let force = RestoreOptions { force: true, ..RestoreOptions::default() };
    assert!(restore(&path("arc"), &path("target"), &force, &Silent).is_err());
    symlink(path("outside"), path("link")).unwrap();
    assert!(restore(&path("arc"), &path("link"), &force, &Silent).is_err());
    assert_eq!(std::fs::read(path("outside/config.json")).unwrap(), b"mine");
    assert_eq!(read_folder(&path("outside")).len(), 1);

    // Nor are links in a staging folder.
    std::fs::create_dir_all(path(".fresh.netweight-partial")).unwrap();
    symlink(path("outside"), path(".fresh.netweight-partial/tree")).unwrap();
    try_restore(&path("arc"), &path("fresh")).unwrap();
    assert_eq!(read_folder(&path("outside")).len(), 1);
    symlink(path("outside/config.json"), path(".next.netweight-partial")).unwrap();
    assert!(try_restore(&path("arc"), &path("next")).is_err());

    write_folder(&path("loop"), &[("m.safetensors", model(1))]);
    symlink(path("loop"), path("loop/again")).unwrap();
    refused("loop", &path("loop"), &path("x"), &options(1));
    write_folder(&path("pipe"), &[("m.safetensors", model(1))]);
    let made = std::process::Command::new("mkfifo").arg(path("pipe/p")).status();
    if made.is_ok_and(|status| status.success()) {
        refused("pipe", &path("pipe"), &path("x"), &options(1));
    }
    assert!(!path("x").exists());
}

#[cfg(unix)]
#[test]
fn a_second_run_goes_on_from_the_first() {
    resume(false);
}

/// What was staged is believed only after it gave back the source.
#[cfg(unix)]
#[test]
fn a_rotten_shard_is_written_again() {
    resume(true);
}

#[cfg(unix)]
fn resume(rot: bool) {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let broken = file(r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#, b"x");
    write_folder(&path("src"), &[("a.safetensors", model(1)), ("b.safetensors", model(2)), ("c.safetensors", broken)]);
    // A folder where a file is to be staged stops the first run at the third shard.
    let staged = path(".arc.netweight-partial/tree");
    compress(&path("src"), &path("arc"), &options(1), &Silent).unwrap();
    std::fs::rename(path("arc"), path("whole")).unwrap();
    let blocked = || std::fs::create_dir_all(staged.join("c.safetensors"));
    let first = compress(&path("src"), &path("arc"), &options(1), &Blocking(&blocked));
    assert!(first.is_err(), "{first:?}");
    assert!(!path("arc").exists());
    std::fs::remove_dir(staged.join("c.safetensors")).unwrap();
    if rot {
        let mut bytes = std::fs::read(staged.join("b.safetensors")).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(staged.join("b.safetensors"), bytes).unwrap();
    }
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let before = [inode(&staged.join("a.safetensors")), inode(&staged.join("b.safetensors"))];
    let report = compress(&path("src"), &path("arc"), &options(2), &Silent).unwrap();
    let resumed: Vec<bool> = report.files.iter().map(|file| file.is_resumed).collect();
    assert_eq!(resumed, [true, !rot, false]);
    let after = [inode(&path("arc/a.safetensors")), inode(&path("arc/b.safetensors"))];
    assert_eq!([before[0] == after[0], before[1] == after[1]], [true, !rot]);
    assert!(read_folder(&path("arc")) == read_folder(&path("whole")));
    assert!(!path(".arc.netweight-partial").exists());
}

/// Calls its function once the first bytes are done.
struct Blocking<'a>(&'a (dyn Fn() -> std::io::Result<()> + Sync));

impl netweight_pack::Progress for Blocking<'_> {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {
        (self.0)().unwrap();
    }
    fn note(&self, _text: &str) {}
}

#[test]
fn a_changed_source_is_not_resumed() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_folder(&path("src"), &[("a.safetensors", model(1))]);
    compress(&path("src"), &path("arc"), &options(1), &Silent).unwrap();
    let stale = path(".new.netweight-partial/tree");
    std::fs::create_dir_all(&stale).unwrap();
    std::fs::copy(path("arc/a.safetensors"), stale.join("a.safetensors")).unwrap();
    std::fs::write(stale.join("junk"), b"junk").unwrap();
    std::fs::write(path(".new.netweight-partial/resume.json"), b"{\"another\": \"run\"}").unwrap();
    let report = compress(&path("src"), &path("new"), &options(1), &Silent).unwrap();
    assert!(!report.files[0].is_resumed);
    assert!(read_folder(&path("new")) == read_folder(&path("arc")));
}

#[test]
fn bad_sources_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: Vec<u8>, kind: ErrorKind, expected: &str| {
        let path = folder.path().join("m.safetensors");
        std::fs::write(&path, bytes).unwrap();
        let error = try_compress(&path, &folder.path().join("out")).expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(expected), "{name}: {error}");
        assert!(!folder.path().join("out").exists());
    };
    use ErrorKind::{Corrupt, InvalidArgument, Truncated};
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n".to_vec();
    check("lfs", lfs, InvalidArgument, "git lfs pull");
    check("empty", vec![], Truncated, "8 bytes expected");
    check("seven bytes", vec![0; 7], Truncated, "8 bytes expected");
    check("huge header", vec![0xff; 16], Corrupt, "longer than");
    check("cut header", file("{}", b"")[..9].to_vec(), Truncated, "10 bytes expected");
    check("no brace", file(" {}", b""), Corrupt, "begin with '{'");
    check("no JSON", file("{", b""), Corrupt, "what safetensors allows");
    check("not UTF-8", [&2u64.to_le_bytes()[..], &[b'{', 0xff]].concat(), Corrupt, "UTF-8");
    let one = r#""w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    check("twice", file(&format!("{{{one},{one}}}"), b"x"), Corrupt, "twice");
    check("cut data", file(&format!("{{{one}}}"), b""), Truncated, "bytes expected");
    check("more data", file(&format!("{{{one}}}"), b"xy"), Corrupt, "bytes follow");
    let bad = |shape: &str, offsets: &str| {
        file(&format!(r#"{{"w":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#), &[0; 8])
    };
    check("gap", bad("[1]", "[4,8]"), Corrupt, "does not begin where");
    check("size", bad("[3]", "[0,8]"), Corrupt, "do not give its size");
    check("backwards", bad("[2]", "[8,0]"), Corrupt, "ends before");
    check("overflow", bad("[18446744073709551615,4]", "[0,8]"), Corrupt, "do not give its size");
    check("negative", bad("[-1]", "[0,8]"), Corrupt, "what safetensors allows");
    check("fraction", bad("[2.0]", "[0,8]"), Corrupt, "what safetensors allows");
    check("far", bad("[2]", "[18446744073709551607,18446744073709551615]"), Corrupt, "does not begin where");

    let root = folder.path().join("folder");
    write_folder(&root, &[("config.json", b"{}".to_vec())]);
    let error = try_compress(&root, &folder.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("no .safetensors"), "{error}");
    write_folder(
        &root,
        &[
            ("a.safetensors", model(1)),
            ("m.safetensors.index.json", br#"{"weight_map":{"x":"gone.safetensors"}}"#.to_vec()),
        ],
    );
    let error = try_compress(&root, &folder.path().join("out")).unwrap_err();
    assert!(error.to_string().contains("gone.safetensors"), "{error}");
    let error = try_compress(&folder.path().join("nowhere"), &folder.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
}

#[test]
fn a_newer_format_is_named() {
    let json = r#"{"__metadata__":{"netweight":"7"}}"#;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    std::fs::write(&path, file(json, b"")).unwrap();
    let error = try_restore(&path, &folder.path().join("out")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("format 7") && error.to_string().contains("up to 2"), "{error}");
}

fn all_ties(archive: &Path) -> Vec<Option<String>> {
    let inspection = inspect(archive, &InspectOptions::default(), &Silent).unwrap();
    let mut tensors = inspection.tensors;
    tensors.sort_by_key(|tensor| std::cmp::Reverse(tensor.bytes)); // A stable sort: ties of size keep their order.
    tensors.into_iter().map(|tensor| tensor.same_as).collect()
}

#[test]
fn rows_inspection_and_estimate() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let data = weights(3_000_000, 5);
    let shard = safetensors(&[
        tensor("w", "BF16", &[1500, 1000], data.clone()),
        tensor("tied", "BF16", &[1500, 1000], data.clone()),
        tensor("ids", "I32", &[2], vec![0; 8]),
        tensor("none", "F32", &[0], vec![]),
    ]);
    write_folder(&path("src"), &[("m.safetensors", shard)]);
    try_compress(&path("src"), &path("arc")).unwrap();

    let report =
        restore_rows(&path("arc"), "tied", Some(700..702), &path("rows.safetensors"), &RestoreOptions::default())
            .unwrap();
    assert_eq!((report.shape, report.bytes), (vec![2, 1000], 4000));
    let json = r#"{"tied":{"dtype":"BF16","shape":[2,1000],"data_offsets":[0,4000]}}"#;
    let json = format!("{json:width$}", width = json.len().next_multiple_of(8));
    assert!(std::fs::read(path("rows.safetensors")).unwrap() == file(&json, &data[1_400_000..1_404_000]));
    restore_rows(&path("arc"), "none", None, &path("none.safetensors"), &RestoreOptions::default()).unwrap();
    for (name, rows) in [("w", Some(0..1501)), ("gone", None), ("none", Some(0..1))] {
        assert!(restore_rows(&path("arc"), name, rows, &path("bad"), &RestoreOptions::default()).is_err(), "{name}");
    }
    assert!(restore_rows(&path("arc"), "w", None, &path("rows.safetensors"), &RestoreOptions::default()).is_err());

    let options = InspectOptions { threads: 2, bounds: true };
    let plain = inspect(&path("src"), &options, &Silent).unwrap();
    let packed = inspect(&path("arc"), &options, &Silent).unwrap();
    assert_eq!((plain.format, packed.format), (None, Some(1)));
    assert_eq!(plain.tensors.len(), 4);
    let (plain, packed) = (&plain.tensors[0], &packed.tensors[0]);
    assert_eq!((plain.bound_bits, &plain.exponents), (packed.bound_bits, &packed.exponents));
    assert_eq!(plain.exponents.iter().map(|&(_, count)| count).sum::<u64>(), 1_500_000);
    assert!(plain.bound_bits > Some(8.0) && plain.bound_bits < Some(11.5), "{plain:?}");
    assert!(plain.joint_bits <= plain.bound_bits);
    assert!(plain.stored_bytes.is_none() && packed.stored_bytes.is_some() && !packed.coder.is_empty());
    assert_eq!(all_ties(&path("arc")), [None, Some("w".to_owned()), None, None]);

    let predicted = estimate(&path("src"), &EstimateOptions::default(), &Silent).unwrap();
    assert!(predicted.sampled_bytes > 1_000_000 && predicted.predicted_bytes > 0, "{predicted:?}");
    assert!(predicted.ratio > 0.3 && predicted.ratio < 1.01, "{predicted:?}");
    assert!(estimate(&path("arc"), &EstimateOptions::default(), &Silent).is_err());
}
