//! `tune` and `audit` on the bundled model: every budget is met or refused, and whatever is changed afterwards is found.

#[macro_use]
mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Ran, bookworm, finish, program, run, scratch};

/// Little text: figures mean little, and everything is done that is done with more.
const SHORT: [&str; 6] = ["--sequences", "8", "--window", "128", "--eval-tokens", "600"];
/// Of RFC 8032's second test, as OpenSSL writes it.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIEzNCJso/5banbbDRuwRTg9bijGfNaumJNqM9u1PuKb7\n\
                       -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c";
const OTHER: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

fn tune(to: &Path, more: &[OsString]) -> Command {
    let mut command = program();
    command.args(args!["tune", bookworm(), "-o", to]).args(SHORT).args(more);
    command
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Says what is wrong, and leaves nothing.
fn refused(ran: Ran, code: i32, what: &str, work: &Path, expected: &[&str]) {
    let ran = ran.code(code);
    assert!(ran.stderr.contains(what), "{what:?}: {ran:?}");
    assert_eq!(names(work), expected);
}

#[test]
fn bits_are_kept_and_the_card_is_true() {
    let work = scratch();
    let (tuned, key) = (work.path().join("tuned"), work.path().join("key.pem"));
    std::fs::write(&key, PRIVATE).unwrap();
    let ran = finish(tune(&tuned, args!["--bits", "4", "--json", "--sign", key]).arg("--threads=2"));
    let card = &ran.json()["card"];
    let sizes = &card["sizes"];
    assert!((3.7..=4.0).contains(&sizes["bits_per_weight"].as_f64().unwrap()), "{sizes}");
    let on_disk: u64 = names(&tuned)
        .iter()
        .filter(|name| *name != "netweight-card.json")
        .map(|name| std::fs::metadata(tuned.join(name)).unwrap().len())
        .sum();
    assert_eq!(sizes["archive_bytes"].as_u64(), Some(on_disk));
    let held_out = &card["evidence"][0];
    assert_eq!(held_out["role"], "held-out");
    let mean = held_out["model"]["divergence"]["mean"].as_f64().unwrap();
    assert!(mean > held_out["noise_floor"]["divergence"]["mean"].as_f64().unwrap() && mean < 0.05, "{held_out}");
    run(args!["verify", tuned]).ok();

    // Another program's measure of the same thing.
    let text = work.path().join("text.txt");
    std::fs::write(&text, netweight_tune::HELD_OUT).unwrap();
    let args =
        args!["eval", tuned, "--text", text, "--against", bookworm(), "--window", "128", "--tokens", "600", "--json"];
    let measured = run(args).ok().json();
    assert_eq!(measured["divergence"]["mean"].as_f64(), Some(mean));

    let public = work.path().join("public");
    std::fs::write(&public, PUBLIC).unwrap();
    let shown = run(args!["audit", tuned, "--key", public]).ok().stdout;
    assert!(shown.contains("tuned: weights were changed") && shown.contains(PUBLIC), "{shown}");
    std::fs::write(&public, OTHER).unwrap();
    let other = run(args!["audit", tuned, "--key", public]).code(1);
    assert!(other.stderr.contains("another key"), "{other:?}");

    let path = tuned.join("tokenizer_config.json");
    let before = std::fs::read(&path).unwrap();
    std::fs::write(&path, [&before[..], b" "].concat()).unwrap();
    let changed = run(args!["audit", tuned]).code(1);
    assert!(changed.stderr.contains("tokenizer_config.json is not the file"), "{changed:?}");
    std::fs::write(&path, before).unwrap();
    let card = tuned.join("netweight-card.json");
    let text = std::fs::read_to_string(&card).unwrap().replacen("\"seed\": 0", "\"seed\": 1", 1);
    std::fs::write(&card, text).unwrap();
    let changed = run(args!["audit", tuned]).code(1);
    assert!(changed.stderr.contains("signature"), "{changed:?}");
}

/// Bytes of every file, by name.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    names(folder).into_iter().map(|name| (name.clone(), std::fs::read(folder.join(name)).unwrap())).collect()
}

