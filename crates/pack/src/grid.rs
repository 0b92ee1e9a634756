//! Tensors that are stored as grids (section 8): small integers times a step for each row and column. Goes in: the bf16
//! values of rows, each of which has one index only; so an original's bytes become indices, and back. Also where an
//! engine gets indices and steps as they are. Next in the flow: grid_source.rs, which makes such originals.
//!
//! Q: Why classes of rows? Rows of different spread share one table of frequencies badly. A writer sorts the rows of a
//! chunk by their mean magnitude, deals them out to four classes of one size, and keeps what is smaller, four classes or
//! one. Columns have none: where their spread differs, a tuner gives them steps.

use std::ops::Range;
use std::sync::Arc;

use netweight_codec::{Level, describe_chunk};
use netweight_container::{Context, Entry, Error, Manifest, Result};
use netweight_tensor::{Dtype, Grid, index_of, is_step, value_of};

use crate::archive::ArchiveShard;
use crate::chunk::{self, codec_error, codec_label};
use crate::coding::Coding;
use crate::shard_file::Payload;
use crate::workers::Worker;

/// A row of so many columns is the largest chunk that there is.
const MAX_COLS: u64 = 1 << 19;
/// The steps of all grids of an archive shard take at most so many bytes.
const MAX_STEPS_BYTES: u64 = 1 << 26;
/// Classes of rows at most.
const MAX_CLASSES: usize = 16;
/// Classes that a writer tries besides one.
const N_CLASSES: usize = 4;
/// Indices of a class at least: below, tables of frequencies cost more than they bring.
const MIN_CLASS_INDICES: usize = 1 << 14;

/// The steps of a grid, and how it is cut into chunks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Steps {
    pub(crate) rows: Vec<f32>,
    pub(crate) cols: Vec<f32>,
    /// Rows of every chunk but the last.
    chunk_rows: usize,
}

impl Steps {
    fn new(rows: Vec<f32>, cols: Vec<f32>, coded_bytes: u64) -> Steps {
        let chunk_rows = (coded_bytes as usize / (2 * cols.len())).max(1); // At most 16 MiB.
        Steps { rows, cols, chunk_rows }
    }

    /// Those of a grid for the tensor `entry`, checked.
    pub(crate) fn of(grid: &Grid, entry: &Entry, coded_bytes: u64) -> Result<Steps> {
        grid.check().map_err(|error| Error::invalid(error.to_string()))?;
        if shape(entry) != Some((grid.rows, grid.cols)) {
            return Err(Error::invalid("a grid of another shape than its tensor, or with more than 524288 columns"));
        }
        Ok(Steps::new(grid.row_steps.clone(), grid.col_steps.clone(), coded_bytes))
    }

    /// Bytes of the original that a chunk stands for, the last one aside.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        (self.chunk_rows * self.row_bytes()) as u64 // At most 16 MiB: see MAX_COLS.
    }

    pub(crate) fn row_bytes(&self) -> usize {
        2 * self.cols.len()
    }

    /// The steps of the rows of a chunk that stands for `len_bytes` bytes.
    pub(crate) fn of_chunk(&self, chunk_idx: usize, len_bytes: usize) -> &[f32] {
        &self.rows[chunk_idx * self.chunk_rows..][..len_bytes / self.row_bytes()]
    }

    /// As section 8 has them: of rows, then of columns.
    fn write(&self, bytes: &mut Vec<u8>) {
        let high = |step: &f32| ((step.to_bits() >> 16) as u16).to_le_bytes();
        bytes.extend(self.rows.iter().chain(&self.cols).flat_map(high));
    }
}

/// (rows, columns) of a tensor that may be a grid.
pub(crate) fn shape(entry: &Entry) -> Option<(usize, usize)> {
    let &[rows, cols] = entry.shape.as_slice() else { return None };
    let is_grid = entry.dtype_name == "BF16" && rows >= 1 && (1..=MAX_COLS).contains(&cols);
    is_grid.then(|| Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?))).flatten()
}

/// The bytes that `netweight.steps` stands for.
pub(crate) fn steps_bytes<'s>(all: impl Iterator<Item = &'s Steps>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    all.for_each(|steps| steps.write(&mut bytes));
    match bytes.len() as u64 {
        0..=MAX_STEPS_BYTES => Ok(bytes),
        _ => Err(Error::invalid("more rows and columns in grids than a shard may have: cut the checkpoint smaller")),
    }
}

