//! Weight matrices from a store to their resident layout, all cores at work. Goes in: names and shapes. Comes out: a
//! [`Matrix`] each. Next in the flow: ../cpu/mod.rs, which multiplies with them.
//!
//! The work is cut into runs of neighbouring groups. A thread claims a run, reads (and decodes) its rows, encodes each
//! group, and appends it to the one memory of all matrices, which was reserved for the largest that the groups can be:
//! pages that are not needed are never touched. So what is resident at any moment is the groups so far and a few MiB a
//! thread. (With a memory for each matrix, the huge page in which each ends would be half empty.)

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use netweight_container::{Context, Entry, Error as FileError};
use netweight_layout::{AlignedBytes, Geometry, Histogram, Layout, Matrix, encode_group};
use netweight_tensor::Dtype;

use crate::store::Store;
use crate::{Error, Interrupt, Result};

/// Source bytes that a thread reads at once, about.
const RUN_BYTES: usize = 2 << 20;
/// Indices in each of the places that are looked at for a layout.
const SAMPLE_INDICES: usize = 1 << 17;

/// A matrix to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixRequest {
    /// The tensor's name in the store.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
}

/// The layout for a tensor: `wanted` where its dtype can be had in it, else the raw layout of the dtype.
///
/// # Errors
/// `File` where no layout takes the dtype.
pub fn layout_for(entry: &Entry, wanted: Layout) -> Result<Layout> {
    let raw = match entry.dtype_name.as_str() {
        "BF16" => Layout::Bf16,
        "F16" => Layout::F16,
        "F32" => Layout::F32,
        other => {
            let what = format!("weights of dtype {other} cannot be run; BF16, F16 and F32 can");
            return Err(FileError::unsupported(what).in_tensor(&entry.name).into());
        }
    };
    let takes = wanted == Layout::F32 || wanted.source_dtype() == raw.source_dtype();
    Ok(if takes { wanted } else { raw })
}

/// What layouts to load matrices in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// What somebody asked for: grids are loaded as their values where it is none for indices.
    pub asked: Option<Layout>,
    /// The layout for bf16 where nobody asked for one that takes it.
    pub fastest: Option<Layout>,
}

impl Wanted {
    /// The layout of a request's tensor.
    fn layout(self, store: &Store, request: &MatrixRequest) -> Result<Layout> {
        let entry = checked_entry(store, request)?;
        let exact = self.asked.filter(|layout| !layout.is_index());
        if exact.is_some() || store.grid(&request.name).is_none() {
            return layout_for(entry, exact.or(self.fastest).unwrap_or(Layout::Bf16));
        }
        self.asked.map_or_else(|| smallest(store, request, true), Ok)
    }
}

/// The index layout that takes the fewest bits, by the first rows, the middle ones and the last. `is_sure` is false where
/// some index that was not looked at did not fit.
fn smallest(store: &Store, request: &MatrixRequest, is_sure: bool) -> Result<Layout> {
    let mut fits = is_sure;
    let (mut histogram, mut indices) = (Histogram::default(), Vec::new());
    let n_rows = (SAMPLE_INDICES / request.cols).clamp(1, request.rows);
    for first in [0, (request.rows - n_rows) / 2, request.rows - n_rows] {
        indices.resize(n_rows * request.cols, 0);
        store.read_indices(&request.name, first..first + n_rows, &mut indices)?;
        histogram.count_indices(request.cols, n_rows, &indices);
        fits &= indices.iter().all(|&index| Layout::Int4.takes_index(index as i8));
    }
    let all = Layout::all().filter(|&layout| layout.is_index() && (fits || layout != Layout::Int4));
    let bits = |layout: &Layout| histogram.bits_per_weight(*layout);
    Ok(all.min_by(|a, b| bits(a).total_cmp(&bits(b))).unwrap_or(Layout::Index8))
}

/// One run of groups of one matrix.
struct Run {
    matrix_idx: usize,
    groups: Range<usize>,
}

/// The memory of all matrices of a round, which fills from its beginning.
struct Arena<'a> {
    free: Mutex<&'a mut [u8]>,
    len: usize,
}

/// A matrix that is being filled.
struct Slot {
    filling: Mutex<Filling>,
    geometry: Geometry,
}

/// What threads change as they fill a matrix.
struct Filling {
    groups: Vec<Range<usize>>, // (n_groups,) where each lies
    bytes_left: usize,
    fits: bool,
}

