//! `audit --against`: an exact archive gets a card where every byte and every logit is the original's, and none elsewhere.

#[macro_use]
mod common;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use common::{Ran, bookworm, run, scratch};
use netweight_pack::{CompressOptions, Silent, compress_grids};
use netweight_tensor::Grid;

/// Of RFC 8032's second test, as OpenSSL writes it.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n\
                       -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";

fn audit(archive: &Path, original: &Path, more: &[OsString]) -> Ran {
    let short = args!["--eval-tokens", "300", "--window", "128"];
    run(&[args!["audit", archive, "--against", original].as_slice(), short, more].concat())
}

#[test]
fn an_exact_archive_gets_a_card() {
    let work = scratch();
    let place = |name: &str| work.path().join(name);
    let (archive, card) = (place("archive"), place("archive").join("netweight-card.json"));
    std::fs::write(place("private"), PRIVATE).unwrap();
    std::fs::write(place("public"), PUBLIC).unwrap();
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let report = audit(&archive, &bookworm(), args!["--json", "--sign", place("private")]).ok().json();
    let written = &report["card"];
    assert_eq!((&written["kind"], &written["method"]), (&"exact".into(), &serde_json::Value::Null));
    assert_eq!(written["evidence"].as_array().unwrap().len(), 2);
    for evidence in written["evidence"].as_array().unwrap() {
        let scores = &evidence["model"];
        assert_eq!(evidence["original_logits"], evidence["model_logits"]);
        for figure in ["mean", "median", "p90", "p99", "p999", "max"] {
            assert_eq!(scores["divergence"][figure], 0.0, "{figure}");
        }
        assert_eq!((scores["same_top"].as_f64(), scores["acceptance"].as_f64()), (Some(1.0), Some(1.0)));
        assert_eq!(scores["perplexity"], scores["original_perplexity"]);
        assert!(evidence["noise_floor"]["divergence"]["mean"].as_f64().unwrap() > 0.0);
    }
    assert_eq!(written["free_run"]["same_to_the_end"], 1.0);
    let sizes = &written["sizes"];
    let on_disk: u64 = written["files"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    assert_eq!((sizes["archive_bytes"].as_u64(), sizes["n_weights"].as_u64()), (Some(on_disk), Some(6_815_744)));
    assert!((10.0..11.5).contains(&sizes["bits_per_weight"].as_f64().unwrap()), "{sizes}");

    let shown = run(args!["audit", archive, "--key", place("public")]).ok().stdout;
    assert!(shown.contains("exact: every weight is the original's") && shown.contains(PUBLIC), "{shown}");
    // The archive is what it was: whole, and restored without the card.
    run(args!["verify", archive, "--against", bookworm()]).ok();
    run(args!["restore", archive, "-o", place("back")]).ok();
    assert!(!place("back").join("netweight-card.json").exists());

    let again = audit(&archive, &bookworm(), &[]).code(5);
    assert!(again.stderr.contains("there is a card already") && again.stderr.contains("--force"), "{again:?}");
    audit(&archive, &bookworm(), args!["--force"]).ok();
    assert!(!std::fs::read_to_string(card).unwrap().contains(PUBLIC));
}

#[test]
fn what_is_not_equal_gets_none() {
    let work = scratch();
    let place = |name: &str| work.path().join(name);
    let archive = place("archive");
    run(args!["compress", bookworm(), "-o", archive]).ok();
    std::fs::create_dir(place("other")).unwrap();
    for entry in std::fs::read_dir(bookworm()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, place("other").join(path.file_name().unwrap())).unwrap();
    }
    let check = |original: &Path, code: i32, part: &str| {
        let ran = audit(&archive, original, &[]).code(code);
        assert!(ran.stderr.contains(part), "{part}: {ran:?}");
        assert!(!archive.join("netweight-card.json").exists());
    };
    // One bit of one weight.
    let weights = place("other").join("model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let last = bytes.len() - 1000;
    bytes[last] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    check(&place("other"), 1, "model.safetensors");
    bytes[last] ^= 1;
    std::fs::write(&weights, &bytes).unwrap();
    std::fs::write(place("other").join("more.txt"), b"x").unwrap();
    check(&place("other"), 1, "more.txt");
    check(&place("gone"), 4, "gone");
    // Damage to the archive.
    let shard = archive.join("model.safetensors");
    let whole = std::fs::read(&shard).unwrap();
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    std::fs::write(&shard, damaged).unwrap();
    check(&bookworm(), 1, "model.safetensors");
    std::fs::write(&shard, whole).unwrap();
    let ran = run(args!["audit", archive]).code(3);
    assert!(ran.stderr.contains("--against"), "{ran:?}");
    run(args!["audit", archive, "--sign", place("private")]).code(2);
}

#[test]
fn a_tuned_archive_has_its_own() {
    let work = scratch();
    let archive = work.path().join("archive");
    let grid = Grid {
        rows: 4096,
        cols: 256,
        indices: vec![1; 4096 * 256],
        row_steps: vec![0.5; 4096],
        col_steps: vec![1.0; 256],
    };
    let grids = BTreeMap::from([("lm_head.weight".to_owned(), Arc::new(grid))]);
    compress_grids(&bookworm(), &archive, &grids, &CompressOptions::default(), &Silent).unwrap();
    let ran = audit(&archive, &bookworm(), &[]).code(2);
    assert!(ran.stderr.contains("a tuned archive") && ran.stderr.contains("netweight tune"), "{ran:?}");
    assert!(!archive.join("netweight-card.json").exists());
}
