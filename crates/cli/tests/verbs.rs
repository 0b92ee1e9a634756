//! Every verb does what it says, on the bundled model and on a sharded synthetic one.

mod common;

use common::{bookworm, digests, names, run, scratch, sharded};

#[test]
fn folder_there_and_back() {
    let folder = scratch();
    let made = sharded(folder.path(), "tiny", 3, "300kB");
    assert!(names(&made).len() > 4, "{:?}", names(&made));
    for (source, level) in [(bookworm(), "default"), (bookworm(), "max"), (made, "default")] {
        let work = scratch();
        let (archive, back) = (work.path().join("archive"), work.path().join("back"));
        let said = run(args!["compress", source, "-o", archive, "--level", level]).ok().stdout;
        assert!(said.contains("compressed") && said.contains("%"), "{said}");
        let said = run(args!["verify", archive, "--against", source]).ok().stdout;
        assert!(said.contains("is whole") && said.contains("byte for byte"), "{said}");
        run(args!["restore", archive, "-o", back]).ok();
        assert_eq!(digests(&source), digests(&back));
        run(args!["restore", archive, "-o", back, "--force", "--skip-sha256", "--threads", "1"]).ok();
        assert_eq!(digests(&source), digests(&back));
        assert_eq!(names(work.path()), ["archive", "back"]);
    }
}

#[test]
fn resident_there_and_back() {
    for layout in ["exact11", "exact12"] {
        let work = scratch();
        let (archive, back) = (work.path().join("archive"), work.path().join("back"));
        let said = run(args!["compress", bookworm(), "-o", archive, "--resident", layout]).ok().stdout;
        assert!(said.contains(layout), "{said}");
        run(args!["verify", archive, "--against", bookworm()]).ok();
        run(args!["restore", archive, "-o", back]).ok();
        assert_eq!(digests(&bookworm()), digests(&back));
        let shown = run(args!["inspect", archive, "--all"]).ok().stdout;
        assert!(shown.contains(&format!("level default, resident {layout}")), "{shown}");
        let found = run(args!["inspect", archive, "--no-bounds", "--json"]).ok().json();
        assert_eq!(found["resident"], layout);
        let tensors = found["tensors"].as_array().expect("tensors");
        let layout_of = |name: &str| &tensors.iter().find(|tensor| tensor["name"] == name).expect(name)["layout"];
        assert_eq!(layout_of("model.layers.0.mlp.down_proj.weight"), layout);
        assert!(layout_of("model.norm.weight").is_null());
    }
    let refused = run(args!["compress", bookworm(), "-o", "never", "--resident", "bf16"]);
    assert!(refused.code(2).stderr.contains("exact11"), "a layout that archives do not have");
}

#[test]
fn file_there_and_back() {
    let work = scratch();
    let source = bookworm().join("model.safetensors");
    let (archive, back) = (work.path().join("archive.safetensors"), work.path().join("back.safetensors"));
    run(args!["compress", source, "-o", archive, "--threads", "2", "--no-check"]).ok();
    run(args!["verify", archive, "--against", source]).ok();
    run(args!["restore", archive, "-o", back]).ok();
    assert_eq!(digests(&source), digests(&back));
    assert_eq!(names(work.path()), ["archive.safetensors", "back.safetensors"]);
}

#[test]
fn rows_of_one_tensor() {
    let work = scratch();
    let (archive, out) = (work.path().join("archive"), work.path().join("rows.safetensors"));
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let said = run(args!["restore", archive, "-o", out, "--tensor", "lm_head.weight", "--rows", "3..5"]).ok().stdout;
    assert!(said.contains("BF16 [2, 256]"), "{said}");
    let whole = work.path().join("whole.safetensors");
    run(args!["restore", archive, "-o", whole, "--tensor", "lm_head.weight"]).ok();
    let data = |path: &std::path::Path| {
        let bytes = std::fs::read(path).expect("a file");
        let header = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes")) as usize + 8;
        bytes[header..].to_vec()
    };
    assert_eq!(data(&out), data(&whole)[3 * 512..5 * 512]);
    let original = std::fs::read(bookworm().join("model.safetensors")).expect("the model");
    assert!(original.windows(1024).any(|window| window == data(&out)));
}

#[test]
fn inspect_shows_every_tensor() {
    let work = scratch();
    let archive = work.path().join("archive");
    run(args!["compress", bookworm(), "-o", archive]).ok();
    let grouped = run(args!["inspect", archive]).ok().stdout;
    assert!(grouped.contains("model.layers.*.mlp.down_proj.weight"), "{grouped}");
    assert!(grouped.contains("all 57 tensors") && grouped.contains("of the bound"), "{grouped}");
    let all = run(args!["inspect", archive, "--all"]).ok().stdout;
    assert!(all.contains("model.layers.5.mlp.down_proj.weight"), "{all}");
    let quick = run(args!["inspect", bookworm(), "--no-bounds"]).ok().stdout;
    assert!(quick.contains("lm_head.weight") && !quick.contains("joint"), "{quick}");
}

#[test]
fn inspect_writes_a_page() {
    let work = scratch();
    let (page, mine) = (work.path().join("page.html"), work.path().join("mine.txt"));
    for _ in 0..2 {
        run(args!["inspect", bookworm(), "--html", page]).ok(); // The second one replaces the first.
        assert!(std::fs::read_to_string(&page).expect("a page").contains("lm_head.weight"));
    }
    std::fs::write(&mine, b"mine").expect("a file");
    run(args!["inspect", bookworm(), "--html", mine]).code(5);
    assert_eq!(std::fs::read(&mine).expect("a file"), b"mine");
    assert_eq!(names(work.path()), ["mine.txt", "page.html"]);
}

