//! The other engines, each in a Python process of its own that answers one request at a time. The protocol is
//! described in model_peers.py. Next in the flow: run.rs.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::model::options::ModelOptions;
use crate::options::Error;
use crate::stats::Timing;

const SCRIPTS: [(&str, &str); 2] =
    [("model_peers.py", include_str!("../../model_peers.py")), ("model_gguf.py", include_str!("../../model_gguf.py"))];
const NAMES: [&str; 5] = ["llama.cpp-bf16", "llama.cpp-q8_0", "llama.cpp-q4_k_m", "torch-bf16", "torch-bf16-eager"];

/// All of them. Dropping them ends their processes, then removes their scripts.
pub(crate) struct ModelPeers {
    pub(crate) list: Vec<ModelPeer>,
    _dir: tempfile::TempDir,
}

/// One engine in one setting.
pub(crate) struct ModelPeer {
    pub(crate) name: String,
    /// Why it is not measured, or not any more.
    pub(crate) note: Option<String>,
    pub(crate) about: About,
    process: Option<Process>,
}

/// A process's first line.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct About {
    pub(crate) version: Option<String>,
    pub(crate) load_s: Option<f64>,
    pub(crate) file_mib: Option<f64>,
    skipped: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Answer<T> {
    #[serde(flatten)]
    value: Option<T>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Times {
    seconds: f64,
    cpu_s: f64,
}

#[derive(Deserialize)]
struct Logits {
    logits: Vec<f32>,
}

#[derive(Deserialize)]
struct MemoryMib {
    peak_mib: Option<f64>,
    rss_mib: Option<f64>,
}

struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl ModelPeers {
    /// Starts the processes one after the other; they load the model and warm up. What is not installed has a note.
    ///
    /// # Errors
    /// Those of writing the scripts.
    pub(crate) fn start(options: &ModelOptions) -> Result<ModelPeers, Error> {
        let dir = tempfile::tempdir().map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
        for (name, text) in SCRIPTS {
            let path = dir.path().join(name);
            std::fs::write(&path, text).map_err(|source| Error::Io { path, source })?;
        }
        let model = options.peers_of.as_ref().unwrap_or(&options.model);
        let model = std::path::absolute(model).unwrap_or_else(|_| model.clone());
        let gguf = options.gguf.clone().unwrap_or_else(|| dir.path().join("gguf"));
        let counts =
            [("--threads", options.max_threads()), ("--prompt", options.prompt), ("--generate", options.generate)];
        let command = |name: &str| {
            let mut command = Command::new(&options.python);
            command.arg("-u").arg(dir.path().join(SCRIPTS[0].0)).arg(&model).args(["--serve", name]);
            command.args(counts.iter().flat_map(|(flag, count)| [flag.to_string(), count.to_string()]));
            command.arg("--gguf").arg(&gguf);
            command
        };
        let list = NAMES.iter().map(|name| ModelPeer::start(name, command(name), &options.python)).collect();
        Ok(ModelPeers { list, _dir: dir })
    }
}

impl ModelPeer {
    fn start(name: &str, mut command: Command, python: &Path) -> ModelPeer {
        let started = (|| {
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
            let mut child = command.spawn().map_err(|error| format!("{}: {error}", python.display()))?;
            let (stdin, stdout) = (child.stdin.take(), child.stdout.take().ok_or("python has no pipes")?);
            let mut process = Process { child, stdin, stdout: BufReader::new(stdout) };
            let about: About = process.line()?;
            Ok::<_, String>((process, about))
        })();
        let name = name.to_owned();
        match started {
            Err(note) => ModelPeer { name, note: Some(note), about: About::default(), process: None },
            Ok((process, about)) => {
                let note = about.skipped.clone().or_else(|| about.error.clone());
                let process = note.is_none().then_some(process);
                ModelPeer { name, note, about, process }
            }
        }
    }

    /// Whether it computes with the weights as they are.
    pub(crate) fn is_bf16(&self) -> bool {
        self.name.contains("bf16")
    }

    /// Times `prefill` or `decode`. A failure becomes the note.
    pub(crate) fn timed(&mut self, operation: &str) -> Option<Timing> {
        let times: Times = self.ask(operation)?;
        Some(Timing { cpu_s: times.cpu_s, wall_s: times.seconds })
    }

    /// Logits after the prompt.
    pub(crate) fn logits(&mut self) -> Option<Vec<f32>> {
        Some(self.ask::<Logits>("logits")?.logits)
    }

    /// Most memory that the process had, and memory that it has, in MiB.
    pub(crate) fn memory_mib(&mut self) -> Option<[Option<f64>; 2]> {
        let found: MemoryMib = self.ask("memory")?;
        Some([found.peak_mib, found.rss_mib])
    }

    fn ask<T: DeserializeOwned>(&mut self, command: &str) -> Option<T> {
        let answer = self.process.as_mut()?.request(command);
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                self.note = Some(format!("failed: {error}"));
                self.process = None;
                None
            }
        }
    }
}

impl Process {
    fn request<T: DeserializeOwned>(&mut self, command: &str) -> Result<T, String> {
        let stdin = self.stdin.as_mut().ok_or("python has no pipes")?;
        let line = json!({ "cmd": command });
        if writeln!(stdin, "{line}").and_then(|()| stdin.flush()).is_err() {
            return Err(self.end());
        }
        let answer: Answer<T> = self.line()?;
        match (answer.error, answer.value) {
            (Some(error), _) => Err(error),
            (None, Some(value)) => Ok(value),
            (None, None) => Err(format!("no answer to {command}")),
        }
    }

    fn line<T: DeserializeOwned>(&mut self) -> Result<T, String> {
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) => Err(self.end()),
            Ok(_) => serde_json::from_str(&line).map_err(|error| format!("python says {error}")),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Says how a process ended that should not have.
    fn end(&mut self) -> String {
        self.stdin = None;
        self.child.wait().map_or_else(|error| error.to_string(), |status| format!("python ended early, {status}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input ends the process; a failure here has nobody to tell.
        self.stdin = None;
        let _ = self.child.wait();
    }
}
