//! A checkpoint in which grids stand for some tensors: goes in a file and grids, comes out the file of the grids' values,
//! which is nowhere but in memory, a tensor at a time. Next in the flow: encode.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use netweight_container::{Context, Entry, Error, Header, InputFile, Result};
use netweight_tensor::{Grid, value_of};
use serde_json::{Map, Value, json};

use crate::encode::Input;
use crate::grid::Steps;

/// Grids that are kept for reading on.
const N_KEPT: usize = 2;
/// What the values of grids are kept as.
const DTYPE: &str = "BF16";

/// Grids by the names of the tensors that they stand for. They are asked for more than once, and need not all be in
/// memory.
pub trait Grids: Sync {
    /// Names of all tensors that have a grid.
    fn names(&self) -> BTreeSet<String>;
    /// The grid of one of them.
    ///
    /// # Errors
    /// Whatever keeps it from being there.
    fn grid(&self, name: &str) -> Result<Arc<Grid>>;
}

impl Grids for BTreeMap<String, Arc<Grid>> {
    fn names(&self) -> BTreeSet<String> {
        self.keys().cloned().collect()
    }

    fn grid(&self, name: &str) -> Result<Arc<Grid>> {
        self.get(name).cloned().ok_or_else(|| Error::invalid("no grid of that name").in_tensor(name))
    }
}

/// A shard of a checkpoint with the values of grids in the place of some tensors.
pub(crate) struct GridSource<'a> {
    input: &'a InputFile,
    grids: &'a dyn Grids,
    pub(crate) header: Header,
    pub(crate) header_bytes: Vec<u8>,
    /// By name; none where the shard has no grids.
    pub(crate) steps: BTreeMap<String, Arc<Steps>>,
    /// (header.tensors,) offsets in `input`; `None` for a grid.
    places: Vec<Option<u64>>,
    kept: Mutex<Vec<(usize, Arc<Grid>)>>, // the latest last
}

impl<'a> GridSource<'a> {
    /// `coded_bytes`: those of the original that a chunk of the codec stands for.
    pub(crate) fn new(
        input: &'a InputFile,
        header: &Header,
        header_bytes: &[u8],
        grids: &'a dyn Grids,
        coded_bytes: u64,
    ) -> Result<GridSource<'a>> {
        let names = grids.names();
        let is_grid = |entry: &Entry| names.contains(&entry.name);
        for entry in header.tensors.iter().filter(|entry| is_grid(entry)) {
            if !["BF16", "F16", "F32"].contains(&entry.dtype_name.as_str()) {
                return Err(Error::invalid("a grid for a tensor that is not BF16, F16 or F32").in_tensor(&entry.name));
            }
        }
        let is_other = |entry: &Entry| is_grid(entry) && entry.dtype_name != DTYPE;
        let (bytes, new) = match header.tensors.iter().any(is_other) {
            true => with_values(header, is_grid)?,
            false => (header_bytes.to_vec(), header.clone()),
        };
        let place = |(old, _): (&Entry, &Entry)| (!is_grid(old)).then_some(header.header_bytes + old.start);
        let places = header.tensors.iter().zip(&new.tensors).map(place).collect();
        let mut steps = BTreeMap::new();
        for entry in new.tensors.iter().filter(|entry| is_grid(entry)) {
            let of_grid = grids.grid(&entry.name).and_then(|grid| Steps::of(&grid, entry, coded_bytes));
            steps.insert(entry.name.clone(), Arc::new(of_grid.in_tensor(&entry.name)?));
        }
        Ok(GridSource { input, grids, header: new, header_bytes: bytes, steps, places, kept: Mutex::default() })
    }

    fn grid(&self, tensor_idx: usize) -> Result<Arc<Grid>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grid)) = kept.iter().find(|(idx, _)| *idx == tensor_idx) {
            return Ok(Arc::clone(grid));
        }
        let entry = &self.header.tensors[tensor_idx];
        let grid = self.grids.grid(&entry.name)?;
        let is_right = grid.check().is_ok() && entry.shape == [grid.rows as u64, grid.cols as u64];
        if !is_right {
            return Err(Error::invalid("a grid that has changed since it was asked for first").in_tensor(&entry.name));
        }
        if kept.len() == N_KEPT {
            kept.remove(0);
        }
        kept.push((tensor_idx, Arc::clone(&grid)));
        Ok(grid)
    }
}

