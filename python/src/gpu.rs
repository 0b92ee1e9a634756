//! Packed matrices on NVIDIA GPUs, in memory and on streams that PyTorch has there. Goes in: rows of bf16 on the host, or
//! addresses on the GPU. Comes out: words for the GPU to keep, or rows of bf16 on the GPU.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use netweight_container::Error;
use netweight_kernels_cuda::launch::{decode_foreign, embed_foreign, foreign_len, linear_foreign};
use netweight_kernels_cuda::layout::{Shape, TILE_ROWS};
use netweight_kernels_cuda::{Device, Error as GpuError, Layout, Loader, Packed, driver};
use netweight_layout::AlignedBytes;
use pyo3::prelude::*;

use crate::errors::{Failure, Result};
use crate::memory::{AlignedBuffer, Bytes};

/// The layout of matrices that are decoded as a whole: the one that takes the least time for it.
const LAYOUT: Layout = Layout::Exact12;
/// Weights that are brought to the GPU at once, at most.
const MAX_CHUNK: usize = 16 << 20;
/// Matrices are a multiple of this long, so that each of several in one tensor begins where a GPU reads it at once.
const ALIGNMENT: usize = 64;

/// The GPUs that were used, by their numbers.
static GPUS: Mutex<BTreeMap<u32, Device>> = Mutex::new(BTreeMap::new());

fn gpu(number: u32) -> Result<Device> {
    let mut gpus = GPUS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(device) = gpus.get(&number) {
        return Ok(device.clone());
    }
    let device = driver::open(number).map_err(Failure::gpu)?;
    gpus.insert(number, device.clone());
    Ok(device)
}

fn packed_of((rows, cols): (usize, usize), n_bytes: usize) -> Result<Packed> {
    let is_shape = |n: usize| (1..=u32::MAX as usize / 2).contains(&n);
    if !is_shape(rows) || !is_shape(cols) || !n_bytes.is_multiple_of(4) {
        return Err(Error::invalid("no packed matrix has that shape and as many bytes").into());
    }
    Packed::of(LAYOUT, Shape { rows, cols }, n_bytes / 4).map_err(Failure::gpu)
}

/// Packs the bf16 matrix of that shape, whose rows * cols * 2 bytes lie on the host from an address on, for a GPU.
///
/// Returns an AlignedBuffer, to be copied to the GPU, or None where it would not be smaller. The GPU does the work; the
/// caller keeps the bytes there, unchanged, until it returns. Raises GpuError.
#[pyfunction]
pub fn gpu_pack_at(
    py: Python<'_>,
    number: u32,
    address: usize,
    shape: (usize, usize),
) -> PyResult<Option<AlignedBuffer>> {
    let len = shape.0.checked_mul(shape.1).and_then(|n| n.checked_mul(2)).unwrap_or(usize::MAX);
    let bytes = Bytes::at(address, len)?;
    Ok(py.detach(|| pack(number, bytes, shape))?)
}

fn pack(number: u32, bytes: Bytes, (rows, cols): (usize, usize)) -> Result<Option<AlignedBuffer>> {
    if rows == 0 || cols == 0 {
        return Ok(None);
    }
    let (device, src) = (gpu(number)?, bytes.as_slice());
    let chunk = (rows.next_multiple_of(TILE_ROWS) * cols).min(MAX_CHUNK);
    let mut loader = Loader::with_chunk(&device, chunk).map_err(Failure::gpu)?;
    let matrix = loader.load(LAYOUT, Shape { rows, cols }, None, |rows, out| {
        let weights = src[rows.start * cols * 2..rows.end * cols * 2].chunks_exact(2);
        out.iter_mut().zip(weights).for_each(|(out, bytes)| *out = u16::from_le_bytes([bytes[0], bytes[1]]));
        Ok::<(), GpuError>(())
    });
    let Some(matrix) = matrix.map_err(Failure::gpu)? else { return Ok(None) };
    let n_words = matrix.packed().n_words();
    if 2 * n_words >= rows * cols {
        return Ok(None); // Rows and columns that fill up tiles count, too.
    }
    let mut words = vec![0; n_words];
    matrix.pack(&mut words).map_err(Failure::gpu)?;
    let no_memory = |_| Error::invalid("more bytes than there is memory");
    let len = (4 * n_words).next_multiple_of(ALIGNMENT);
    let mut memory = AlignedBytes::zeroed(len).map_err(no_memory)?;
    memory.chunks_exact_mut(4).zip(words).for_each(|(bytes, word)| bytes.copy_from_slice(&word.to_le_bytes()));
    Ok(Some(AlignedBuffer::new(memory, len)))
}

