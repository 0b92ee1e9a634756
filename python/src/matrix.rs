//! Packed matrices (`netweight_layout::PackedView`): made on all threads, and decoded on all threads into memory of the
//! caller's, for each layer of each token. Goes in: rows of bf16. Comes out: one string of bytes, or rows again.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use netweight_container::Error;
use netweight_kernels_cpu::Pool;
use netweight_layout::{AlignedBytes, Geometry, Layout, PackedHead, PackedView, TILE_ROWS, encode_group};
use netweight_pack::ArchiveShard;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;

use crate::errors::Result;
use crate::memory::{AlignedBuffer, Bytes, BytesMut};
use crate::pools::{pool, try_run, try_run_beside_framework};
use crate::reader::check_signals;
use crate::source::{Request, Source};

/// Groups for each thread that are encoded before they are put together.
const GROUPS_PER_THREAD: usize = 4;
/// Weights that one thread decodes at a time, at least.
const MIN_PIECE_WEIGHTS: usize = 1 << 15;
/// Pieces for each thread, about, so that none waits long for the last.
const PIECES_PER_THREAD: usize = 8;

thread_local! {
    /// What decoding keeps beside its rows: some 100 kB, which stays with a thread.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Packs a bf16 matrix: src is a C-contiguous buffer of rows * cols * 2 bytes, shape is (rows, cols).
///
/// layout is "exact11" (some 11.2 bits a weight) or "exact12" (12, decoded faster without AVX-512). Returns an
/// AlignedBuffer, a self-describing string of bytes, or None where it would not be smaller than the weights. Raises
/// InvalidArgument, BufferError.
#[pyfunction]
#[pyo3(signature = (src, shape, layout="exact11", threads=0))]
pub fn pack_matrix(
    py: Python<'_>,
    src: &Bound<'_, PyAny>,
    shape: (usize, usize),
    layout: &str,
    threads: usize,
) -> PyResult<Option<AlignedBuffer>> {
    let buffer = PyUntypedBuffer::get(src)?;
    let bytes = Bytes::of(&buffer)?;
    Ok(py.detach(|| pack_bytes(bytes, shape, layout, threads))?)
}

/// pack_matrix of the rows * cols * 2 bytes from an address on, which the caller keeps there, unchanged, until it
/// returns.
#[pyfunction]
#[pyo3(signature = (address, shape, layout="exact11", threads=0))]
pub fn pack_matrix_at(
    py: Python<'_>,
    address: usize,
    shape: (usize, usize),
    layout: &str,
    threads: usize,
) -> PyResult<Option<AlignedBuffer>> {
    let len = shape.0.checked_mul(shape.1).and_then(|n| n.checked_mul(2)).unwrap_or(usize::MAX);
    let bytes = Bytes::at(address, len)?;
    Ok(py.detach(|| pack_bytes(bytes, shape, layout, threads))?)
}

/// (layout, rows, cols) of a packed matrix. Raises DamagedError where the bytes are none.
#[pyfunction]
pub fn packed_info(packed: &Bound<'_, PyAny>) -> PyResult<(&'static str, usize, usize)> {
    let buffer = PyUntypedBuffer::get(packed)?;
    Ok(info(Bytes::of(&buffer)?)?)
}

/// packed_info of the len bytes from an address on, which the caller keeps there, unchanged, until it returns.
#[pyfunction]
pub fn packed_info_at(address: usize, len: usize) -> PyResult<(&'static str, usize, usize)> {
    Ok(info(Bytes::at(address, len)?)?)
}

/// Decodes a packed matrix, or its rows (start, stop), into out, a writable C-contiguous buffer of exactly
/// (stop - start) * cols * 2 bytes; with threads = 0 on the threads that PyTorch computes with, where it is there.
///
/// Raises InvalidArgument where there are no such rows or out has another length, DamagedError where packed is not
/// what pack_matrix made (out then holds anything), BufferError.
#[pyfunction]
#[pyo3(signature = (packed, out, rows=None, threads=0))]
pub fn unpack_matrix(
    py: Python<'_>,
    packed: &Bound<'_, PyAny>,
    out: &Bound<'_, PyAny>,
    rows: Option<(usize, usize)>,
    threads: usize,
) -> PyResult<()> {
    let (packed, out) = (PyUntypedBuffer::get(packed)?, PyUntypedBuffer::get(out)?);
    let (bytes, target) = (Bytes::of(&packed)?, BytesMut::of(&out)?);
    Ok(py.detach(|| unpack(bytes, target, rows, threads))?)
}

/// unpack_matrix from the len bytes at one address to the out_len bytes at another. The caller keeps both there until
/// it returns, and nobody else writes to them.
#[pyfunction]
#[pyo3(signature = (address, len, out_address, out_len, rows=None, threads=0))]
pub fn unpack_matrix_at(
    py: Python<'_>,
    address: usize,
    len: usize,
    out_address: usize,
    out_len: usize,
    rows: Option<(usize, usize)>,
    threads: usize,
) -> PyResult<()> {
    let (bytes, target) = (Bytes::at(address, len)?, BytesMut::at(out_address, out_len)?);
    Ok(py.detach(|| unpack(bytes, target, rows, threads))?)
}

/// The layout of that name.
pub fn layout(name: &str) -> Result<Layout> {
    let layout = Layout::from_name(name).filter(|layout| layout.is_exact());
    Ok(layout
        .ok_or_else(|| Error::invalid(format!("{name:?} is no layout of packed matrices: exact11 and exact12 are")))?)
}

/// Where the groups of a packed matrix come from.
pub enum Groups<'a> {
    /// All rows, in memory.
    Rows(&'a [u8]),
    /// A tensor that the archive has in just these groups.
    Stored { shard: &'a ArchiveShard, name: &'a str },
    /// Rows of `n_cols` columns, from byte `start` of a shard's original on, of which those from `first_col` on count.
    Read { source: &'a Source, shard_idx: usize, start: u64, n_cols: usize, first_col: usize },
}

/// Packs a matrix; `None` where that is not smaller than its weights.
pub fn pack(pool: &Pool, geometry: Geometry, groups: &Groups<'_>) -> Result<Option<AlignedBuffer>> {
    let mut head = PackedHead::new(geometry);
    let most = geometry.rows() * geometry.cols() * geometry.layout().element_bytes();
    let no_memory = |_| Error::invalid("more bytes than there is memory");
    // Of what is asked for here, only what is written takes memory.
    let mut memory = AlignedBytes::zeroed(most.max(head.len_bytes())).map_err(no_memory)?;
    let n_slots = pool.n_threads() * GROUPS_PER_THREAD;
    let slots: Vec<Mutex<Vec<u8>>> = (0..n_slots).map(|_| Mutex::default()).collect();
    let mut raw = Vec::new();
    for first in (0..geometry.n_groups()).step_by(n_slots) {
        let batch = first..geometry.n_groups().min(first + n_slots);
        let rows = groups.rows(pool, &geometry, &batch, &mut raw)?;
        try_run(pool, batch.len(), &|idx| {
            let mut group = slots[idx].lock().unwrap_or_else(PoisonError::into_inner);
            groups.encode(&geometry, rows, &batch, idx, &mut group)
        })?;
        for slot in &slots[..batch.len()] {
            let group = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let start = head.next_start();
            head.push(group.len());
            if head.next_start() >= most {
                return Ok(None);
            }
            memory[start..start + group.len()].copy_from_slice(&group);
        }
        check_signals()?;
    }
    let len = head.next_start();
    head.write(&mut memory[..len])?;
    Ok(Some(AlignedBuffer::new(memory, len)))
}

impl Groups<'_> {
    /// The rows of a batch of groups, from which they are encoded; read into `raw` where they are not in memory.
    fn rows<'r>(
        &'r self,
        pool: &Pool,
        geometry: &Geometry,
        batch: &Range<usize>,
        raw: &'r mut Vec<u8>,
    ) -> Result<&'r [u8]> {
        let rows = geometry.group_rows(batch.start).start..geometry.group_rows(batch.end - 1).end;
        match self {
            Groups::Rows(src) => Ok(&src[rows.start * geometry.cols() * 2..rows.end * geometry.cols() * 2]),
            Groups::Stored { .. } => Ok(&[]),
            Groups::Read { source, shard_idx, start, n_cols, .. } => {
                raw.resize(rows.len() * n_cols * 2, 0);
                let begin = start + (rows.start * n_cols * 2) as u64;
                let target = BytesMut::at(raw.as_mut_ptr().expose_provenance(), raw.len())?;
                let request = Request { shard_idx: *shard_idx, range: begin..begin + raw.len() as u64, target };
                source.read(pool, &[request], &|| Ok(()))?;
                Ok(raw)
            }
        }
    }

    /// Makes `group` group `idx` of the batch, whose rows are `rows`.
    fn encode(
        &self,
        geometry: &Geometry,
        rows: &[u8],
        batch: &Range<usize>,
        idx: usize,
        group: &mut Vec<u8>,
    ) -> Result<()> {
        let group_idx = batch.start + idx;
        let (group_rows, cols) = (geometry.group_rows(group_idx), geometry.cols());
        let first_row = group_rows.start - geometry.group_rows(batch.start).start;
        let n_rows = group_rows.len();
        match self {
            Groups::Stored { shard, name } => Ok(shard.read_group(name, group_idx, group)?),
            Groups::Read { n_cols, first_col, .. } if *n_cols != cols => {
                let rows = rows[first_row * n_cols * 2..][..n_rows * n_cols * 2].chunks_exact(n_cols * 2);
                let cut: Vec<u8> = rows.flat_map(|row| &row[first_col * 2..(first_col + cols) * 2]).copied().collect();
                Ok(encode_group(geometry.layout(), cols, n_rows, &cut, group)?)
            }
            Groups::Rows(_) | Groups::Read { .. } => {
                let rows = &rows[first_row * cols * 2..][..n_rows * cols * 2];
                Ok(encode_group(geometry.layout(), cols, n_rows, rows, group)?)
            }
        }
    }
}

