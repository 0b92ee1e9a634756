//! The other compressors, in a Python process that answers one request at a time, so that our rounds and theirs
//! take turns. The protocol is described in peers.py.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use crate::data::DataSet;
use crate::options::Error;
use crate::stats::Timing;

const SCRIPT: &str = include_str!("../peers.py");

/// The process. Dropping it ends it.
pub(crate) struct Peers {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// What the process offers.
    pub(crate) list: Vec<Peer>,
    _dir: tempfile::TempDir,
}

/// One compressor in one setting.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Peer {
    pub(crate) name: String,
    /// Why it cannot be measured.
    pub(crate) missing: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    cpu_s: f64,
    wall_s: f64,
    len_bytes: usize,
    error: Option<String>,
}

impl Peers {
    /// Starts the process on a copy of the data set. The inner error says why there are no peers.
    ///
    /// # Errors
    /// Those of writing the copy.
    pub(crate) fn start(python: &Path, data: &DataSet, n_repeats: usize) -> Result<Result<Peers, String>, Error> {
        let dir = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).map(|()| path.clone()).map_err(|source| Error::Io { path, source })
        };
        let script = write("peers.py", SCRIPT.as_bytes())?;
        let raw = write("data", &data.bytes)?;
        let segment = |s: &crate::data::Segment| json!([s.dtype.name(), s.range.start, s.range.end]);
        let segments: Vec<_> = data.segments.iter().map(segment).collect();
        let setup = write("setup.json", json!({"segments": segments, "n_repeats": n_repeats}).to_string().as_bytes())?;
        let spawned = Command::new(python)
            .arg("-u")
            .args([script, raw, setup])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // Peers allocate their own output. These keep freed memory mapped (in glibc), so that they do not
            // pay for page faults which we, writing into the caller's buffer, do not have.
            .envs([("MALLOC_MMAP_MAX_", "0"), ("MALLOC_TRIM_THRESHOLD_", "1000000000000")])
            .envs([("OMP_NUM_THREADS", "1")])
            .spawn();
        Ok(spawned.map_err(|error| format!("{}: {error}", python.display())).and_then(|child| Peers::greet(child, dir)))
    }

    fn greet(mut child: Child, dir: tempfile::TempDir) -> Result<Peers, String> {
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("python has no pipes".into());
        };
        let stdout = BufReader::new(stdout);
        let mut peers = Peers { child, stdin: Some(stdin), stdout, list: Vec::new(), _dir: dir };
        peers.list = serde_json::from_str(&peers.line()?).map_err(|error| format!("python says {error}"))?;
        Ok(peers)
    }

    fn line(&mut self) -> Result<String, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err("python ended early".into()),
            Ok(_) => Ok(line),
            Err(error) => Err(error.to_string()),
        }
    }

    /// One timed operation, `encode` or `decode`, of a peer, and its compressed size. The peer's error as text.
    pub(crate) fn request(&mut self, peer_idx: usize, operation: &str) -> Result<(Timing, usize), String> {
        let stdin = self.stdin.as_mut().expect("open until dropped");
        writeln!(stdin, "{peer_idx} {operation}").and_then(|()| stdin.flush()).map_err(|error| error.to_string())?;
        let answer: Answer = serde_json::from_str(&self.line()?).map_err(|error| error.to_string())?;
        match answer.error {
            Some(error) => Err(error),
            None => Ok((Timing { cpu_s: answer.cpu_s, wall_s: answer.wall_s }, answer.len_bytes)),
        }
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        // The end of its input ends the process; a failure here has nobody to tell.
        self.stdin = None;
        let _ = self.child.wait();
    }
}