/// Rows and columns that gpu_unpack_at writes for a range of rows: whole tiles of 16, and whole steps of 64.
#[pyfunction]
pub fn gpu_padded(n_rows: usize, cols: usize) -> (usize, usize) {
    (n_rows.next_multiple_of(TILE_ROWS), cols.next_multiple_of(64))
}

/// Decodes rows (start, stop), where start is a multiple of 16, of what gpu_pack_at made, on a stream of the GPU's.
///
/// out has room for the rows and columns that gpu_padded names. Returns at once; the caller keeps both there until the
/// stream has come so far, and the packed bytes are those that gpu_pack_at gave for that shape. Raises GpuError;
/// InvalidArgument where there are no such rows.
#[pyfunction]
pub fn gpu_unpack_at(
    py: Python<'_>,
    number: u32,
    stream: u64,
    packed: (u64, usize),
    shape: (usize, usize),
    rows: (usize, usize),
    out: (u64, usize),
) -> PyResult<()> {
    let ((address, len), (out_address, out_len)) = (packed, out);
    Ok(py.detach(|| {
        let packed = packed_of(shape, len)?;
        if rows.0 >= rows.1 || rows.1 > shape.0 || !rows.0.is_multiple_of(TILE_ROWS) {
            return Err(Error::invalid(format!("the matrix has no such rows that begin with a tile: {rows:?}")).into());
        }
        let tiles = rows.0 / TILE_ROWS..rows.1.div_ceil(TILE_ROWS);
        let n_bytes = 2 * foreign_len(&packed, tiles.len());
        if out_len < n_bytes {
            return Err(Error::invalid(format!("out has {out_len} bytes, but {n_bytes} are written")).into());
        }
        // SAFETY: the lengths are right; that the memory is there is the caller's promise, as documented.
        unsafe { decode_foreign(&gpu(number)?, stream, (&packed, address), tiles, out_address) }.map_err(Failure::gpu)
    })?)
}

/// Decodes the rows of n tokens, int32 on the GPU, to out (n, cols) of bf16 and wide (n, cols) of f32. A token past the last
/// row takes that. As gpu_unpack_at.
#[pyfunction]
pub fn gpu_embed_at(
    py: Python<'_>,
    number: u32,
    stream: u64,
    packed: (u64, usize),
    shape: (usize, usize),
    tokens: (u64, usize),
    outs: (u64, u64),
) -> PyResult<()> {
    let (address, len) = packed;
    Ok(py.detach(|| {
        let packed = packed_of(shape, len)?;
        // SAFETY: that the memory is there is the caller's promise, as documented.
        unsafe { embed_foreign(&gpu(number)?, stream, (&packed, address), tokens, outs) }.map_err(Failure::gpu)
    })?)
}

/// Multiplies x (n, cols) of bf16, whose rows are stride elements apart, a multiple of 8, with what gpu_pack_at made, which
/// is decoded inside the multiplication: out (n, rows) of f32. As gpu_unpack_at.
#[pyfunction]
pub fn gpu_linear_at(
    py: Python<'_>,
    number: u32,
    stream: u64,
    packed: (u64, usize),
    shape: (usize, usize),
    x: (u64, usize, usize),
    out: u64,
) -> PyResult<()> {
    let (address, len) = packed;
    Ok(py.detach(|| {
        let packed = packed_of(shape, len)?;
        if !x.1.is_multiple_of(8) || x.1 < shape.1 {
            return Err(
                Error::invalid("rows of x are a multiple of 8 elements apart, and at least as long as one").into()
            );
        }
        // SAFETY: that the memory is there is the caller's promise, as documented.
        unsafe { linear_foreign(&gpu(number)?, stream, (&packed, address), x, out) }.map_err(Failure::gpu)
    })?)
}
