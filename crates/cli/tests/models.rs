//! The verbs that run a model, on the bundled one: raw, archived, resident; and every way to ask for what cannot be.

#[macro_use]
mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use common::{bookworm, finish, program, run, scratch};

const PROMPT: &str = "It was a dark night, and the";
/// What transformers in float32 goes on with.
const STORY: &str = "sun was a long time. The sun was a long time";

fn text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/text/heldout.txt")
}

#[test]
fn every_form_of_a_model_writes_the_same() {
    let work = scratch();
    let (coded, resident) = (work.path().join("coded"), work.path().join("resident"));
    run(args!["compress", bookworm(), "-o", coded]).ok();
    run(args!["compress", bookworm(), "-o", resident, "--resident", "exact11"]).ok();
    for model in [bookworm(), coded.clone(), resident, coded.join("model.safetensors")] {
        for layout in ["", "bf16", "exact12", "f32"] {
            let mut command = program();
            command.args(args!["run", model, "--raw", PROMPT, "-n", "12", "--quiet"]);
            if !layout.is_empty() {
                command.args(["--layout", layout]);
            }
            let said = finish(&mut command).ok().stdout;
            assert_eq!(said.trim(), STORY, "{} {layout}", model.display());
        }
    }
}

#[test]
fn figures_and_json() {
    let ran = run(args!["run", bookworm(), "--raw", PROMPT, "-n", "5", "--threads", "1"]);
    assert!(ran.stderr.contains("8 prompt tokens") && ran.stderr.contains("5 tokens at"), "{ran:?}");
    let found = run(args!["--json", "run", bookworm(), "--raw", PROMPT, "-n", "5", "--stop", " long"]).ok().json();
    assert_eq!((found["text"].as_str(), found["finish_reason"].as_str()), (Some(" sun was a"), Some("stop")));
    assert!(found["load"]["bits_per_weight"].as_f64().is_some_and(|bits| bits < 12.2), "{found}");
    let seeded = |seed: &str| {
        let args = args!["--json", "run", bookworm(), "Hello", "-n", "16", "--temperature", "1", "--seed", seed];
        run(args).ok().json()["text"].clone()
    };
    assert_eq!(seeded("7"), seeded("7"));
    assert_ne!(seeded("7"), seeded("8"));
    let drawn = run(args!["run", bookworm(), "--raw", PROMPT, "-n", "12", "--quiet", "--seed", "7"]).ok().stdout;
    assert_ne!(drawn.trim(), STORY, "who gives a seed wants tokens drawn");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device that is full");
    let mut command = program();
    command.args(args!["run", bookworm(), "--raw", PROMPT, "-n", "3", "--quiet"]).stdout(full).stderr(Stdio::null());
    assert_eq!(command.status().expect("a run").code(), Some(4));
}