/// Loads matrices, in the order of `requests`, on `n_threads` threads. `progress` hears of source bytes done.
///
/// # Errors
/// `File` where a tensor is missing, of another shape, of a dtype that cannot be run, or cannot be read;
/// `InvalidArgument` where memory is short; `Interrupted`.
pub fn load_matrices(
    store: &Store,
    requests: &[MatrixRequest],
    wanted: Wanted,
    n_threads: usize,
    interrupt: &Interrupt,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Matrix>> {
    let layouts = requests.iter().map(|request| wanted.layout(store, request));
    let mut layouts = layouts.collect::<Result<Vec<Layout>>>()?;
    let mut loaded: Vec<Option<Matrix>> = requests.iter().map(|_| None).collect();
    // A second round only where a layout did not suit: escapes, of weights or indices like noise, or four bits that do
    // not hold an index.
    while loaded.iter().any(Option::is_none) {
        let missing: Vec<usize> = (0..requests.len()).filter(|&idx| loaded[idx].is_none()).collect();
        let round: Vec<(&MatrixRequest, Layout)> = missing.iter().map(|&idx| (&requests[idx], layouts[idx])).collect();
        let found = load_round(store, &round, n_threads, interrupt, progress)?;
        for (&idx, matrix) in missing.iter().zip(found) {
            layouts[idx] = match layouts[idx] {
                Layout::Int4 if matrix.is_none() => smallest(store, &requests[idx], false)?,
                layout if layout.is_index() => Layout::Index8,
                _ => Layout::Bf16,
            };
            loaded[idx] = matrix;
        }
    }
    Ok(loaded.into_iter().flatten().collect())
}

/// The tensor, whose shape is what was asked for.
pub fn checked_entry<'a>(store: &'a Store, request: &MatrixRequest) -> Result<&'a Entry> {
    let missing = || FileError::invalid("the model needs this tensor, which is missing").in_tensor(&request.name);
    let entry = store.tensor(&request.name).ok_or_else(|| missing().in_file(store.path()))?;
    if entry.shape != [request.rows as u64, request.cols as u64] {
        let (rows, cols) = (request.rows, request.cols);
        let what = format!("its shape is {:?}, but the config asks for [{rows}, {cols}]", entry.shape);
        return Err(FileError::invalid(what).in_tensor(&request.name).in_file(store.path()).into());
    }
    Ok(entry)
}

/// Loads each matrix in its layout; `None` where that would take more bytes than the raw one, or cannot be.
fn load_round(
    store: &Store,
    round: &[(&MatrixRequest, Layout)],
    n_threads: usize,
    interrupt: &Interrupt,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Option<Matrix>>> {
    let geometries = round.iter().map(|&(request, layout)| {
        Geometry::new(layout, request.rows, request.cols)
            .map_err(|error| FileError::invalid(error.to_string()).in_tensor(&request.name).into())
    });
    let geometries = geometries.collect::<Result<Vec<Geometry>>>()?;
    let len = geometries.iter().map(most_bytes).sum();
    let mut memory =
        AlignedBytes::zeroed(len).map_err(|error| Error::invalid(format!("memory for the weights: {error}")))?;
    let arena = Arena { free: Mutex::new(&mut memory), len };
    let slots: Vec<Slot> = geometries.iter().map(Slot::new).collect();
    let runs = cut(&geometries);
    let (next, first_error) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        let work = || {
            let mut worker = Worker::default();
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let done = interrupt
                    .check()
                    .and_then(|()| worker.run(store, round[run.matrix_idx].0, run, &slots[run.matrix_idx], &arena));
                match done {
                    Ok(n_bytes) => progress(n_bytes),
                    Err(error) => {
                        next.store(runs.len(), Ordering::Relaxed);
                        first_error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                }
            }
        };
        (1..n_threads.min(runs.len())).for_each(|_| _ = scope.spawn(work));
        work();
    });
    if let Some(error) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let memory = Arc::new(memory);
    slots.into_iter().zip(round).map(|(slot, (request, _))| slot.finish(&memory, request)).collect()
}

/// An exact layout may take as many bytes as raw bf16 and its group headers, one of indices as many as index8; a raw one
/// takes exactly those.
fn most_bytes(geometry: &Geometry) -> usize {
    let layout = geometry.layout();
    let raw = if layout.is_exact() { Layout::Bf16 } else { layout };
    let raw_cell = if layout.is_index() { Layout::Index8 } else { raw }.cell_bytes();
    geometry.n_tiles() * geometry.n_cells() * raw_cell
        + geometry.n_groups() * (64 + 8 * geometry.tiles_per_group() + 256)
}

fn cut(geometries: &[Geometry]) -> Vec<Run> {
    let mut runs = Vec::new();
    for (matrix_idx, geometry) in geometries.iter().enumerate() {
        let group_bytes = geometry.group_source(0).len();
        let n_groups = (RUN_BYTES / group_bytes.max(1)).max(1);
        let starts = (0..geometry.n_groups()).step_by(n_groups);
        runs.extend(starts.map(|start| Run { matrix_idx, groups: start..(start + n_groups).min(geometry.n_groups()) }));
    }
    runs
}

