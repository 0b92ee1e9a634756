//! What can go wrong has its exit code, its place and a hint.

mod common;

use std::ffi::OsString;
use std::path::Path;

use common::{bookworm, digests, run, scratch};

/// Runs twice, as text and as JSON; both must tell the same.
#[track_caller]
fn check(args: &[OsString], code: i32, kind: &str, message: &str, hint: &str) {
    let text = run(args).code(code);
    assert!(text.stdout.is_empty(), "{text:?}");
    assert!(text.stderr.starts_with("error: ") && text.stderr.contains(message), "{text:?}");
    assert!(text.stderr.contains("\nhint: ") && text.stderr.contains(hint), "{text:?}");
    let json = run(&[args!["--json"], args].concat()).code(code);
    assert!(json.stderr.is_empty(), "{json:?}");
    let error = json.json()["error"].clone();
    assert_eq!((error["kind"].as_str(), error["exit_code"].as_i64()), (Some(kind), Some(i64::from(code))));
    let field = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    assert!(field("hint").contains(hint), "{error}");
    assert!(text.stderr.contains(&field("message")) && !field("message").is_empty(), "{error}");
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file is written");
}

#[test]
fn usage() {
    for args in
        [&["nonsense"][..], &["compress"], &["compress", "x"], &["restore", "a", "-o", "b", "--rows", "0..1"], &[]]
    {
        assert!(!run(args).code(2).stderr.is_empty(), "{args:?}");
    }
    assert_eq!(run(&["--json", "compress"]).code(2).json()["error"]["kind"], "usage");
    let work = scratch();
    let (archive, out) = (work.path().join("archive"), work.path().join("out.safetensors"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let inside = archive.join("inside");
    check(args!["restore", archive, "-o", inside], 2, "usage", "lies inside", "another destination");
    check(args!["restore", archive, "-o", archive, "--force"], 2, "usage", "both", "another destination");
    let tensor = |name: &str, rows: &str| -> Vec<OsString> {
        args!["restore", archive, "-o", out, "--tensor", name, "--rows", rows].to_vec()
    };
    check(&tensor("nobody", "0..1"), 2, "usage", "tensor \"nobody\"", "inspect --all");
    check(&tensor("lm_head.weight", "0..99999999"), 2, "usage", "no such rows", "inspect --all");
    run(&tensor("lm_head.weight", "2..2")).code(2);
    assert!(!out.exists());
}

#[test]
fn unusable_input() {
    let work = scratch();
    let here = work.path();
    let (out, text, pointer) = (here.join("out"), here.join("a.safetensors"), here.join("b.safetensors"));
    write(&text, b"This is not a checkpoint but a line of text.\n");
    check(args!["compress", text, "-o", out], 3, "input", "a.safetensors", "safetensors file");
    check(args!["inspect", text], 3, "input", "a.safetensors", "safetensors file");
    check(args!["estimate", text], 3, "input", "a.safetensors", "safetensors file");
    let lfs = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 16060522904\n";
    write(&pointer, lfs);
    check(args!["compress", pointer, "-o", out], 3, "input", "git-lfs pointer", "git lfs pull");
    let empty = here.join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    check(args!["compress", empty, "-o", out], 3, "input", "no .safetensors file", "convert");
    check(args!["restore", empty, "-o", out], 3, "input", "not a netweight archive", "netweight compress");
    let model = bookworm().join("model.safetensors");
    check(args!["restore", model, "-o", out], 3, "input", "not a netweight archive", "netweight compress");
    let archive = here.join("archive");
    run(args!["compress", bookworm(), "-o", archive]).ok();
    check(args!["compress", archive, "-o", out], 3, "input", "archive already", "netweight restore");
    let cut = here.join("cut.safetensors");
    write(&cut, &std::fs::read(model).expect("the model")[..1_000_000]);
    check(
        args!["compress", cut, "-o", out],
        3,
        "input",
        "truncated: 13644312 bytes expected, 1000000 there",
        "fetch it again",
    );
    assert!(!out.exists());
}

#[test]
fn newer_format() {
    let work = scratch();
    let archive = work.path().join("archive");
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let shard = archive.join("model.safetensors");
    let mut bytes = std::fs::read(&shard).expect("the shard");
    let mark = br#""netweight":"1""#;
    let at = bytes.windows(mark.len()).position(|window| window == mark).expect("the mark");
    bytes[at + mark.len() - 2] = b'9';
    write(&shard, &bytes);
    let out = work.path().join("out");
    check(
        args!["restore", shard, "-o", out],
        3,
        "input",
        "unsupported",
        "update netweight: this version reads archive format 2",
    );
}

#[test]
fn not_there() {
    let work = scratch();
    let (nobody, out) = (work.path().join("nobody"), work.path().join("out"));
    check(args!["compress", nobody, "-o", out], 4, "io", "nobody: No such file", "check the path");
    check(args!["restore", nobody, "-o", out], 4, "io", "nobody: No such file", "check the path");
    check(args!["verify", nobody], 4, "io", "nobody: No such file", "check the path");
    check(args!["inspect", nobody], 4, "io", "nobody: No such file", "check the path");
    check(args!["bench", "--file", nobody, "--no-peers"], 4, "io", "nobody: No such file", "check the path");
}

#[test]
fn refuses_to_overwrite() {
    let work = scratch();
    let (archive, file, made) = (work.path().join("archive"), work.path().join("file"), work.path().join("made"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let before = digests(&archive);
    check(args!["compress", bookworm(), "-o", archive], 5, "exists", "already there", "--force");
    run(args!["compress", bookworm(), "-o", archive, "--force"]).ok();
    assert_eq!(before, digests(&archive), "the same input gives the same archive");
    // Not even with --force: a file that no archive of this checkpoint has.
    write(&archive.join("diary.txt"), b"mine");
    check(args!["compress", bookworm(), "-o", archive, "--force"], 5, "exists", "diary.txt", "move that file away");
    assert!(archive.join("diary.txt").exists());
    write(&file, b"mine");
    let model = bookworm().join("model.safetensors");
    check(args!["compress", model, "-o", file], 5, "exists", "already there", "--force");
    check(
        args!["compress", bookworm(), "-o", file, "--force"],
        5,
        "exists",
        "will not be replaced",
        "another destination",
    );
    assert_eq!(std::fs::read(&file).expect("the file"), b"mine");
    std::fs::create_dir(&made).expect("a folder");
    write(&made.join("diary.txt"), b"mine");
    check(args!["synth", "bf16", "--shapes", "tiny", "-o", made], 5, "exists", "already there", "another folder");
}

#[test]
fn damage_is_found_and_named() {
    let work = scratch();
    let (archive, out) = (work.path().join("archive"), work.path().join("out"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let shard = archive.join("model.safetensors");
    let whole = std::fs::read(&shard).expect("the shard");
    let mut damaged = whole.clone();
    damaged[whole.len() / 2] ^= 1;
    write(&shard, &damaged);
    let said = run(args!["verify", archive]).code(1);
    assert!(said.stdout.contains("model.safetensors") && said.stdout.contains("CRC-64"), "{said:?}");
    assert!(said.stdout.contains("tensor \"") && said.stdout.contains("offset"), "{said:?}");
    let report = run(args!["--json", "verify", archive]).code(1).json();
    assert_eq!(report["problems"].as_array().map(Vec::len), Some(1));
    check(args!["restore", archive, "-o", out], 1, "damaged", "CRC-64", "netweight verify");
    assert!(!out.exists(), "nothing of a damaged archive appears");
    write(&shard, &whole[..whole.len() - 100]);
    run(args!["verify", archive]).code(1);
    check(args!["restore", archive, "-o", out], 1, "damaged", "truncated", "fetch the archive again");
    write(&shard, &whole);
    let other = work.path().join("other");
    std::fs::create_dir(&other).expect("a folder");
    for entry in std::fs::read_dir(bookworm()).expect("the model") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), other.join(entry.file_name())).expect("a copy");
    }
    run(args!["verify", archive, "--against", other]).ok();
    write(&other.join("config.json"), b"{}");
    let said = run(args!["verify", archive, "--against", other]).code(1);
    assert!(said.stdout.contains("config.json"), "{said:?}");
}