/// Size of the bytes that `netweight.steps` stands for in a shard of these `tensors`.
///
/// # Errors
/// `Corrupt` where a name is not that of a matrix, is tied, or is out of order, or there are too many.
pub(crate) fn steps_len(manifest: &Manifest, tensors: &[Entry]) -> Result<u64> {
    let corrupt = |what: &'static str, name: &str| Err(Error::corrupt(what).in_tensor(name));
    let mut names = manifest.grids.iter().peekable();
    let mut len_bytes = 0u64;
    for entry in tensors {
        if names.next_if(|name| **name == entry.name).is_none() {
            continue;
        }
        let Some((rows, cols)) = shape(entry).filter(|_| !manifest.same_as.contains_key(&entry.name)) else {
            return corrupt("stored as a grid, which it cannot be", &entry.name);
        };
        len_bytes = len_bytes.saturating_add(2 * (rows as u64 + cols as u64)); // Each is below 2^59: they have bytes.
    }
    match names.next() {
        Some(name) => corrupt("in the list of grids, but not there", name),
        None if len_bytes > MAX_STEPS_BYTES => Err(Error::corrupt("more steps of grids than a shard may have")),
        None => Ok(len_bytes),
    }
}

/// The coding of each of a shard's `tensors`, (tensors,). `read` gives chunk after chunk of the steps' payload.
///
/// # Errors
/// `Corrupt` where a step is none; those of `read`.
pub(crate) fn codings(
    manifest: &Manifest,
    tensors: &[Entry],
    mut read: impl FnMut(usize, &mut Vec<u8>) -> Result<()>,
) -> Result<Vec<Coding>> {
    let (mut bytes, mut n_chunks, mut at) = (Vec::new(), 0, 0);
    let mut take = |n: usize| -> Result<Vec<f32>> {
        // Memory grows with what was really decoded, not with what a header announces.
        while bytes.len() < at + 2 * n {
            read(n_chunks, &mut bytes)?;
            n_chunks += 1;
        }
        let halves = bytes[at..at + 2 * n].as_chunks::<2>().0;
        at += 2 * n;
        let steps: Vec<f32> = halves.iter().map(|&[low, high]| f32::from_le_bytes([0, 0, low, high])).collect();
        if steps.iter().all(|&step| is_step(step)) {
            Ok(steps)
        } else {
            Err(Error::corrupt("a step of a grid that is none"))
        }
    };
    let mut names = manifest.grids.iter().peekable();
    let coding = |entry: &Entry| match names.next_if(|name| **name == entry.name).and_then(|_| shape(entry)) {
        None => Ok(Coding::Chunks(entry.dtype)),
        Some((rows, cols)) => {
            let steps = Steps::new(take(rows)?, take(cols)?, manifest.chunk_bytes);
            Ok(Coding::Grid(Arc::new(steps)))
        }
    };
    tensors.iter().map(coding).collect()
}

/// Encodes the rows whose values are `raw`.
///
/// # Errors
/// `InvalidArgument` where some value is none of the grid.
pub(crate) fn encode(
    worker: &mut Worker,
    steps: &Steps,
    chunk_idx: usize,
    raw: &[u8],
    out: &mut Vec<u8>,
) -> Result<()> {
    let [mut indices, mut rows] = std::mem::take(&mut worker.indices);
    indices.clear();
    for (raw, &row_step) in raw.chunks_exact(steps.row_bytes()).zip(steps.of_chunk(chunk_idx, raw.len())) {
        let values = raw.as_chunks::<2>().0.iter().map(|&value| u16::from_le_bytes(value));
        indices.extend(values.zip(&steps.cols).map(|(value, &col_step)| index_of(row_step, col_step, value) as u8));
    }
    let classes = classes(&indices, steps.cols.len());
    let one = encode_classes(worker, &[], &indices, steps.cols.len(), &mut rows)?;
    let four = match classes.is_empty() {
        true => None,
        false => Some(encode_classes(worker, &classes, &indices, steps.cols.len(), &mut rows)?),
    };
    out.extend(four.filter(|four| four.len() < one.len()).unwrap_or(one));
    worker.indices = [indices, rows];
    Ok(())
}

/// The class of each row: four of one size, by mean magnitude. Empty where there are too few indices for that.
fn classes(indices: &[u8], cols: usize) -> Vec<u8> {
    let n_rows = indices.len() / cols;
    if indices.len() < N_CLASSES * MIN_CLASS_INDICES || n_rows < N_CLASSES {
        return Vec::new();
    }
    let magnitude = |row: &[u8]| row.iter().map(|&index| u64::from((index as i8).unsigned_abs())).sum::<u64>();
    let magnitudes: Vec<u64> = indices.chunks_exact(cols).map(magnitude).collect();
    let mut order: Vec<usize> = (0..n_rows).collect();
    order.sort_by_key(|&row| magnitudes[row]);
    let mut classes = vec![0; n_rows];
    order.iter().enumerate().for_each(|(rank, &row)| classes[row] = (rank * N_CLASSES / n_rows) as u8);
    classes
}

