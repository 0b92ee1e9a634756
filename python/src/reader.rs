//! What `safe_open` and `load_file` stand on: a path in, names and shapes and bytes out. Next in the flow: `matrix.rs`,
//! for tensors that are to stay packed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use netweight_container::Error;
use netweight_layout::{Geometry, Layout};
use pyo3::prelude::*;

use crate::errors::{Failure, Result};
use crate::matrix::{Groups, pack};
use crate::memory::{AlignedBuffer, BytesMut};
use crate::pools::pool;
use crate::source::{Request, Source};

/// The tensors of an archive or of safetensors files.
#[pyclass(frozen, module = "netweight._netweight")]
pub struct Reader {
    source: Source,
}

/// (name, rows or None for all, address, length in bytes): what is to be read, and where to.
type Target = (String, Option<(u64, u64)>, usize, usize);

#[pymethods]
impl Reader {
    /// Opens a file or a folder and reads the headers.
    #[new]
    fn open(py: Python<'_>, path: PathBuf) -> PyResult<Reader> {
        let source = py.detach(|| Source::open(&path)).map_err(Failure::Error)?;
        Ok(Reader { source })
    }

    /// Names by shard and offset.
    fn names(&self) -> Vec<String> {
        self.source.names()
    }

    /// `__metadata__` of the headers.
    fn metadata(&self) -> BTreeMap<String, String> {
        self.source.metadata()
    }

    /// Whether the tensors are archived.
    #[getter]
    fn is_archive(&self) -> bool {
        self.source.is_archive()
    }

    /// (dtype, shape, bytes) of a tensor as its header spells them.
    fn about(&self, name: &str) -> PyResult<(String, Vec<u64>, u64)> {
        let (_, entry) = self.source.find(name).map_err(Failure::Error)?;
        Ok((entry.dtype_name.clone(), entry.shape.clone(), entry.len_bytes()))
    }

    /// The resident layout that a tensor is stored in, if any.
    fn resident_layout(&self, name: &str) -> PyResult<Option<&'static str>> {
        let (shard_idx, _) = self.source.find(name).map_err(Failure::Error)?;
        let resident = self.source.archived(shard_idx).and_then(|shard| shard.resident(name));
        Ok(resident.map(|resident| resident.layout.name()))
    }

    /// Reads tensors, or rows of them, to where each target says. The memory must be there, and nobody else's, until
    /// the call returns.
    fn read_into(&self, py: Python<'_>, targets: Vec<Target>, threads: usize) -> PyResult<()> {
        let mut requests = Vec::with_capacity(targets.len());
        for (name, rows, address, len) in targets {
            let rows = rows.map(|(begin, end)| begin..end);
            let (shard_idx, range) = self.source.range(&name, rows).map_err(Failure::Error)?;
            if range.end - range.start != len as u64 {
                let error = Error::invalid("the memory is not as long as the tensor").in_tensor(&name);
                return Err(Failure::Error(error).into());
            }
            requests.push(Request { shard_idx, range, target: BytesMut::at(address, len)? });
        }
        Ok(py.detach(|| self.source.read(&pool(threads), &requests, &check_signals))?)
    }

    /// A bf16 matrix, or some rows and columns of it, packed; `None` where that is not smaller.
    #[pyo3(signature = (name, layout, rows, cols, threads))]
    fn read_packed(
        &self,
        py: Python<'_>,
        name: &str,
        layout: Option<&str>,
        rows: Option<(usize, usize)>,
        cols: Option<(usize, usize)>,
        threads: usize,
    ) -> PyResult<Option<AlignedBuffer>> {
        Ok(py.detach(|| self.pack(name, layout, rows, cols, threads))?)
    }
}

impl Reader {
    fn pack(
        &self,
        name: &str,
        layout: Option<&str>,
        rows: Option<(usize, usize)>,
        cols: Option<(usize, usize)>,
        threads: usize,
    ) -> Result<Option<AlignedBuffer>> {
        let (shard_idx, entry) = self.source.find(name)?;
        let invalid = |what: &'static str| Failure::Error(Error::invalid(what).in_tensor(name));
        let &[n_rows, n_cols] = entry.shape.as_slice() else { return Err(invalid("not a matrix: it must be 2-D")) };
        if entry.dtype_name != "BF16" {
            return Err(invalid("not bf16: only bf16 matrices can be packed"));
        }
        let whole = |n: u64| usize::try_from(n).map_err(|_| invalid("too large for this machine"));
        let (n_rows, n_cols) = (whole(n_rows)?, whole(n_cols)?);
        let (rows, cols) = (rows.unwrap_or((0, n_rows)), cols.unwrap_or((0, n_cols)));
        if rows.0 > rows.1 || rows.1 > n_rows || cols.0 > cols.1 || cols.1 > n_cols {
            return Err(invalid("the tensor has no such rows or columns"));
        }
        let shard = self.source.archived(shard_idx);
        let stored = shard.and_then(|shard| Some((shard, shard.resident(name)?.layout)));
        let layout = match (layout, stored) {
            (Some(layout), _) => crate::matrix::layout(layout)?,
            (None, Some((_, layout))) => layout,
            (None, None) => Layout::Exact11,
        };
        let geometry = Geometry::new(layout, rows.1 - rows.0, cols.1 - cols.0)?;
        let is_whole = rows == (0, n_rows) && cols == (0, n_cols);
        let groups = match stored {
            Some((shard, stored)) if is_whole && stored == layout => Groups::Stored { shard, name },
            _ => {
                let range = self.source.range(name, Some(rows.0 as u64..rows.1 as u64))?.1;
                Groups::Read { source: &self.source, shard_idx, start: range.start, n_cols, first_col: cols.0 }
            }
        };
        pack(&pool(threads), geometry, &groups)
    }
}

/// Whether the user has pressed Ctrl-C. Only Python's main thread gets to know.
pub fn check_signals() -> Result<()> {
    Ok(Python::attach(|py| py.check_signals())?)
}
