//! Errors become text and Python exceptions here and only here, each with what to do next.

use netweight_container::{Error, Place};
use pyo3::exceptions::{PyFileExistsError, PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use pyo3::types::PyType;

/// Result of the Rust side.
pub type Result<T> = std::result::Result<T, Failure>;

/// What went wrong, before it is Python's.
pub enum Failure {
    /// An error of a file or an argument.
    Error(Error),
    /// An exception that is there already, as of a callback.
    Exception(PyErr),
    /// A GPU's.
    Gpu(netweight_kernels_cuda::Error),
}

impl Failure {
    /// An error of a GPU.
    pub fn gpu(error: netweight_kernels_cuda::Error) -> Failure {
        Failure::Gpu(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

impl From<PyErr> for Failure {
    fn from(error: PyErr) -> Failure {
        Failure::Exception(error)
    }
}

impl From<netweight_layout::Error> for Failure {
    fn from(error: netweight_layout::Error) -> Failure {
        Failure::Error(match error {
            netweight_layout::Error::Truncated { expected, actual } => Error::truncated(expected as u64, actual as u64),
            netweight_layout::Error::Corrupt(what) => Error::corrupt(what),
            netweight_layout::Error::InvalidArgument(what) => Error::invalid(what),
            _ => Error::corrupt("a group that cannot be decoded"),
        })
    }
}

impl From<Failure> for PyErr {
    fn from(failure: Failure) -> PyErr {
        match failure {
            Failure::Error(error) => Python::attach(|py| exception(py, error).unwrap_or_else(|error| error)),
            Failure::Exception(error) => error,
            Failure::Gpu(error) => Python::attach(|py| gpu_exception(py, &error).unwrap_or_else(|error| error)),
        }
    }
}

const NAMES: &str = "keys() lists the names, netweight.inspect names and shapes";

/// What an `InvalidArgument` is to Python.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exists,
    Tensor,
    Argument,
}

/// Part of the text of an `InvalidArgument`, what it is to Python, and what to do next. The first match counts.
const ARGUMENTS: [(&str, Kind, &str); 18] = [
    ("already there", Kind::Exists, "pass force=True to replace it, or choose another destination"),
    ("would be lost", Kind::Exists, "move that file away, or choose another destination"),
    ("will not be replaced", Kind::Exists, "choose another destination"),
    ("stands where", Kind::Exists, "move it away, or choose another destination"),
    ("another run is writing", Kind::Exists, "wait for that run to end, or choose another destination"),
    ("stand in the way", Kind::Exists, "remove the files named .*.netweight-tmp-* there"),
    ("no tensor of that name", Kind::Tensor, NAMES),
    ("several shards", Kind::Argument, "name the shard that is meant instead of the folder"),
    ("git-lfs pointer", Kind::Argument, "run `git lfs pull` where it was cloned, then try again"),
    ("archive already", Kind::Argument, "netweight.restore gives its original back"),
    ("not a netweight archive", Kind::Argument, "netweight.compress makes an archive of a checkpoint"),
    ("no .safetensors file", Kind::Argument, "name a .safetensors file or the folder that holds them"),
    ("names the shard", Kind::Argument, "a shard is missing: finish the download, then try again"),
    ("was changed while", Kind::Argument, "run it again when nothing writes to that file"),
    ("no such rows", Kind::Argument, NAMES),
    ("scalar has no rows", Kind::Argument, NAMES),
    ("is both what is read", Kind::Argument, "choose another destination"),
    ("lies inside", Kind::Argument, "choose another destination"),
];

fn exception(py: Python<'_>, error: Error) -> PyResult<PyErr> {
    let place = error.place().clone();
    let (class, hint) = match &error {
        Error::Truncated { .. } | Error::Corrupt { .. } => (
            "DamagedError",
            "fetch it again or use another copy; netweight.verify lists all that is wrong with an archive",
        ),
        Error::Unsupported { .. } => ("FormatError", "update netweight"),
        Error::InvalidArgument { what, .. } => {
            let row = ARGUMENTS.iter().find(|row| what.contains(row.0));
            match row.map_or((Kind::Argument, ""), |row| (row.1, row.2)) {
                (Kind::Exists, hint) => return exists(&error, &place, hint),
                (Kind::Tensor, hint) => ("UnknownTensorError", hint),
                (Kind::Argument, hint) => ("InvalidArgument", hint),
            }
        }
        Error::Io { source, .. } => return refused(py, source, &place),
        _ => ("Error", "update netweight"),
    };
    let text = if hint.is_empty() { error.to_string() } else { format!("{error}; {hint}") };
    let class = py.import("netweight._errors")?.getattr(class)?.cast_into::<PyType>()?;
    let path = place.path.map(|path| path.display().to_string());
    let exception = class.call1((text,))?;
    exception.setattr("path", path)?;
    exception.setattr("tensor", place.tensor)?;
    exception.setattr("offset", place.offset)?;
    Ok(PyErr::from_value(exception))
}

fn gpu_exception(py: Python<'_>, error: &netweight_kernels_cuda::Error) -> PyResult<PyErr> {
    let class = py.import("netweight._errors")?.getattr("GpuError")?.cast_into::<PyType>()?;
    Ok(PyErr::from_value(class.call1((error.to_string(),))?))
}

fn exists(error: &Error, place: &Place, hint: &str) -> PyResult<PyErr> {
    let path = place.path.as_ref().map(|path| path.display().to_string());
    let Error::InvalidArgument { what, .. } = error else { return Ok(PyFileExistsError::new_err(error.to_string())) };
    Ok(PyFileExistsError::new_err((libc::EEXIST, format!("{what}; {hint}"), path)))
}

/// The subclass of `OSError` for what the system said.
fn refused(py: Python<'_>, source: &std::io::Error, place: &Place) -> PyResult<PyErr> {
    if source.kind() == std::io::ErrorKind::Interrupted {
        return Ok(PyKeyboardInterrupt::new_err(()));
    }
    let Some(code) = source.raw_os_error() else { return Ok(PyOSError::new_err(format!("{place}{source}"))) };
    let text = py.import("os")?.call_method1("strerror", (code,))?;
    let path = place.path.as_ref().map(|path| path.display().to_string());
    Ok(PyErr::from_value(py.get_type::<PyOSError>().call1((code, text, path))?))
}
