//! The verbs of `netweight_pack` as Python calls them: without the GIL, with Ctrl-C, with a callback for progress. What
//! they report goes out as JSON, which `netweight/_verbs.py` makes classes of.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use netweight_container::Error;
use netweight_pack::{
    CompressOptions, EstimateOptions, InspectOptions, Level, Progress, RestoreOptions, TensorBytes, VerifyOptions,
};
use pyo3::prelude::*;
use serde::Serialize;

use crate::errors::{Failure, Result};
use crate::memory::Bytes;
use crate::{matrix, reader};

/// Least time between two looks at signals, and between two calls of a callback: each takes the GIL.
const PAUSE: Duration = Duration::from_millis(50);

/// A tensor to be saved: (name, dtype, shape, address, length in bytes).
type Tensor = (String, String, Vec<u64>, usize, usize);

/// `netweight.compress`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn compress(
    py: Python<'_>,
    source: PathBuf,
    archive: PathBuf,
    level: &str,
    resident: Option<&str>,
    threads: usize,
    force: bool,
    check: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = compress_options(level, resident, threads, force, check)?;
    run(py, progress, |progress| netweight_pack::compress(&source, &archive, &options, progress))
}

/// `save_file`: [`compress`] of tensors in memory, which must stay there, unchanged, until the call returns.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn compress_tensors(
    py: Python<'_>,
    tensors: Vec<Tensor>,
    metadata: BTreeMap<String, String>,
    archive: PathBuf,
    level: &str,
    resident: Option<&str>,
    threads: usize,
    force: bool,
) -> PyResult<String> {
    let options = compress_options(level, resident, threads, force, true)?;
    let held: Vec<Bytes> = tensors.iter().map(|tensor| Bytes::at(tensor.3, tensor.4)).collect::<PyResult<_>>()?;
    let about = tensors.into_iter().zip(&held);
    let tensors: Vec<TensorBytes<'_>> = about
        .map(|((name, dtype, shape, ..), bytes)| TensorBytes { name, dtype, shape, bytes: bytes.as_slice() })
        .collect();
    run(py, None, |progress| netweight_pack::compress_tensors(tensors, &metadata, &archive, &options, progress))
}

/// `netweight.restore`.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn restore(
    py: Python<'_>,
    archive: PathBuf,
    destination: PathBuf,
    threads: usize,
    force: bool,
    check_sha256: bool,
    tuned: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = RestoreOptions { threads, force, check_sha256, tuned };
    run(py, progress, |progress| netweight_pack::restore(&archive, &destination, &options, progress))
}

/// `netweight.restore_tensor`.
#[pyfunction]
pub fn restore_tensor(
    py: Python<'_>,
    archive: PathBuf,
    tensor: &str,
    rows: Option<(u64, u64)>,
    destination: PathBuf,
    force: bool,
    tuned: bool,
) -> PyResult<String> {
    let options = RestoreOptions { force, tuned, ..RestoreOptions::default() };
    let rows = rows.map(|(begin, end)| begin..end);
    run(py, None, |_| netweight_pack::restore_rows(&archive, tensor, rows, &destination, &options))
}

/// `netweight.verify`.
#[pyfunction]
pub fn verify(
    py: Python<'_>,
    archive: PathBuf,
    against: Option<PathBuf>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    if let Some(original) = &against {
        std::fs::metadata(original).map_err(|error| Failure::Error(Error::io(original, error)))?;
    }
    let options = VerifyOptions { threads, against };
    run(py, progress, |progress| netweight_pack::verify(&archive, &options, progress))
}

/// `netweight.inspect`.
#[pyfunction]
pub fn inspect(
    py: Python<'_>,
    path: PathBuf,
    bounds: bool,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = InspectOptions { threads, bounds };
    run(py, progress, |progress| netweight_pack::inspect(&path, &options, progress))
}

/// `netweight.estimate`.
#[pyfunction]
pub fn estimate(py: Python<'_>, source: PathBuf, level: &str, threads: usize, max_seconds: f64) -> PyResult<String> {
    let options = EstimateOptions { level: self::level(level)?, threads, max_seconds };
    run(py, None, |progress| netweight_pack::estimate(&source, &options, progress))
}