/// The header in which tensors that `is_grid` says are bf16, in the same order.
fn with_values(header: &Header, is_grid: impl Fn(&Entry) -> bool) -> Result<(Vec<u8>, Header)> {
    let (mut entries, mut position) = (Vec::with_capacity(header.tensors.len()), 0);
    for entry in &header.tensors {
        let (dtype, len_bytes) = match is_grid(entry) {
            true => (DTYPE, entry.len_bytes() / entry.dtype.element_bytes() as u64 * 2),
            false => (entry.dtype_name.as_str(), entry.len_bytes()),
        };
        let end = position + len_bytes;
        let value = json!({ "dtype": dtype, "shape": entry.shape, "data_offsets": [position, end] });
        entries.push((entry.name.clone(), value));
        position = end;
    }
    let mut json = Map::new();
    if !header.metadata.is_empty() {
        json.insert("__metadata__".to_owned(), json!(header.metadata));
    }
    json.extend(entries);
    let text = serde_json::to_vec(&Value::Object(json)).map_err(|error| Error::invalid(error.to_string()))?;
    let mut bytes = (text.len().next_multiple_of(8) as u64).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes.resize(bytes.len().next_multiple_of(8), b' ');
    let header = Header::parse(&bytes, bytes.len() as u64 + position)?;
    Ok((bytes, header))
}

impl Input for GridSource<'_> {
    fn len_bytes(&self) -> u64 {
        self.header.header_bytes + self.header.data_bytes()
    }

    fn path(&self) -> &Path {
        self.input.path()
    }

    fn read_exact_at(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let (begin, end) = (offset, offset + dst.len() as u64);
        let overlap = |start: u64, len_bytes: u64| (begin.max(start), end.min(start + len_bytes));
        let (from, to) = overlap(0, self.header.header_bytes);
        if from < to {
            dst[..(to - begin) as usize].copy_from_slice(&self.header_bytes[from as usize..to as usize]);
        }
        let start = |entry: &Entry| self.header.header_bytes + entry.start;
        let first = self.header.tensors.partition_point(|entry| start(entry) + entry.len_bytes() <= begin);
        for (entry, tensor_idx) in self.header.tensors[first..].iter().zip(first..) {
            let (from, to) = overlap(start(entry), entry.len_bytes());
            if from >= to {
                if start(entry) >= end { break } else { continue }
            }
            let slice = &mut dst[(from - begin) as usize..(to - begin) as usize];
            match self.places[tensor_idx] {
                Some(place) => self.input.read_exact_at(place + from - start(entry), slice)?,
                None => write_values(&*self.grid(tensor_idx)?, (from - start(entry)) as usize, slice),
            }
        }
        Ok(())
    }
}

/// Fills `dst` with the bytes of a grid's values from byte `offset` on.
fn write_values(grid: &Grid, mut offset: usize, mut dst: &mut [u8]) {
    let mut values = Vec::new();
    while !dst.is_empty() {
        let row = offset / (2 * grid.cols);
        let at = offset - row * 2 * grid.cols;
        let n = dst.len().min(2 * grid.cols - at);
        let indices = &grid.indices[row * grid.cols..][..grid.cols];
        values.clear();
        let of_row = indices.iter().zip(&grid.col_steps);
        values.extend(
            of_row.flat_map(|(&index, &col_step)| value_of(grid.row_steps[row], col_step, index).to_le_bytes()),
        );
        let (now, rest) = dst.split_at_mut(n);
        now.copy_from_slice(&values[at..at + n]);
        (offset, dst) = (offset + n, rest);
    }
}
