//! Killed at any moment, or out of space: the destination is not there or whole, the source is as it was, and the
//! same command goes on where it stopped.
#![cfg(unix)]

mod common;

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{digests, finish, names, program, run, scratch, sharded};

fn start(args: &[std::ffi::OsString]) -> Child {
    program().args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

fn kill(mut child: Child) {
    let _ = child.kill(); // SIGKILL; it may have ended.
    child.wait().expect("it ends");
}

/// Below `limit`, from the clock.
fn jitter(limit: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    limit.mul_f64(f64::from(now.subsec_nanos() % 10_007) / 10_007.0)
}

fn whole(archive: &Path, source: &Path) {
    run(args!["verify", archive, "--against", source]).ok();
}

fn n_resumed(report: &serde_json::Value) -> usize {
    report["files"].as_array().expect("files").iter().filter(|file| file["is_resumed"] == true).count()
}

#[test]
fn killed_while_compressing() {
    let work = scratch();
    let source = sharded(work.path(), "small", 4, "20MB");
    let before = digests(&source);
    let archive = work.path().join("archive");
    let begin = Instant::now();
    run(args!["compress", source, "-o", archive]).ok();
    let takes = begin.elapsed();
    let expected = digests(&archive);
    std::fs::remove_dir_all(&archive).expect("removed");
    for _ in 0..6 {
        let child = start(args!["compress", source, "-o", archive]);
        std::thread::sleep(jitter(takes));
        kill(child);
        if archive.exists() {
            whole(&archive, &source);
            std::fs::remove_dir_all(&archive).expect("removed");
        }
        run(args!["compress", source, "-o", archive]).ok();
        assert_eq!(expected, digests(&archive));
        assert_eq!(names(work.path()), ["archive", "made"]);
        std::fs::remove_dir_all(&archive).expect("removed");
    }
    assert_eq!(before, digests(&source));
}

#[test]
fn rerun_keeps_finished_shards() {
    let work = scratch();
    let source = sharded(work.path(), "small", 4, "20MB");
    let (archive, back) = (work.path().join("archive"), work.path().join("back"));
    for (verb, from, to) in [("compress", &source, &archive), ("restore", &archive, &back)] {
        let name = to.file_name().expect("a name").to_string_lossy().into_owned();
        let tree = work.path().join(format!(".{name}.netweight-partial/tree"));
        let child = start(args![verb, from, "-o", to, "--threads", "1"]);
        let n_done = || names(&tree).iter().filter(|name| !name.starts_with('.')).count();
        while !(tree.is_dir() && n_done() >= 2) {
            assert!(!to.exists(), "ended before it could be killed");
            std::thread::sleep(Duration::from_millis(1));
        }
        kill(child);
        assert!(!to.exists());
        let report = run(args!["--json", verb, from, "-o", to]).ok().json();
        assert!(n_resumed(&report) >= 1, "{report}");
        assert!(!tree.exists());
    }
    whole(&archive, &source);
    assert_eq!(digests(&source), digests(&back));
}

#[test]
fn single_file_killed_and_interrupted() {
    let work = scratch();
    let source = sharded(work.path(), "small", 4, "5GB").join("model.safetensors");
    let archive = work.path().join("archive.safetensors");
    let unfinished = || names(work.path()).iter().filter(|name| name.contains(".netweight-tmp-")).count();
    let wait_for_unfinished = || {
        while unfinished() == 0 {
            assert!(!archive.exists(), "ended before it could be stopped");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let child = start(args!["compress", source, "-o", archive, "--threads", "1"]);
    wait_for_unfinished();
    kill(child);
    assert!(!archive.exists() && unfinished() == 1);
    run(args!["compress", source, "-o", archive]).ok();
    assert_eq!(names(work.path()), ["archive.safetensors", "made"]);
    whole(&archive, &source);
    std::fs::remove_file(&archive).expect("removed");
    // A signal that can be caught leaves nothing at all, and says so.
    let mut child = program();
    let arguments = args!["compress", source, "-o", archive, "--threads", "1"];
    let child = child.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    wait_for_unfinished();
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().expect("kill");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("is as it was; run the same command again"), "{said}");
    assert_eq!(names(work.path()), ["made"]);
}

/// A limit on the size of files stands in for a full disk: writing fails in the middle of a shard.
#[test]
fn out_of_space() {
    let work = scratch();
    let source = sharded(work.path(), "small", 1, "20MB");
    let (archive, back) = (work.path().join("archive"), work.path().join("back"));
    let limited = |args: &[std::ffi::OsString]| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -f 4096; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_netweight")]).args(args);
        finish(shell.stdin(Stdio::null()))
    };
    let said = limited(args!["compress", source, "-o", archive]).code(4);
    assert!(said.stderr.contains("error: ") && said.stderr.contains("ulimit -f"), "{said:?}");
    assert!(!archive.exists());
    run(args!["compress", source, "-o", archive]).ok();
    whole(&archive, &source);
    let said = limited(args!["restore", archive, "-o", back]).code(4);
    assert!(said.stderr.contains("ulimit -f") && !back.exists(), "{said:?}");
    run(args!["restore", archive, "-o", back]).ok();
    assert_eq!(digests(&source), digests(&back));
    assert_eq!(names(work.path()), ["archive", "back", "made"]);
}
