//! Every truncation and every flipped byte of small archives is noticed, without a panic and without wrong bytes.

mod common;

use std::path::Path;

use common::{problems, read_folder, safetensors, tensor, try_compress, try_restore, weights, write_folder};
use netweight_container::{Digest, FileKind, FolderFile, FolderManifest};
use netweight_pack::{ArchiveShard, CompressOptions, ErrorKind, Layout, Silent, VerifyOptions, compress, verify};

/// A small archive, damaged by `damage`, which gives what is left, until it gives none.
fn check_file(original: &[u8], damage: impl Fn(usize, &[u8]) -> Option<Vec<u8>>) {
    check_archive(original, &CompressOptions::default(), damage);
}

fn check_archive(original: &[u8], how: &CompressOptions, damage: impl Fn(usize, &[u8]) -> Option<Vec<u8>>) {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive, back) =
        (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"), folder.path().join("c.safetensors"));
    std::fs::write(&source, original).unwrap();
    compress(&source, &archive, how, &Silent).unwrap();
    let whole = std::fs::read(&archive).unwrap();
    let options = VerifyOptions { threads: 1, against: None };
    for step in 0.. {
        let Some(damaged) = damage(step, &whole) else { break };
        std::fs::write(&archive, &damaged).unwrap();
        let found = verify(&archive, &options, &Silent);
        assert!(!found.is_ok_and(|report| report.is_ok()), "damage {step} is not noticed");
        if step % 16 == 0 && try_restore(&archive, &back).is_ok() {
            assert!(std::fs::read(&back).unwrap() == original, "damage {step} gives wrong bytes");
            std::fs::remove_file(&back).unwrap();
        }
        assert!(!back.exists());
    }
}

fn small_files() -> Vec<(&'static str, Vec<u8>)> {
    let tied = weights(4096, 1);
    vec![
        (
            "tensors and ties",
            safetensors(&[
                tensor("a", "BF16", &[2048], tied.clone()),
                tensor("b", "BF16", &[2048], tied),
                tensor("c", "I32", &[2], vec![1, 0, 0, 0, 2, 0, 0, 0]),
                tensor("d", "F32", &[0], vec![]),
            ]),
        ),
        ("opaque", safetensors(&[tensor("netweight.x", "BF16", &[100], weights(200, 1))])),
        ("nothing", safetensors(&[])),
    ]
}

#[test]
fn flipped_bytes_are_noticed() {
    for (_, original) in small_files() {
        for mask in [0x01, 0x80, 0xff] {
            check_file(&original, |step, whole| {
                let mut damaged = whole.to_vec();
                *damaged.get_mut(step)? ^= mask;
                Some(damaged)
            });
        }
    }
}

#[test]
fn truncations_are_noticed() {
    for (_, original) in small_files() {
        check_file(&original, |step, whole| (step < whole.len()).then(|| whole[..step].to_vec()));
        check_file(&original, |step, whole| (step < 3).then(|| [whole, &vec![0; step * 63 + 1]].concat()));
    }
}

/// Groups lie between zeros, and have bytes that mean nothing: these count, too.
#[test]
fn damage_to_resident_archives_is_noticed() {
    let mut odd = weights(2 * 31 * 60, 2);
    odd[..6].copy_from_slice(&[0x80, 0x7f, 1, 0, 0, 0x70]);
    let original =
        safetensors(&[tensor("norm", "BF16", &[33], weights(66, 1)), tensor("matrix", "BF16", &[31, 60], odd)]);
    for layout in [Layout::Exact11, Layout::Exact12] {
        let how = CompressOptions { resident: Some(layout), ..CompressOptions::default() };
        let folder = tempfile::tempdir().unwrap();
        let (source, archive) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
        std::fs::write(&source, &original).unwrap();
        compress(&source, &archive, &how, &Silent).unwrap();
        let shard = ArchiveShard::open(&archive).unwrap();
        assert!(shard.resident("norm").is_none() && shard.resident("matrix").is_some(), "{layout:?}");
        check_archive(&original, &how, |step, whole| {
            let mut damaged = whole.to_vec();
            *damaged.get_mut(step)? ^= [0x01, 0x80, 0xff][step % 3];
            Some(damaged)
        });
        check_archive(&original, &how, |step, whole| (7 * step < whole.len()).then(|| whole[..7 * step].to_vec()));
    }
}

#[test]
fn truncated_archives_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"));
    std::fs::write(&source, &small_files()[0].1).unwrap();
    try_compress(&source, &archive).unwrap();
    let whole = std::fs::read(&archive).unwrap();
    for len in 0..whole.len() {
        std::fs::write(&archive, &whole[..len]).unwrap();
        assert_eq!(
            try_restore(&archive, &source.with_extension("back")).unwrap_err().kind(),
            ErrorKind::Truncated,
            "{len}"
        );
    }
}