impl<'a> Arena<'a> {
    /// Takes the next bytes; there are as many as all slots may take.
    fn take(&self, len: usize) -> (Range<usize>, &'a mut [u8]) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = self.len - free.len();
        let taken = free.split_off_mut(..len).expect("room for all slots");
        (begin..begin + len, taken)
    }
}

impl Slot {
    fn new(geometry: &Geometry) -> Slot {
        let (groups, bytes_left) = (vec![0..0; geometry.n_groups()], most_bytes(geometry));
        Slot { filling: Mutex::new(Filling { groups, bytes_left, fits: true }), geometry: *geometry }
    }

    /// Takes room for a group; `None` where the matrix would become larger than it may.
    fn take<'a>(&self, group_idx: usize, len: usize, arena: &Arena<'a>) -> Option<&'a mut [u8]> {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(bytes_left) = filling.bytes_left.checked_sub(len) else {
            filling.fits = false;
            return None;
        };
        filling.bytes_left = bytes_left;
        let (range, taken) = arena.take(len);
        filling.groups[group_idx] = range;
        Some(taken)
    }

    /// The layout has no place for what came.
    fn refuse(&self) {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner).fits = false;
    }

    /// The matrix, whose groups lie in `memory`; `None` where it did not fit.
    fn finish(self, memory: &Arc<AlignedBytes>, request: &MatrixRequest) -> Result<Option<Matrix>> {
        let Filling { groups, fits, .. } = self.filling.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !fits {
            return Ok(None);
        }
        let geometry = self.geometry;
        let memory = Arc::<AlignedBytes>::clone(memory);
        let matrix = Matrix::new(geometry.layout(), geometry.rows(), geometry.cols(), memory, groups);
        matrix.map(Some).map_err(|error| FileError::corrupt(error.to_string()).in_tensor(&request.name).into())
    }
}

/// Buffers of one thread.
#[derive(Default)]
struct Worker {
    source: Vec<u8>,
    widened: Vec<u8>,
    group: Vec<u8>,
}

impl Worker {
    /// Gives the source bytes it went through.
    fn run(
        &mut self,
        store: &Store,
        request: &MatrixRequest,
        run: &Run,
        slot: &Slot,
        arena: &Arena<'_>,
    ) -> Result<u64> {
        let (geometry, entry) = (slot.geometry, checked_entry(store, request)?);
        let is_index = geometry.layout().is_index();
        let row_bytes = geometry.cols() * if is_index { 1 } else { entry.dtype.element_bytes() };
        let rows = geometry.group_rows(run.groups.start).start..geometry.group_rows(run.groups.end - 1).end;
        let first_row = rows.start;
        self.source.resize(rows.len() * row_bytes, 0);
        match is_index {
            true => store.read_indices(&request.name, rows.clone(), &mut self.source)?,
            false => store.read(&request.name, (first_row * row_bytes) as u64, &mut self.source)?,
        }
        for group_idx in run.groups.clone() {
            let rows = geometry.group_rows(group_idx);
            let source = &self.source[(rows.start - first_row) * row_bytes..(rows.end - first_row) * row_bytes];
            let source = if is_index || entry.dtype == geometry.layout().source_dtype() {
                source
            } else {
                widen(entry.dtype, source, &mut self.widened);
                &self.widened
            };
            if is_index && source.iter().any(|&index| !geometry.layout().takes_index(index as i8)) {
                slot.refuse();
                break;
            }
            encode_group(geometry.layout(), geometry.cols(), rows.len(), source, &mut self.group)
                .map_err(|error| FileError::invalid(error.to_string()))
                .in_tensor(&request.name)?;
            let Some(place) = slot.take(group_idx, self.group.len(), arena) else { break };
            place.copy_from_slice(&self.group);
        }
        Ok((rows.len() * geometry.cols() * entry.dtype.element_bytes()) as u64)
    }
}

/// Little-endian elements as f32 bytes.
fn widen(dtype: Dtype, source: &[u8], widened: &mut Vec<u8>) {
    widened.clear();
    for_each_f32(dtype, source, |value| widened.extend_from_slice(&value.to_le_bytes()));
}

/// Calls `each` with every element of `source`, little-endian BF16, F16 or F32.
pub(crate) fn for_each_f32(dtype: Dtype, source: &[u8], mut each: impl FnMut(f32)) {
    match dtype.name() {
        "BF16" => source.as_chunks::<2>().0.iter().for_each(|&bytes| each(bf16::from_le_bytes(bytes).to_f32())),
        "F16" => source.as_chunks::<2>().0.iter().for_each(|&bytes| each(f16::from_le_bytes(bytes).to_f32())),
        _ => source.as_chunks::<4>().0.iter().for_each(|&bytes| each(f32::from_le_bytes(bytes))),
    }
}
