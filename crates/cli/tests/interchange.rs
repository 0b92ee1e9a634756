//! `import` and `export`: a model goes to the files of other engines and back, and runs as it did.

mod common;

use common::{bookworm, run, scratch};
use netweight_engine::Tokenizer;
use serde_json::Value;

const PROMPT: &str = "It was a bright morning, and the";

/// What the bundled model, or one made of it, says.
fn said(model: &std::path::Path) -> Value {
    run(args!["--json", "run", model, PROMPT, "--raw", "-n", "24"]).ok().json()["text"].clone()
}

#[test]
fn an_imported_model_runs_as_its_original() {
    let work = scratch();
    let (file, back, archive) = (work.path().join("a.gguf"), work.path().join("back"), work.path().join("archive"));
    let text = run(args!["export", bookworm(), "-o", file]).ok().stdout;
    assert!(text.contains("rounded     none of 6,819,072 values"), "{text}");
    let report = run(args!["--json", "import", file, "-o", back]).ok().json();
    assert_eq!(
        (&report["verb"], &report["weights"], &report["rounded"]),
        (&"import".into(), &"bf16".into(), &0.into())
    );
    assert!(said(&bookworm()).is_string() && said(&back) == said(&bookworm()));
    let (ours, theirs) = (Tokenizer::read(back.as_path()).unwrap(), Tokenizer::read(bookworm().as_path()).unwrap());
    for text in [PROMPT, "“Don't!”  said Mr. Ä—\n\n12345 <|user|>hm<|endoftext|>"] {
        assert_eq!(ours.encode(text).unwrap(), theirs.encode(text).unwrap());
        assert_eq!(
            ours.decode(&ours.encode(text).unwrap()).unwrap(),
            theirs.decode(&theirs.encode(text).unwrap()).unwrap()
        );
    }
    run(args!["compress", back, "-o", archive]).ok();
    let again = work.path().join("again.gguf");
    run(args!["export", archive, "-o", again, "--quiet"]).ok();
    let int8 = work.path().join("int8");
    let text = run(args!["export", archive, "-o", int8, "--weights", "int8"]).ok().stdout;
    assert!(text.contains("4,718,592 of 6,819,072 values, to integers with scales"), "{text}");
    let text = run(args!["import", int8, "-o", back, "--force"]).ok().stdout;
    assert!(text.contains("of 6,819,072 values, to bf16"), "{text}");
}

#[test]
fn what_is_refused_says_why() {
    let work = scratch();
    let (file, back) = (work.path().join("a.gguf"), work.path().join("back"));
    run(args!["export", bookworm(), "-o", file, "--weights", "q8_0"]).ok();
    let check = |args: &[std::ffi::OsString], code: i32, message: &str, hint: &str| {
        let ran = run(args).code(code);
        assert!(ran.stderr.contains(message) && ran.stderr.contains(hint), "{ran:?}");
    };
    check(args!["export", bookworm(), "-o", file], 5, "already there", "--force");
    check(args!["import", bookworm(), "-o", back], 3, "not a GGUF file", "compressed-tensors");
    check(args!["export", file, "-o", back], 3, "not a folder with config.json", "folder");
    check(args!["import", work.path().join("gone"), "-o", back], 4, "gone", "check the path");
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    check(args!["import", file, "-o", back], 3, "truncated", "fetch it again");
    let at = whole.windows(5).position(|window| window == b"llama").unwrap();
    let other = [&whole[..at], b"xxxxx", &whole[at + 5..]].concat();
    std::fs::write(&file, other).unwrap();
    check(args!["import", file, "-o", back], 3, "known are llama, qwen2, qwen3", "netweight help import");
    assert!(!back.exists());
}

/// What ONNX Runtime makes of it is tested in python/integrations/test_onnx.py.
#[test]
fn onnx_is_a_folder() {
    let work = scratch();
    let (archive, folder) = (work.path().join("archive"), work.path().join("onnx"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let text = run(args!["export", archive, "-o", folder, "--to", "onnx"]).ok().stdout;
    assert!(text.contains("as onnx (bf16)") && text.contains("none of 6,819,072 values"), "{text}");
    for name in ["model.onnx", "model.onnx.data", "config.json", "tokenizer.json", "generation_config.json"] {
        assert!(folder.join(name).is_file(), "{name}");
    }
    let again = run(args!["export", archive, "-o", folder, "--to", "onnx"]).code(5);
    assert!(again.stderr.contains("--force"), "{again:?}");
    let report = run(args!["--json", "export", archive, "-o", folder, "--to", "onnx", "--weights", "int8", "--force"]);
    assert_eq!(report.ok().json()["quantized"], 4_718_592);
    let other = run(args!["export", archive, "-o", folder, "--to", "onnx", "--weights", "q8_0", "--force"]).code(3);
    assert!(other.stderr.contains("it has bf16, f16, f32, int8"), "{other:?}");
}

/// A limit on the size of files stands in for a full disk: nothing appears, and the same command goes on from there.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_half_done() {
    let work = scratch();
    let (file, other, back) = (work.path().join("a.gguf"), work.path().join("b.gguf"), work.path().join("back"));
    run(args!["export", bookworm(), "-o", file]).ok();
    let limited = |args: &[std::ffi::OsString]| {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_netweight")]).args(args);
        common::finish(&mut shell).code(4)
    };
    let ran = limited(args!["export", bookworm(), "-o", other]);
    assert!(ran.stderr.contains("ulimit -f") && !other.exists(), "{ran:?}");
    let ran = limited(args!["import", file, "-o", back]);
    assert!(ran.stderr.contains("ulimit -f") && !back.exists(), "{ran:?}");
    let left: Vec<String> = std::fs::read_dir(work.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    assert!(left.iter().all(|name| name == "a.gguf" || name == ".back.netweight-partial"), "{left:?}");
    run(args!["import", file, "-o", back]).ok();
    assert!(said(&back) == said(&bookworm()));
}
