//! Runs the built program; makes checkpoints for it.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use sha2::{Digest, Sha256};

/// A folder for one test; removed when dropped.
pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// The bundled model.
pub fn bookworm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm")
}

/// The program, ready for arguments; on the CPU, whatever else there is.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_netweight"));
    command.stdin(Stdio::null()).env("NETWEIGHT_DEVICE", "cpu");
    command
}

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs the program with pipes for its output.
pub fn run<A: AsRef<OsStr>>(args: &[A]) -> Ran {
    finish(program().args(args))
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Ran {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: output.status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

impl Ran {
    /// The run must have ended well and said nothing on standard error.
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert!(self.code == Some(0) && self.stderr.is_empty(), "{self:?}");
        self
    }

    /// The run must have ended with that code, without a panic.
    #[track_caller]
    pub fn code(self, code: i32) -> Ran {
        assert!(self.code == Some(code) && !self.stderr.contains("panicked"), "{code} expected: {self:?}");
        self
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Arguments of mixed strings and paths.
#[macro_export]
macro_rules! args {
    ($($arg:expr),* $(,)?) => { &[$(std::ffi::OsString::from(&$arg)),*] };
}

/// A sharded synthetic checkpoint of `megabytes` or so, in a folder of its own.
pub fn sharded(folder: &Path, shapes: &str, layers: u32, shard_size: &str) -> PathBuf {
    let path = folder.join("made");
    let layers = layers.to_string();
    run(args!["synth", "bf16", "-o", path, "--shapes", shapes, "--layers", layers, "--shard-size", shard_size]).ok();
    path
}

/// Relative path -> SHA-256 of every file under `root`, or of `root` itself.
pub fn digests(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    collect(root, root, &mut found);
    found
}

fn collect(root: &Path, path: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a folder") {
            collect(root, &entry.expect("an entry").path(), found);
        }
        return;
    }
    let relative = path.strip_prefix(root).expect("under root").display().to_string();
    found.insert(relative, Sha256::digest(std::fs::read(path).expect("a file")).to_vec());
}

/// Names of what is directly in a folder, hidden ones too.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}