/// Runs a verb without the GIL and writes its report as JSON.
fn run<T: Serialize + Send>(
    py: Python<'_>,
    callback: Option<Py<PyAny>>,
    verb: impl FnOnce(&dyn Progress) -> netweight_container::Result<T> + Send,
) -> PyResult<String> {
    let progress = Caller::new(callback);
    let result = py.detach(|| {
        let report = verb(&progress);
        progress.call_back(true);
        report
    });
    if let Some(exception) = progress.take_exception() {
        return Err(exception);
    }
    let report = result.map_err(Failure::Error)?;
    serde_json::to_string(&report).map_err(|error| Failure::Error(Error::invalid(error.to_string())).into())
}

fn compress_options(
    level: &str,
    resident: Option<&str>,
    threads: usize,
    force: bool,
    check: bool,
) -> Result<CompressOptions> {
    let resident = resident.map(matrix::layout).transpose()?;
    Ok(CompressOptions { level: self::level(level)?, resident, threads, force, check, keep_exact: false })
}

fn level(name: &str) -> Result<Level> {
    let level = [Level::Default, Level::Max].into_iter().find(|level| level.name() == name);
    Ok(level.ok_or_else(|| Error::invalid(format!("{name:?} is no level: default and max are")))?)
}

/// Who called a verb: told how far it is, asked whether to go on.
struct Caller {
    callback: Option<Py<PyAny>>,
    state: Mutex<State>,
}

struct State {
    done_bytes: u64,
    total_bytes: u64,
    told: Instant,
    looked: Instant,
    exception: Option<PyErr>,
}

impl Caller {
    fn new(callback: Option<Py<PyAny>>) -> Caller {
        let now = Instant::now();
        let state = State { done_bytes: 0, total_bytes: 0, told: now, looked: now, exception: None };
        Caller { callback, state: Mutex::new(state) }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_exception(&self) -> Option<PyErr> {
        self.state().exception.take()
    }

    /// Tells the callback, if it is time, or the last time. What it raises stops the verb.
    fn call_back(&self, is_last: bool) {
        let Some(callback) = &self.callback else { return };
        let (done, total) = {
            let mut state = self.state();
            if state.exception.is_some() || !(is_last || state.told.elapsed() >= PAUSE) {
                return;
            }
            state.told = Instant::now();
            (state.done_bytes, state.total_bytes)
        };
        if let Err(error) = Python::attach(|py| callback.call1(py, (done, total)).map(|_| ())) {
            self.state().exception.get_or_insert(error);
        }
    }
}

impl Progress for Caller {
    fn start(&self, total_bytes: u64) {
        self.state().total_bytes = total_bytes;
    }

    fn advance(&self, bytes: u64) {
        self.state().done_bytes += bytes;
        self.call_back(false);
    }

    fn note(&self, text: &str) {
        let log = |py: Python<'_>| -> PyResult<()> {
            let logger = py.import("logging")?.call_method1("getLogger", ("netweight",))?;
            logger.call_method1("info", ("%s", text)).map(|_| ())
        };
        if let Err(error) = Python::attach(log) {
            self.state().exception.get_or_insert(error);
        }
    }

    fn is_interrupted(&self) -> bool {
        {
            let mut state = self.state();
            if state.exception.is_some() {
                return true;
            }
            if state.looked.elapsed() < PAUSE {
                return false;
            }
            state.looked = Instant::now();
        }
        let Err(failure) = reader::check_signals() else { return false };
        self.state().exception.get_or_insert(failure.into());
        true
    }
}

/// Whether there is an archive at a path: a folder with `netweight.json`, or an archive shard.
#[pyfunction]
pub fn is_archive(py: Python<'_>, path: PathBuf) -> PyResult<bool> {
    Ok(py.detach(|| is_archive_at(&path)).map_err(Failure::Error)?)
}

fn is_archive_at(path: &Path) -> netweight_container::Result<bool> {
    use netweight_container::{Context, FOLDER_MANIFEST_NAME, Header, InputFile, METADATA_KEY};
    if std::fs::metadata(path).in_file(path)?.is_dir() {
        return Ok(path.join(FOLDER_MANIFEST_NAME).exists());
    }
    let (header, _) = Header::read(&InputFile::open(path)?)?;
    Ok(header.metadata.contains_key(METADATA_KEY))
}