fn pack_bytes(bytes: Bytes, (rows, cols): (usize, usize), name: &str, threads: usize) -> Result<Option<AlignedBuffer>> {
    let geometry = Geometry::new(layout(name)?, rows, cols)?;
    if bytes.as_slice().len() != rows * cols * 2 {
        return Err(Error::invalid("the weights do not fill the shape: rows * cols * 2 bytes are needed").into());
    }
    pack(&pool(threads), geometry, &Groups::Rows(bytes.as_slice()))
}

fn info(packed: Bytes) -> Result<(&'static str, usize, usize)> {
    let view = PackedView::parse(packed.as_slice())?;
    let geometry = view.geometry();
    Ok((geometry.layout().name(), geometry.rows(), geometry.cols()))
}

fn unpack(packed: Bytes, target: BytesMut, rows: Option<(usize, usize)>, threads: usize) -> Result<()> {
    let view = PackedView::parse(packed.as_slice())?;
    let geometry = *view.geometry();
    let (begin, end) = rows.unwrap_or((0, geometry.rows()));
    let row_bytes = geometry.cols() * geometry.layout().element_bytes();
    if begin > end || end > geometry.rows() {
        return Err(Error::invalid(format!("the matrix has no such rows: it has {}", geometry.rows())).into());
    }
    if target.len() != (end - begin) * row_bytes {
        let expected = (end - begin) * row_bytes;
        return Err(Error::invalid(format!("out has {} bytes, but the rows have {expected}", target.len())).into());
    }
    let tiles = begin / TILE_ROWS..end.div_ceil(TILE_ROWS);
    let least = MIN_PIECE_WEIGHTS.div_ceil(TILE_ROWS * geometry.cols());
    let n_tiles = tiles.len().div_ceil(pool(threads).n_threads() * PIECES_PER_THREAD).max(least);
    try_run_beside_framework(threads, tiles.len().div_ceil(n_tiles), &|piece_idx| {
        let first = (tiles.start + piece_idx * n_tiles) * TILE_ROWS;
        let rows = first.max(begin)..end.min(first + n_tiles * TILE_ROWS);
        let dst = target.part((rows.start - begin) * row_bytes..(rows.end - begin) * row_bytes);
        Ok(SCRATCH.with_borrow_mut(|scratch| view.decode_rows(rows, scratch, dst))?)
    })
}