#[test]
fn every_byte_of_a_folder_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive) = (folder.path().join("src"), folder.path().join("arc"));
    let tied = weights(4096, 1);
    write_folder(
        &source,
        &[
            ("a.safetensors", safetensors(&[tensor("a", "BF16", &[2048], tied.clone())])),
            ("b.safetensors", safetensors(&[tensor("b", "BF16", &[2048], tied)])),
            (
                "x.safetensors.index.json",
                br#"{"metadata":{"total_size":8192},"weight_map":{"a":"a.safetensors"}}"#.to_vec(),
            ),
            ("config.json", b"{\"a\": 1}".to_vec()),
        ],
    );
    try_compress(&source, &archive).unwrap();
    for (path, whole) in read_folder(&archive) {
        let path = archive.join(path);
        let step = if whole.len() > 4096 { 7 } else { 1 };
        for idx in (0..whole.len()).step_by(step) {
            let mut damaged = whole.clone();
            damaged[idx] ^= 0x10;
            std::fs::write(&path, damaged).unwrap();
            assert!(!problems(&archive).is_empty(), "{} byte {idx}", path.display());
        }
        std::fs::write(&path, &whole).unwrap();
        assert!(problems(&archive).is_empty());
    }
    std::fs::write(archive.join("extra.txt"), b"x").unwrap();
    assert_eq!(problems(&archive), ["extra.txt: is not listed in netweight.json"]);
}

/// An archive folder whose `netweight.json` lists `paths`, with a digest that holds.
fn forge(archive: &Path, paths: &[&str]) {
    // The encoder refuses bad paths, so they are put in afterwards and the digest is made anew.
    let names: Vec<String> = (0..paths.len()).map(|idx| format!("placeholder-{idx}")).collect();
    let file = |path: &String| FolderFile {
        path: path.clone(),
        kind: FileKind::Side,
        bytes: 4,
        sha256: Digest::of(&[b"evil"]),
        rewritten: None,
        refined: None,
    };
    let manifest =
        FolderManifest { writer: "forger".to_owned(), has_grids: false, files: names.iter().map(file).collect() };
    let mut text = String::from_utf8(manifest.encode().unwrap()).unwrap();
    for (name, path) in names.iter().zip(paths) {
        text = text.replace(&format!("\"{name}\""), &serde_json::to_string(path).unwrap());
    }
    text.truncate(text.rfind("\"digest\"").unwrap());
    let digest = Digest::of(&[text.as_bytes()]);
    text.push_str(&format!("\"digest\": \"{digest}\"\n}}\n"));
    std::fs::create_dir_all(archive).unwrap();
    std::fs::write(archive.join("netweight.json"), text).unwrap();
}

#[test]
fn forged_paths_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("inner");
    let (archive, back) = (root.join("arc"), root.join("back"));
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::write(root.join("evil.txt"), b"evil").unwrap();
    std::fs::write(folder.path().join("evil.txt"), b"evil").unwrap();
    let check = |paths: &[&str]| {
        forge(&archive, paths);
        assert_eq!(try_restore(&archive, &back).unwrap_err().kind(), ErrorKind::Corrupt, "{paths:?}");
        assert!(verify(&archive, &VerifyOptions::default(), &Silent).is_err(), "{paths:?}");
        assert!(!back.exists() && !root.join(".back.netweight-partial").exists(), "{paths:?}");
    };
    check(&["../evil.txt"]);
    check(&["../../evil.txt"]);
    check(&["a/../../evil.txt"]);
    check(&["/etc/evil.txt"]);
    check(&["./evil.txt"]);
    check(&["a//evil.txt"]);
    check(&[""]);
    check(&["a/"]);
    check(&["..\\evil.txt"]);
    check(&["evil\0.txt"]);
    check(&["netweight.json"]);
    check(&["same", "same"]);
    check(&["b", "a"]);
    check(&["a", "a/b"]);
    std::fs::write(archive.join("good.txt"), b"evil").unwrap();
    forge(&archive, &["good.txt"]);
    try_restore(&archive, &back).unwrap();
    assert_eq!(std::fs::read(back.join("good.txt")).unwrap(), b"evil");
}

#[test]
fn wrong_sizes_of_side_files_are_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (archive, back) = (folder.path().join("arc"), folder.path().join("back"));
    write_folder(&archive, &[("a.txt", b"a".to_vec()), ("b.txt", b"b".to_vec())]);
    let check = |bytes: u64, expected: usize| {
        let file = |path: &str, content: &[u8]| FolderFile {
            path: path.to_owned(),
            kind: FileKind::Side,
            bytes,
            sha256: Digest::of(&[content]),
            rewritten: None,
            refined: None,
        };
        let manifest = FolderManifest {
            writer: "forger".to_owned(),
            has_grids: false,
            files: vec![file("a.txt", b"a"), file("b.txt", b"b")],
        };
        std::fs::write(archive.join("netweight.json"), manifest.encode().unwrap()).unwrap();
        assert_eq!(problems(&archive).len(), expected, "{bytes}");
        assert_eq!(try_restore(&archive, &back).is_ok(), expected == 0, "{bytes}");
    };
    check(0, 2);
    check(u64::MAX, 2);
    check(1, 0);
}
