//! The benchmark of models on the bundled one, so that it cannot rot. No peers are needed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netweight_bench::{Error, LogitsCheck, ModelOptions, ModelReport, measure_memory, run_model};
use netweight_engine::{Layout, Precision};
use netweight_tensor::Grid;

fn tiny() -> ModelOptions {
    let model: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm");
    ModelOptions {
        layouts: vec![Layout::Bf16, Layout::Exact11, Layout::Exact12],
        threads: vec![1, 2],
        prompt: 16,
        generate: 4,
        batches: vec![1, 3],
        rounds: 1,
        peers: false,
        ..ModelOptions::new(model)
    }
}

fn check(report: &ModelReport) {
    let tools: Vec<(&str, usize)> = report.rows.iter().map(|row| (row.tool.as_str(), row.n_threads)).collect();
    let layouts = ["netweight bf16", "netweight exact11", "netweight exact12"];
    let expected = [1, 2].iter().flat_map(|&n_threads| layouts.map(|layout| (layout, n_threads)));
    assert_eq!(tools, expected.collect::<Vec<_>>());
    for row in &report.rows {
        let batches: Vec<usize> = row.decode.iter().map(|batch| batch.n_sequences).collect();
        assert_eq!(batches, [1, 3]);
        let speeds = row.decode.iter().map(|batch| batch.speed).chain([row.prefill]);
        for spread in speeds.map(|speed| speed.tokens_per_second).chain(row.gigabytes_per_core) {
            assert!(0.0 < spread.min && spread.min <= spread.median && spread.median <= spread.max, "{row:?}");
        }
        assert!(row.of_read.is_some());
    }
    let bits = |idx: usize| report.weights[idx].bits_per_weight.unwrap();
    assert!((bits(0) - 16.0).abs() < 0.1 && bits(1) < 12.0 && bits(2) < 12.9, "{:?}", report.weights);
    // Two exact layouts with one and two threads, against bf16 in three measures.
    assert_eq!((report.ratios.len(), report.memory.len()), (2 * 2 * 3, 4));
    assert!(report.ratios.iter().all(|ratio| ratio.to == "netweight bf16" && ratio.tool.contains("exact")));
    // A vocabulary of 4096 after the prompt and for a batch of three.
    assert_eq!((report.check.n_contenders, report.check.n_logits), (6, 4 * 4096));
}

#[test]
fn all_of_ours_are_measured() {
    let report = run_model(&tiny()).unwrap();
    check(&report);
    assert_eq!((report.n_weights, report.weights_per_token), (6_815_744, 5_767_168));
    let text = report.to_string();
    for part in ["same bits", "netweight exact12", "decode x3", "read of 11 MiB", "ratios"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(text.lines().all(|line| line.len() <= 120 || line.contains("bookworm")), "{text}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["rows"][0]["decode"][1]["speed"]["tokens_per_second"]["median"].is_number());
}

/// An archive gives the same bits; peers cannot read it, which is a note.
#[test]
fn archives_are_measured_too() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    netweight_pack::compress(&tiny().model, &archive, &Default::default(), &netweight_pack::Silent).unwrap();
    let two = ModelOptions { layouts: vec![Layout::Bf16], threads: vec![2], ..tiny() };
    let of_checkpoint = run_model(&two).unwrap();
    let of_archive = run_model(&ModelOptions { model: archive, peers: true, ..two }).unwrap();
    assert_eq!(of_checkpoint.check, of_archive.check);
    assert!(of_archive.weights[1].note.as_ref().is_some_and(|note| note.contains("archive")));
}

/// Contenders that compute something else are measured beside the others, each kind with logits of its own.
#[test]
fn indices_are_measured_beside_weights() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let (name, rows, cols) = ("lm_head.weight", 4096, 256);
    let indices = (0..rows * cols).map(|idx| (idx * 7919 % 15) as i8 - 7).collect();
    let grid = Grid { rows, cols, indices, row_steps: vec![0.010_009_766; rows], col_steps: vec![1.0; cols] };
    let grids = BTreeMap::from([(name.to_owned(), Arc::new(grid))]);
    netweight_pack::compress_grids(&tiny().model, &archive, &grids, &Default::default(), &netweight_pack::Silent)
        .unwrap();
    let activations = vec![Precision::Bf16, Precision::Int8];
    let options = ModelOptions { model: archive, layouts: Vec::new(), activations, ..tiny() };
    let report = run_model(&options).unwrap();
    let checks: Vec<&LogitsCheck> = std::iter::once(&report.check).chain(&report.other_checks).collect();
    let found: Vec<(&str, usize)> = checks.iter().map(|check| (check.of.as_str(), check.n_contenders)).collect();
    let [of_weights, of_indices, of_integers] =
        ["weights with bf16", "indices with bf16", "indices with int8"].map(|what| format!("{what} activations"));
    assert_eq!(found, [(of_weights.as_str(), 2), (&of_indices, 2), (&of_integers, 2)]);
    let hashes: BTreeSet<&String> = checks.iter().flat_map(|check| [&check.prompt_hash, &check.batch_hash]).collect();
    assert_eq!((hashes.len(), report.rows.len()), (6, 6));
    assert!(report.rows[2].tool.ends_with(" int8"), "{:?}", report.rows[2]);
    let text = report.to_string();
    assert!(text.contains(&format!("of {of_integers}, ")), "{text}");
}

/// The interpreter does not exist: each peer is a row that says so, without speed.
#[test]
fn missing_peers_are_notes() {
    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("no-such-python");
    let report =
        run_model(&ModelOptions { peers: true, python, layouts: Vec::new(), threads: vec![1], ..tiny() }).unwrap();
    assert_eq!((report.rows.len(), report.weights.len()), (2, 7));
    let (ours, peers) = report.weights.split_at(2);
    assert!(ours.iter().all(|row| row.note.is_none()));
    assert!(peers.iter().all(|row| row.note.as_ref().is_some_and(|note| note.contains("no-such-python"))), "{peers:?}");
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_measured() {
    let found = measure_memory(&tiny()).unwrap();
    assert!(found.peak_bytes.unwrap() > 2 * 6_815_744);
}

#[test]
fn what_cannot_be_is_an_error() {
    let long = ModelOptions { prompt: 1 << 20, ..tiny() };
    assert!(matches!(run_model(&long), Err(Error::Engine(_))));
    assert!(matches!(run_model(&ModelOptions::new("no-such-model".into())), Err(Error::Engine(_))));
    let short = ModelOptions { context: Some(19), ..tiny() };
    assert!(run_model(&short).is_err_and(|error| error.to_string().contains("19")));
    let program = ModelOptions { program: Some("no-such-program".into()), ..tiny() };
    assert!(matches!(run_model(&program), Err(Error::MemoryUse(_))));
}