#[test]
fn prompts_come_through_pipes() {
    let mut child = program()
        .args(args!["run", bookworm(), "--raw", "-n", "3", "--quiet"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("a pipe").write_all(PROMPT.as_bytes()).expect("written");
    let output = child.wait_with_output().expect("an end");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "sun was a");
}

#[test]
fn logits_are_proven() {
    let work = scratch();
    let archive = work.path().join("archive");
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let said = run(args!["verify", archive, "--logits", PROMPT]).ok().stdout;
    assert!(said.contains("logits of 8 tokens: the same bits"), "{said}");
    let found = run(args!["--json", "verify", archive, "--against", bookworm(), "--logits", PROMPT]).ok().json();
    let ways = found["logits"].as_array().expect("ways");
    assert!(ways.len() == 6 && ways.iter().all(|way| way["sha256"] == ways[0]["sha256"]), "{found}");
}

#[test]
fn texts_are_scored() {
    let args = args!["--json", "eval", bookworm(), "--text", text(), "--window", "256", "--tokens", "2000"];
    let found = run(args).ok().json();
    assert_eq!(found["n_predicted"], 1999);
    let perplexity = found["perplexity"].as_f64().expect("a number");
    assert!(perplexity > 40.0 && perplexity < 60.0, "{perplexity}");
    let args = args![
        "--json",
        "eval",
        bookworm(),
        "--text",
        text(),
        "--window",
        "64",
        "--tokens",
        "500",
        "--against",
        bookworm()
    ];
    assert_eq!(run(args).ok().json()["n_identical"], 499);
    let one = run(args!["eval", bookworm(), "--text", text(), "--tokens", "300"]).ok();
    assert!(one.stdout.contains("(one window)") && !one.stdout.contains("NaN"), "{}", one.stdout);
}

/// A head of its own counts, even where the config ties it to the embeddings.
#[test]
fn a_head_in_the_weights_counts() {
    let work = scratch();
    for file in ["model.safetensors", "tokenizer.json"] {
        std::fs::copy(bookworm().join(file), work.path().join(file)).expect("a copy");
    }
    let config = std::fs::read_to_string(bookworm().join("config.json")).expect("a config");
    let tied = config.replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
    assert_ne!(tied, config);
    std::fs::write(work.path().join("config.json"), tied).expect("a config");
    let said = run(args!["run", work.path(), "--raw", PROMPT, "-n", "12", "--quiet"]).ok().stdout;
    assert_eq!(said.trim(), STORY);
}

#[test]
fn what_cannot_be_is_said_before_long_work() {
    let work = scratch();
    let copy = |files: &[&str], config: Option<&str>| {
        let folder = tempfile::tempdir_in(work.path()).expect("a folder").keep();
        for file in files {
            std::fs::copy(bookworm().join(file), folder.join(file)).expect("a copy");
        }
        if let Some(config) = config {
            std::fs::write(folder.join("config.json"), config).expect("a config");
        }
        folder
    };
    let config = std::fs::read_to_string(bookworm().join("config.json")).expect("a config");
    let check = |model: &Path, more: &[&str], code: i32, wanted: &str| {
        let ran = finish(program().args(args!["run", model, "--raw", "Hello", "-n", "1"]).args(more)).code(code);
        assert!(ran.stderr.contains(wanted), "{wanted:?} is not in {}", ran.stderr);
    };
    check(&work.path().join("nothing"), &[], 4, "nothing");
    check(&copy(&["model.safetensors", "tokenizer.json"], None), &[], 3, "config.json");
    check(&copy(&["config.json", "model.safetensors"], None), &[], 3, "tokenizer");
    check(&copy(&["config.json", "tokenizer.json"], None), &[], 3, ".safetensors");
    let other = |from: &str, to: &str| copy(&["model.safetensors", "tokenizer.json"], Some(&config.replace(from, to)));
    check(&other("LlamaForCausalLM", "FalconForCausalLM"), &[], 3, "LlamaForCausalLM");
    check(&other("\"hidden_size\": 256", "\"hidden_size\": 320"), &[], 3, "shape");
    check(&other("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7"), &[], 3, "missing");
    check(&other("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5"), &[], 3, "model.layers.5.");
    check(&other("\"hidden_size\": 256,", ""), &[], 3, "hidden_size");
    check(&other("\"hidden_size\": 256,", ""), &[], 3, "Qwen3MoeForCausalLM");
    check(&bookworm(), &["--temperature", "-1"], 2, "temperature");
    check(&bookworm(), &["--temperature", "NaN"], 2, "temperature");
    check(&bookworm(), &["--top-p", "1.5"], 2, "top_p");
    check(&bookworm(), &["--stop", ""], 2, "--stop");
    check(&bookworm(), &["--context", "0"], 2, "context");
    check(&bookworm(), &["--context", "9999999"], 2, "1024 positions");
    let long = "word ".repeat(3000);
    run(args!["run", bookworm(), "--raw", long]).code(2);
    run(args!["run", bookworm(), ""]).code(2);
    let mut bytes = std::fs::read(bookworm().join("model.safetensors")).expect("weights");
    bytes.truncate(bytes.len() / 2);
    let cut = copy(&["config.json", "tokenizer.json"], None);
    std::fs::write(cut.join("model.safetensors"), bytes).expect("a file");
    check(&cut, &[], 3, "truncated");
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_an_answer() {
    use std::time::{Duration, Instant};
    let mut child = program()
        .args(args!["run", bookworm(), "--raw", PROMPT, "--temperature", "1", "--seed", "1", "-n", "100000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut out = child.stdout.take().expect("a pipe");
    let mut first = [0; 1];
    std::io::Read::read_exact(&mut out, &mut first).expect("the answer begins");
    let begin = Instant::now();
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill").success());
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut out, &mut rest).expect("the rest");
    let status = child.wait().expect("an end");
    // It takes milliseconds; the bound is for machines that are busy with other things.
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    assert!(status.code() == Some(130) || status.code() == Some(0), "{status}"); // 0: the context was full before
}