#[test]
fn the_original_is_kept() {
    let work = scratch();
    let path = |name: &str| work.path().join(name);
    let (tuned, back, refinement) = (path("tuned"), path("back"), path("tuned/model.safetensors.refinement"));
    let ran = finish(tune(&tuned, args!["--bits", "4", "--json", "--keep-exact"]).arg("--threads=2")).ok();
    let sizes = &ran.json()["card"]["sizes"];
    let bits = |key: &str| sizes[key].as_f64().unwrap();
    let in_all = bits("bits_per_weight_with_refinement");
    assert!(bits("bits_per_weight") <= 4.0 && in_all < 11.8, "{sizes}");
    let on_disk = |path: &Path| std::fs::metadata(path).unwrap().len();
    assert_eq!(sizes["refinement_bytes"].as_u64(), Some(on_disk(&refinement)));
    let all: u64 = names(&tuned).iter().map(|name| on_disk(&tuned.join(name))).sum();
    let beside = on_disk(&tuned.join("netweight-card.json")) + on_disk(&refinement);
    assert_eq!(sizes["archive_bytes"].as_u64(), Some(all - beside));

    let restored = run(args!["restore", tuned, "-o", back]).ok();
    assert!(restored.stdout.contains("the original's files, every byte"), "{restored:?}");
    assert!(contents(&back) == contents(&bookworm()));
    run(args!["restore", tuned, "-o", path("values"), "--tuned", "--quiet"]).ok();
    let values = contents(&path("values"));
    assert!(values != contents(&back) && values.len() == names(&back).len());
    let found = run(args!["verify", tuned, "--against", bookworm()]).ok();
    assert!(found.stdout.contains("the original comes out"), "{found:?}");
    let shown = run(args!["audit", tuned]).ok().stdout;
    assert!(shown.contains("bits each in all; here, as it was written"), "{shown}");
    let shown = run(args!["inspect", tuned, "--no-bounds"]).ok().stdout;
    assert!(shown.contains("and a refinement of"), "{shown}");

    // Damaged, then left out.
    let good = std::fs::read(&refinement).unwrap();
    let mut bytes = good.clone();
    bytes[good.len() / 2] ^= 4;
    std::fs::write(&refinement, bytes).unwrap();
    for args in [&args!["verify", tuned][..], args!["audit", tuned], args!["restore", tuned, "-o", path("x")]] {
        let ran = run(args).code(1);
        assert!((ran.stdout.clone() + &ran.stderr).contains("model.safetensors.refinement"), "{ran:?}");
    }
    std::fs::remove_file(&refinement).unwrap();
    let refused = run(args!["restore", tuned, "-o", path("x")]).code(3);
    assert!(refused.stderr.contains("refinement is not here") && refused.stderr.contains("--tuned"), "{refused:?}");
    assert!(!path("x").exists());
    let found = run(args!["verify", tuned]).ok();
    assert!(found.stdout.contains("its refinement is not here"), "{found:?}");
    let shown = run(args!["audit", tuned]).ok().stdout;
    assert!(shown.contains("; not here"), "{shown}");
    run(args!["restore", tuned, "-o", path("x"), "--tuned"]).ok();
    assert!(contents(&path("x")) == values);
    run(args!["run", tuned, "--raw", "It was", "--max-tokens", "4", "--quiet"]).ok();
}

#[test]
fn the_same_seed_gives_the_same_bytes() {
    let work = scratch();
    let shard = |name: &str, threads: &str, seed: &str| {
        let to = work.path().join(name);
        finish(&mut tune(&to, args!["--bits", "5", "--threads", threads, "--seed", seed, "--quiet"])).ok();
        std::fs::read(to.join("model.safetensors")).unwrap()
    };
    let one = shard("a", "1", "0");
    assert!(one == shard("b", "2", "0"), "the archive depends on the number of threads");
    assert!(one != shard("c", "2", "1"), "the seed changes nothing");
}

/// Ended while it probes, it goes on from there, and to the same bytes.
#[cfg(unix)]
#[test]
fn what_was_interrupted_goes_on() {
    let work = scratch();
    let (whole, to) = (work.path().join("whole"), work.path().join("to"));
    finish(&mut tune(&whole, args!["--bits", "5", "--quiet"])).ok();
    let journal = work.path().join(".to.netweight-tune.jsonl");
    let child = tune(&to, args!["--bits", "5"]).stderr(Stdio::piped()).spawn().unwrap();
    let n_lines = || std::fs::read_to_string(&journal).map_or(0, |text| text.lines().count());
    let begin = Instant::now();
    while n_lines() < 8 {
        assert!(begin.elapsed() < Duration::from_secs(300), "nothing is probed");
        std::thread::sleep(Duration::from_millis(5));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(130) && said.contains("probes are kept in"), "{said}");
    assert_eq!(names(work.path()), [".to.netweight-tune.jsonl", "whole"]);
    // The last line was not written to its end.
    let known = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, known.clone() + "{\"name\": \"mod").unwrap();
    let ran = finish(&mut tune(&to, args!["--bits", "5"])).code(0);
    assert!(ran.stdout.contains("probes of an earlier run"), "{ran:?}");
    assert_eq!(names(work.path()), ["to", "whole"]);
    let shard = |archive: &Path| std::fs::read(archive.join("model.safetensors")).unwrap();
    assert!(shard(&to) == shard(&whole), "what went on is another archive");
    // Of another run, it counts for nothing.
    std::fs::write(&journal, known).unwrap();
    let ran = finish(&mut tune(&to, args!["--bits", "5", "--force", "--seed", "1"])).code(0);
    assert!(!ran.stdout.contains("probes of an earlier run"), "{ran:?}");
}

