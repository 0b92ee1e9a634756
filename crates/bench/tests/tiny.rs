//! The whole benchmark on tiny inputs, so that it cannot rot. No peers are needed: the interpreter does not
//! exist, which must be a note in the report.

use netweight_bench::{Error, Options, Report, run};
use netweight_synth::{Kind, Shapes, write_file};

fn tiny_run(dir: &std::path::Path) -> Report {
    let file = dir.join("weights.safetensors");
    write_file(&file, Kind::F32, &Shapes::TINY, 1).unwrap();
    let options = Options {
        files: vec![file],
        cast_bf16: true,
        peers: true,
        python: dir.join("no-such-python"),
        ..Options::tiny()
    };
    run(&options).unwrap()
}

#[test]
fn every_data_set_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let report = tiny_run(dir.path());
    let names: Vec<&str> = report.data_sets.iter().map(|data_set| data_set.name.as_str()).collect();
    let file_names = ["weights.safetensors", "weights.safetensors as bf16"];
    assert_eq!(names[..4], ["synthetic bf16", "synthetic f16", "synthetic f32", "synthetic fp8"]);
    assert_eq!(names[4..], file_names);
    for data_set in &report.data_sets {
        // Two levels on one and two threads, and the note about the peers.
        assert_eq!(data_set.rows.len(), 5, "{}", data_set.name);
        let (peers, ours) = data_set.rows.split_last().unwrap();
        assert!(peers.peer && peers.note.as_ref().is_some_and(|note| note.contains("no-such-python")), "{peers:?}");
        for row in ours {
            let (encode, decode) = (row.encode.unwrap(), row.decode.unwrap());
            for rate in [encode, decode] {
                let spread = rate.per_cpu_second;
                assert!(0.0 < spread.min && spread.min <= spread.median && spread.median <= spread.max, "{row:?}");
            }
            assert!(row.size_percent.unwrap() < 101.0, "{row:?}");
        }
        assert_eq!((data_set.memory.len(), data_set.comparisons.len()), (4, 2));
        assert!(data_set.bounds.joint_percent < data_set.bounds.exponent_percent + 0.01);
    }
}

#[test]
fn reports_print_and_serialise() {
    let dir = tempfile::tempdir().unwrap();
    let report = tiny_run(dir.path());
    let text = report.to_string();
    for part in ["synthetic fp8", "netweight default", "memcpy", "bounds: exponent", "no-such-python"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["data_sets"][0]["rows"][0]["decode"]["per_cpu_second"]["median"].is_number());
}

#[test]
fn missing_files_are_errors() {
    let options = Options { synthetic: Vec::new(), files: vec!["no-such-file".into()], ..Options::tiny() };
    assert!(matches!(run(&options), Err(Error::Io { .. })));
}

/// With a Python but, most likely, without the packages: each peer is a row, measured or with a note.
#[test]
fn peers_that_are_not_installed_are_notes() {
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: no python3");
        return;
    }
    let report = run(&Options { peers: true, rounds: 1, synthetic: vec![Kind::Bf16], ..Options::tiny() }).unwrap();
    let peers: Vec<_> = report.data_sets[0].rows.iter().filter(|row| row.peer).collect();
    assert!(peers.len() >= 5, "{peers:?}");
    assert!(peers.iter().all(|row| row.decode.is_some() || row.note.is_some()), "{peers:?}");
}
