//! What goes where: JSON, silence when asked or piped, closed pipes, help.

mod common;

use std::process::Stdio;

use common::{bookworm, finish, program, run, scratch};

#[test]
fn every_verb_writes_one_document() {
    let work = scratch();
    let (archive, back, made) = (work.path().join("archive"), work.path().join("back"), work.path().join("made"));
    let rows = work.path().join("rows.safetensors");
    let check = |verb: &str, args: &[std::ffi::OsString], key: &str| {
        let document = run(&[args!["--json"], args].concat()).ok().json();
        assert_eq!(document["verb"], verb);
        assert!(!document[key].is_null(), "{verb}: no {key} in {document}");
    };
    check("compress", args!["compress", bookworm(), "-o", archive], "archive_bytes");
    check("verify", args!["verify", archive], "problems");
    check("restore", args!["restore", archive, "-o", back], "original_bytes");
    check("restore", args!["restore", archive, "-o", rows, "--tensor", "lm_head.weight"], "shape");
    check("inspect", args!["inspect", archive], "tensors");
    check("inspect", args!["inspect", bookworm()], "totals");
    check("estimate", args!["estimate", bookworm()], "advice");
    check("demo", args!["demo"], "is_identical");
    check("synth", args!["synth", "f16", "-o", made, "--shapes", "tiny"], "shards");
    check("completions", args!["completions", "bash"], "script");
    let flags = ["bench", "--set", "bf16", "--shapes", "tiny", "--rounds", "1", "--threads", "1", "--no-peers"];
    check("bench", &flags.map(Into::into), "data_sets");
    assert_eq!(run(&["--version", "--json"]).ok().json()["format"], 2);
}

#[test]
fn quiet_is_quiet() {
    let work = scratch();
    let (archive, back) = (work.path().join("archive"), work.path().join("back"));
    for args in [
        args!["-q", "compress", bookworm(), "-o", archive].as_slice(),
        args!["verify", archive, "--quiet"],
        args!["restore", "-q", archive, "-o", back],
    ] {
        assert_eq!(run(args).ok().stdout, "");
    }
    assert!(!run(args!["-q", "inspect", archive]).ok().stdout.is_empty());
    assert_eq!(run(args!["-q", "demo"]).ok().stdout, "every file is back, bit for bit\n");
}

#[test]
fn closed_pipe_is_no_error() {
    let model = bookworm();
    for args in
        [args!["inspect", model, "--all"].as_slice(), args!["completions", "bash"], args!["--help"], args!["demo"]]
    {
        let mut child = program().args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}: {output:?}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn full_standard_output_is_an_error() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("Linux has it");
    let output = program().args(args!["inspect", bookworm()]).stdout(full).output().expect("it starts");
    assert_eq!(output.status.code(), Some(4), "{output:?}");
}

#[test]
fn help_has_examples_and_exit_codes() {
    let help = run(&["--help"]).ok().stdout;
    assert!(help.contains("Exit codes:") && help.contains("netweight demo"), "{help}");
    let verbs = ["compress", "restore", "verify", "inspect", "estimate", "demo", "bench", "synth", "completions"];
    for verb in verbs.into_iter().chain(["import", "export"]) {
        assert!(help.contains(verb), "{verb}");
        let help = run(&[verb, "--help"]).ok().stdout;
        assert!(help.contains("Examples:") && help.contains(&format!("netweight {verb}")), "{help}");
    }
    let version = run(&["--version"]).ok().stdout;
    assert!(version.contains("archive format 2"), "{version}");
}

#[test]
fn documented_exit_codes_agree_with_help() {
    let page = include_str!("../../../docs/cli.md");
    let help = run(&["--help"]).ok().stdout;
    for code in 0..=5 {
        assert!(page.contains(&format!("\n| {code} | ")), "{code} is missing in docs/cli.md");
        assert!(help.contains(&format!("\n  {code}    ")), "{code} is missing in --help");
    }
}

/// A terminal gets a bar; needs `script`, which gives a program a terminal.
#[test]
#[cfg(target_os = "linux")]
fn progress_on_a_terminal_only() {
    let work = scratch();
    let archive = work.path().join("archive");
    let piped = run(args!["compress", bookworm(), "-o", archive]).ok();
    assert!(!piped.stdout.contains('\u{1b}'), "{piped:?}");
    let line = format!("{} verify {}", env!("CARGO_BIN_EXE_netweight"), archive.display());
    let mut script = std::process::Command::new("script");
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env("TERM", "xterm");
    match script.output() {
        Err(_) => println!("skipped: there is no script(1) here"),
        Ok(_) => {
            let shown = finish(&mut script).code(0).stdout;
            assert!(shown.contains("verify") && shown.contains("13.91"), "{shown:?}");
        }
    }
}