#[test]
fn losses_are_kept() {
    let work = scratch();
    let to = work.path().join("kl");
    let card = &finish(&mut tune(&to, args!["--max-kl", "0.02", "--json"])).json()["card"];
    let mean = card["evidence"][0]["model"]["divergence"]["mean"].as_f64().unwrap();
    assert!(mean <= 0.02 && mean > 0.005, "{mean}");
    let to = work.path().join("size");
    let card = &finish(&mut tune(&to, args!["--size", "4MB", "--json"])).json()["card"];
    let bytes = card["sizes"]["archive_bytes"].as_u64().unwrap();
    assert!((3_800_000..=4_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn what_cannot_be_met_writes_nothing() {
    let work = scratch();
    let (to, short) = (work.path().join("to"), work.path().join("short.txt"));
    std::fs::write(&short, "A few words.").unwrap();
    let refused = |more: &[OsString], code, what| {
        refused(finish(&mut tune(&to, more)), code, what, work.path(), &["short.txt"]);
    };
    refused(args!["--max-kl", "0.000000001"], 2, "the best that can be reached is");
    refused(args!["--size", "300kB"], 2, "bits would be left");
    refused(args!["--bits", "4", "--calibration", short], 2, "tokens");
    refused(args!["--bits", "4", "--held-out", short], 2, "says nothing of a model");
    refused(args!["--bits", "4", "--held-out", work.path().join("none")], 4, "none");
    refused(args!["--bits", "4", "--sign", short], 2, "openssl genpkey");
    refused(args!["--bits", "0.5"], 2, "1 to 8 bits");
    refused(args!["--bits", "4", "--max-kl", "1"], 2, "cannot be used with");
    refused(args![], 2, "--bits");
}

/// German, for a model that read English.
#[test]
fn text_of_another_kind_is_warned_of() {
    let work = scratch();
    let text = work.path().join("german.txt");
    let words =
        ["Der", "Zweck", "heiligt", "nicht", "jedes", "Mittel,", "sprach", "\u{fc}brigens", "der", "K\u{f6}nig."];
    let german: String = (0..30_000).map(|idx| format!("{} ", words[idx * idx % 97 % words.len()])).collect();
    std::fs::write(&text, german).unwrap();
    let to = work.path().join("to");
    let ran = finish(&mut tune(&to, args!["--bits", "6", "--calibration", text])).code(0);
    assert!(ran.stderr.contains("differ in kind or language"), "{ran:?}");
    run(args!["audit", to]).ok();
}

#[test]
fn places_that_are_taken() {
    let work = scratch();
    let to = work.path().join("to");
    run(args!["compress", bookworm(), "-o", to]).ok();
    let taken = finish(&mut tune(&to, args!["--bits", "4"])).code(5);
    assert!(taken.stderr.contains("--force"), "{taken:?}");
    let card = run(args!["audit", to]).code(3);
    assert!(card.stderr.contains("no card here"), "{card:?}");
    let archive: PathBuf = to.clone();
    let of_archive = run(args!["tune", archive, "-o", work.path().join("x"), "--bits", "4"]).code(3);
    assert!(of_archive.stderr.contains("archive already"), "{of_archive:?}");
    finish(&mut tune(&to, args!["--bits", "4", "--force", "--quiet"])).ok();
    run(args!["audit", to]).ok();
    // And an exact one again, in the place of the tuned one with its card.
    run(args!["compress", bookworm(), "-o", to, "--force"]).ok();
    assert!(!to.join("netweight-card.json").exists());
    assert_eq!(names(work.path()), ["to"]);
}
