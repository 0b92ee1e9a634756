//! The engines that models are measured against, on a tiny model. What is not installed must be a row that says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// What a script prints, or None where there is no python3 with numpy.
fn python(name: &str, args: &[&str]) -> Option<String> {
    if !Command::new("python3").args(["-c", "import numpy"]).output().is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 with numpy");
        return None;
    }
    let output = Command::new("python3").arg(script(name)).args(args).output().unwrap();
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Shards differ with their size, tensors do not; the same seed gives the same bytes and another one others.
#[test]
fn models_depend_on_their_seed_alone() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, more: &[&str]| {
        let out = dir.path().join(name);
        let args = [&[out.to_str().unwrap(), "--shape", "tiny"], more].concat();
        let figures: Value = serde_json::from_str(&python("make_model.py", &args)?).unwrap();
        Some((figures, std::fs::read(out.join("model.safetensors")).ok(), out))
    };
    let Some((figures, bytes, _)) = make("a", &[]) else { return };
    assert_eq!((figures["n_params"].as_u64(), figures["n_weights_per_token"].as_u64()), (Some(3278080), Some(2228224)));
    assert!(bytes.is_some() && bytes == make("b", &[]).unwrap().1);
    assert_ne!(bytes, make("c", &["--seed", "1"]).unwrap().1);
    let (figures, none, sharded) = make("d", &["--shard-mib", "2"]).unwrap();
    assert!(figures["shards"].as_u64().unwrap() > 1 && none.is_none());
    let index = std::fs::read_to_string(sharded.join("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_str(&index).unwrap();
    for file in index["weight_map"].as_object().unwrap().values() {
        assert!(sharded.join(file.as_str().unwrap()).is_file(), "{file}");
    }
}

/// Each peer is measured, or says what it lacks.
#[test]
fn each_peer_is_a_row() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    let model = model.to_str().unwrap();
    if python("make_model.py", &[model, "--shape", "tiny"]).is_none() {
        return;
    }
    let peers = ["llama.cpp-bf16", "llama.cpp-q8_0", "torch-bf16-eager"];
    let list = peers.join(",");
    let sizes = ["--prompt", "8", "--generate", "2", "--rounds", "1"];
    let text = python("model_peers.py", &[&[model, "--json", "--peers", &list], &sizes[..]].concat()).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let rows = found["peers"].as_array().unwrap();
    assert_eq!(rows.iter().map(|row| row["peer"].as_str().unwrap()).collect::<Vec<_>>(), peers);
    for row in rows {
        if let Some(reason) = row["skipped"].as_str() {
            assert!(reason.contains("pip install"), "{reason}");
            continue;
        }
        assert!(row["error"].is_null(), "{row}");
        for rate in [&row["decode"]["median"], &row["prefill"]["median"], &row["load_s"], &row["peak_mib"]] {
            assert!(rate.as_f64().unwrap() > 0.0, "{row}");
        }
        // Quantised or not, and whoever converted it, it is the same model.
        assert!(row["cosine"].as_f64().unwrap() > 0.99, "{row}");
    }
}