/// A chunk with these `classes`; with one where they are empty.
fn encode_classes(
    worker: &mut Worker,
    classes: &[u8],
    indices: &[u8],
    cols: usize,
    rows: &mut Vec<u8>,
) -> Result<Vec<u8>> {
    let n_classes = classes.iter().max().map_or(1, |&most| most + 1);
    let mut chunk = vec![n_classes];
    chunk.extend_from_slice(classes);
    for class in 0..n_classes {
        rows.clear();
        match classes.is_empty() {
            true => rows.extend_from_slice(indices),
            false => indices
                .chunks_exact(cols)
                .zip(classes)
                .filter(|&(_, &of_row)| of_row == class)
                .for_each(|(row, _)| rows.extend_from_slice(row)),
        }
        let len_at = chunk.len();
        chunk.extend([0; 4]);
        worker.encoder.encode_chunk(index_dtype(), rows, &mut chunk).map_err(codec_error)?;
        let len_bytes = (chunk.len() - len_at - 4) as u32; // A chunk of the codec is below 2^25 bytes.
        chunk[len_at..len_at + 4].copy_from_slice(&len_bytes.to_le_bytes());
    }
    Ok(chunk)
}

fn index_dtype() -> Dtype {
    Dtype::from_name("I8")
}

/// Decodes a chunk into the values that it stands for.
pub(crate) fn decode(worker: &mut Worker, steps: &Steps, chunk_idx: usize, chunk: &[u8], raw: &mut [u8]) -> Result<()> {
    let row_steps = steps.of_chunk(chunk_idx, raw.len());
    decode_indices(worker, steps.cols.len(), row_steps.len(), chunk)?;
    let rows = raw.chunks_exact_mut(steps.row_bytes()).zip(worker.indices[0].chunks_exact(steps.cols.len()));
    for ((raw, indices), &row_step) in rows.zip(row_steps) {
        let values = raw.as_chunks_mut::<2>().0.iter_mut().zip(indices).zip(&steps.cols);
        values
            .for_each(|((value, &index), &col_step)| *value = value_of(row_step, col_step, index as i8).to_le_bytes());
    }
    Ok(())
}

/// Decodes a chunk into `worker.indices[0]`, (n_rows, cols).
pub(crate) fn decode_indices(worker: &mut Worker, cols: usize, n_rows: usize, chunk: &[u8]) -> Result<()> {
    let (classes, mut rest) = split_classes(chunk, n_rows)?;
    let [indices, rows] = &mut worker.indices;
    indices.resize(n_rows * cols, 0); // At most 8 MiB.
    for class in 0..chunk[0].max(1) {
        let class_rows =
            if classes.is_empty() { n_rows } else { classes.iter().filter(|&&of_row| of_row == class).count() };
        let (len_bytes, after) = rest.split_first_chunk::<4>().ok_or_else(|| Error::truncated(4, rest.len() as u64))?;
        let len_bytes = u32::from_le_bytes(*len_bytes) as usize;
        let short = || Error::truncated(len_bytes as u64, after.len() as u64);
        let (coded, after) = after.split_at_checked(len_bytes).ok_or_else(short)?;
        rest = after;
        if classes.is_empty() {
            worker.decoder.decode_chunk(index_dtype(), coded, indices).map_err(codec_error)?;
            continue;
        }
        if class_rows == 0 {
            return Err(Error::corrupt("a class without rows"));
        }
        rows.resize(class_rows * cols, 0);
        worker.decoder.decode_chunk(index_dtype(), coded, rows).map_err(codec_error)?;
        let of_class = indices.chunks_exact_mut(cols).zip(classes).filter(|&(_, &of_row)| of_row == class);
        of_class.zip(rows.chunks_exact(cols)).for_each(|((to, _), from)| to.copy_from_slice(from));
    }
    if rest.is_empty() { Ok(()) } else { Err(Error::corrupt("bytes after the last class of a chunk")) }
}

