//! What an interrupted `tune` leaves beside its destination, so that the next run goes on from there: probes, which take
//! the longest. Goes in: what a run depends on. Comes out: what an earlier one found. Next in the flow: `search.rs`.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use netweight_tune::Sensitivity;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Failure;

/// Lines of JSON: the run's [`Head`], then a [`Sensitivity`] for each matrix that was probed.
pub struct Journal {
    path: PathBuf,
    file: File,
    is_kept: bool,
    /// Of the first matrices, in their order.
    pub known: Vec<Sensitivity>,
}

/// Says which run it is.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// All that probes depend on.
    run: Value,
}

impl Journal {
    /// Opens the journal of `destination`; one of another run starts anew. `run` is all that probes depend on.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(destination: &Path, run: &impl Serialize) -> Result<Journal, Failure> {
        let path = path_of(destination);
        let failed = |error| Failure::io(&path, error);
        let head = Head { run: serde_json::to_value(run).unwrap_or_default() };
        let text = match std::fs::read_to_string(&path) {
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidData) => {
                return Err(failed(error));
            }
            text => text.unwrap_or_default(),
        };
        let known = known(&text, &head);
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(&path).map_err(failed)?;
        let mut lines = line(&head);
        known.iter().for_each(|matrix| lines.extend(line(matrix)));
        file.write_all(&lines).map_err(failed)?;
        Ok(Journal { path, file, is_kept: false, known })
    }

    /// Writes one more down. Where that fails, an interruption costs more time, and nothing else.
    pub fn note(&mut self, matrix: &Sensitivity) {
        let _ = self.file.write_all(&line(matrix));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Lets it stay when this run ends, as it does when the program is ended.
    pub fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if !self.is_kept {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A hidden file beside the destination.
fn path_of(destination: &Path) -> PathBuf {
    let name = destination.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    destination.with_file_name(format!(".{name}.netweight-tune.jsonl"))
}

/// What stands in a journal of the same run; a line that was cut off ends it.
fn known(text: &str, head: &Head) -> Vec<Sensitivity> {
    let mut lines = text.lines();
    let is_ours = lines.next().and_then(|line| serde_json::from_str::<Head>(line).ok()).is_some_and(|own| own == *head);
    if is_ours { lines.map_while(|line| serde_json::from_str(line).ok()).collect() } else { Vec::new() }
}

fn line(value: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line
}