#[test]
fn estimate_is_near_and_plain() {
    let work = scratch();
    let archive = work.path().join("archive");
    let estimate = run(args!["--json", "estimate", bookworm()]).ok().json();
    let written = run(args!["--json", "compress", bookworm(), "-o", archive]).ok().json();
    let (guess, truth) = (estimate["predicted_bytes"].as_f64(), written["archive_bytes"].as_f64());
    let (guess, truth) = guess.zip(truth).expect("both");
    assert!((guess / truth - 1.0).abs() < 0.02, "{guess} for {truth}");
    assert!(run(args!["estimate", bookworm()]).ok().stdout.contains("worth it    yes"));
    // Bytes that no coder shrinks.
    let noise = work.path().join("noise.safetensors");
    let header = br#"{"w":{"dtype":"U8","shape":[1000000],"data_offsets":[0,1000000]}}  "#;
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    let mut state = 1u64;
    file.extend((0..1_000_000).map(|_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    }));
    std::fs::write(&noise, file).expect("a file");
    let said = run(args!["estimate", noise]).ok().stdout;
    assert!(said.contains("worth it    no"), "{said}");
}

#[test]
fn demo_brings_every_file_back() {
    let work = scratch();
    let mut demo = common::program();
    let said = common::finish(demo.arg("demo").env("TMPDIR", work.path())).ok().stdout;
    assert!(said.ends_with("every file is back, bit for bit\n"), "{said}");
    assert!(said.contains("model.safetensors") && said.contains("entropy"), "{said}");
    assert_eq!(names(work.path()), [""; 0], "something is left behind");
    let single = bookworm().join("model.safetensors");
    run(args!["demo", "--model", single, "--level", "max"]).ok();
}

#[test]
fn bench_measures() {
    let flags = ["bench", "--set", "bf16,fp8", "--shapes", "tiny", "--rounds", "1", "--threads", "1", "--no-peers"];
    let said = run(&[&flags[..], &["--level", "default", "--budget", "256KiB"]].concat()).ok().stdout;
    assert!(said.contains("netweight default") && said.contains("fp8"), "{said}");
    let file = bookworm();
    let report = run(args![
        "--json",
        "bench",
        "--file",
        file,
        "--rounds",
        "1",
        "--threads",
        "1",
        "--no-peers",
        "--budget",
        "1MB"
    ]);
    assert_eq!(report.ok().json()["data_sets"].as_array().map(Vec::len), Some(1));
}

#[test]
fn bench_runs_models() {
    let flags =
        ["--no-peers", "--rounds", "1", "--threads", "1,2", "--prompt", "8", "--generate", "2", "--batch", "1,2"];
    let mut args = args!["--json", "bench", bookworm(), "--layout", "bf16,exact12"].to_vec();
    args.extend(flags.map(Into::into));
    let report = run(&args).ok().json();
    assert_eq!((report["rows"].as_array().map(Vec::len), report["check"]["n_contenders"].as_u64()), (Some(4), Some(4)));
    if cfg!(target_os = "linux") {
        let peak = |idx: usize| report["weights"][idx]["memory"]["peak_bytes"].as_u64().expect("a peak");
        assert!(peak(0) > 13 << 20 && peak(1) > 10 << 20, "{report:#}");
    }
    let refused = |flags: &[&str], part: &str| {
        let said = run(&[&["bench"], flags].concat()).code(2).stderr;
        assert!(said.contains(part), "{said}");
    };
    refused(&["some-model", "--set", "bf16"], "--set");
    refused(&["--prompt", "8"], "MODEL");
    refused(&["--threads", "1,2"], "MODEL");
    refused(&["some-model", "--context", "20", "--no-peers", "--device", "cpu"], "160");
    refused(&["--kernels", "--device", "cpu"], "measures a GPU");
    refused(&["--random", "llama-tiny", "--device", "cpu"], "measures a GPU");
    refused(&["--kernels", "--generate", "8"], "--generate");
    refused(&["--kernels", "some-model"], "MODEL");
    refused(&["--kernels", "--matrix", "4096"], "ROWSxCOLS");
    refused(&["--matrix", "64x64"], "--kernels");
    refused(&["--device", "cuda"], "MODEL");
}

#[test]
fn synth_is_reproducible() {
    let work = scratch();
    for kind in ["bf16", "f16", "f32", "fp8"] {
        let (one, two, other) = (work.path().join("one"), work.path().join("two"), work.path().join("other"));
        run(args!["synth", kind, "-o", one, "--shapes", "tiny", "--seed", "7"]).ok();
        run(args!["synth", kind, "-o", two, "--shapes", "tiny", "--seed", "7"]).ok();
        run(args!["synth", kind, "-o", other, "--shapes", "tiny", "--seed", "8"]).ok();
        assert_eq!(digests(&one), digests(&two));
        assert_ne!(digests(&one), digests(&other));
        for made in [one, two, other] {
            std::fs::remove_dir_all(made).expect("removed");
        }
    }
    assert_eq!(names(work.path()), [""; 0]);
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(args!["completions", shell]).ok().stdout;
        assert!(script.contains("netweight") && script.contains("compress"), "{shell}");
    }
}