/// The class of each of `n_rows` rows, none where all are of one, and the bytes of the classes.
fn split_classes(chunk: &[u8], n_rows: usize) -> Result<(&[u8], &[u8])> {
    let (&n_classes, rest) = chunk.split_first().ok_or_else(|| Error::truncated(1, 0))?;
    match usize::from(n_classes) {
        1 => Ok((&[], rest)),
        2..=MAX_CLASSES => {
            let split = rest.split_at_checked(n_rows);
            let (classes, rest) = split.ok_or_else(|| Error::truncated(n_rows as u64, rest.len() as u64))?;
            match classes.iter().all(|&class| class < n_classes) {
                true => Ok((classes, rest)),
                false => Err(Error::corrupt("a row of a class that is not there")),
            }
        }
        _ => Err(Error::corrupt("a chunk of no or too many classes of rows")),
    }
}

/// How a chunk of `n_rows` rows is coded, in words: by its first class.
pub(crate) fn label(steps: &Steps, chunk_idx: usize, chunk: &[u8]) -> Result<String> {
    let n_rows = steps.chunk_rows.min(steps.rows.len().saturating_sub(chunk_idx * steps.chunk_rows));
    let (_, rest) = split_classes(chunk, n_rows)?;
    let coded = rest.split_first_chunk::<4>().and_then(|(len_bytes, rest)| {
        rest.get(..u32::from_le_bytes(*len_bytes) as usize) // Checked: `get`.
    });
    let coded = coded.ok_or_else(|| Error::truncated(4, rest.len() as u64))?;
    let info = describe_chunk(index_dtype(), coded).map_err(codec_error)?;
    let label = codec_label(&info);
    Ok(format!("grid{}", label.strip_prefix("bytes").unwrap_or(&label)))
}

/// A tensor that is stored as a grid: its steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GridSteps<'a> {
    /// (rows)
    pub row_steps: &'a [f32],
    /// (cols)
    pub col_steps: &'a [f32],
}

impl ArchiveShard {
    /// The steps of a tensor, if it is stored as a grid. `None` also for a tied tensor whose bytes are stored as a grid of
    /// another shape. Nothing is read.
    pub fn grid(&self, name: &str) -> Option<GridSteps<'_>> {
        let (_, steps, _) = self.grid_home(name)?;
        Some(GridSteps { row_steps: &steps.rows, col_steps: &steps.cols })
    }

    /// Reads the indices of some rows of a tensor that is stored as a grid: i8 each, (rows.len(), cols).
    ///
    /// # Errors
    /// `InvalidArgument` where the tensor is not stored so, there are no such rows, or `dst` has another length;
    /// `Truncated`, `Corrupt`, `Io`.
    pub fn read_indices(&self, name: &str, rows: Range<usize>, dst: &mut [u8]) -> Result<()> {
        let home = self.grid_home(name).ok_or_else(|| Error::invalid("not stored as a grid").in_tensor(name))?;
        let (payload, steps, file) = home;
        let cols = steps.cols.len();
        if rows.start > rows.end || rows.end > steps.rows.len() || dst.len() != (rows.end - rows.start) * cols {
            return Err(Error::invalid("the grid has no such rows, or the buffer is not as long").in_tensor(name));
        }
        let mut worker = self.spare_workers().pop().unwrap_or_else(|| Worker::new(Level::Default));
        let (mut row, mut dst, mut result) = (rows.start, dst, Ok(()));
        while row < rows.end && result.is_ok() {
            let chunk_idx = row / steps.chunk_rows;
            let first = chunk_idx * steps.chunk_rows;
            let n_rows = steps.chunk_rows.min(steps.rows.len() - first);
            let end = rows.end.min(first + n_rows);
            let (now, after) = dst.split_at_mut((end - row) * cols);
            let chunk = payload.chunks[chunk_idx];
            result = chunk::read(&mut worker, &file.input, chunk).and_then(|()| {
                let bytes = std::mem::take(&mut worker.chunk);
                let decoded = decode_indices(&mut worker, cols, n_rows, &bytes);
                worker.chunk = bytes;
                decoded.map_err(|error| error.in_file(file.input.path()).at_offset(chunk.offset))
            });
            if result.is_ok() {
                now.copy_from_slice(&worker.indices[0][(row - first) * cols..(end - first) * cols]);
            }
            (row, dst) = (end, after);
        }
        self.spare_workers().push(worker);
        result.in_tensor(name)
    }

    fn grid_home(&self, name: &str) -> Option<(&Payload, &Steps, &crate::shard_file::ShardFile)> {
        let tensor_idx = self.tensors().iter().position(|entry| entry.name == name)?;
        let (file, payload) = self.parts.get(tensor_idx + 1)?.payload()?; // Part 0 is the header.
        let Coding::Grid(steps) = &payload.coding else { return None };
        let is_same = shape(&self.tensors()[tensor_idx]) == Some((steps.rows.len(), steps.cols.len()));
        is_same.then_some((payload, &**steps, file))
    }
}
