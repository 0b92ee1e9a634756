//! Linear layers over packed matrices, on the CPU: weights are decoded inside the multiplication and never written to
//! memory. Goes in: addresses of a packed matrix and of activations. Comes out: sums in f32.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use netweight_container::Error;
use netweight_kernels_cpu::{Input, Isa, Job, Pool, Precision, Scratch, linear};
use netweight_layout::{Matrix, PackedView};
use pyo3::prelude::*;

use crate::errors::Result;
use crate::memory::{Bytes, BytesMut};
use crate::pools::pool;

/// Tokens that are multiplied at once, at most: what room is kept for.
const MAX_TOKENS: usize = 256;

/// Room for prepared activations and for each thread, kept from call to call, for each number of threads.
static ROOMS: Mutex<BTreeMap<usize, Room>> = Mutex::new(BTreeMap::new());

struct Room {
    max_tokens: usize,
    max_cols: usize,
    input: Input,
    scratch: Scratch,
}

/// Multiplies a packed matrix (rows, cols), at packed = (address, bytes), with bf16 activations (tokens, cols), at x =
/// (address, tokens), and writes f32 (tokens, rows) to an address.
///
/// The sums do not depend on how many tokens or threads there are, nor on the machine. The caller keeps all three there
/// until it returns, and nobody else writes to them. Raises DamagedError where there is no packed matrix, and
/// InvalidArgument where it does not begin at a multiple of 64.
#[pyfunction]
#[pyo3(signature = (packed, x, out, threads=0))]
pub fn linear_at(
    py: Python<'_>,
    packed: (usize, usize),
    x: (usize, usize),
    out: usize,
    threads: usize,
) -> PyResult<()> {
    let packed = Bytes::at(packed.0, packed.1)?;
    Ok(py.detach(|| multiply(packed, x, out, threads))?)
}

fn multiply(packed: Bytes, (x, n_tokens): (usize, usize), out: usize, threads: usize) -> Result<()> {
    let matrix = matrix_of(packed)?;
    let (rows, cols) = (matrix.rows(), matrix.cols());
    let bytes =
        |n: usize, width: usize| n_tokens.checked_mul(n * width).ok_or_else(|| Error::invalid("too many tokens"));
    let x = Bytes::at(x, bytes(cols, 2)?)?;
    let y = BytesMut::at(out, bytes(rows, 4)?)?;
    let Some(y) = y.floats() else { return Err(Error::invalid("f32 begin at multiples of 4").into()) };
    let (isa, pool) = (Isa::best(), pool(threads));
    let mut rooms = ROOMS.lock().unwrap_or_else(PoisonError::into_inner);
    let room = rooms.entry(pool.n_threads()).or_insert_with(|| Room::new(&pool, 1, cols));
    if room.max_cols < cols || room.max_tokens < n_tokens.min(MAX_TOKENS) {
        let (tokens, cols) = (room.max_tokens.max(n_tokens.min(MAX_TOKENS)), room.max_cols.max(cols));
        *room = Room::new(&pool, tokens, cols);
    }
    for (x, y) in x.as_slice().chunks(MAX_TOKENS * cols * 2).zip(y.chunks_mut(MAX_TOKENS * rows)) {
        let wide: Vec<f32> =
            x.as_chunks().0.iter().map(|&x| f32::from_bits(u32::from(u16::from_le_bytes(x)) << 16)).collect();
        let n_tokens = wide.len() / cols;
        room.input.set(isa, &pool, &wide, cols, [n_tokens, cols], Precision::Bf16);
        let job = Job { matrix: &matrix, row_steps: None, bias: None, out_col: 0 };
        linear(isa, &pool, &room.scratch, &room.input, &[job], y, rows);
    }
    Ok(())
}

/// The packed matrix, whose bytes stay where they are. All groups are checked.
fn matrix_of(packed: Bytes) -> Result<Matrix> {
    let view = PackedView::parse(packed.as_slice())?;
    let geometry = *view.geometry();
    let groups = (0..geometry.n_groups()).map(|group_idx| view.group_range(group_idx)).collect();
    Ok(Matrix::new(geometry.layout(), geometry.rows(), geometry.cols(), Arc::new(packed), groups)?)
}

impl Room {
    fn new(pool: &Pool, max_tokens: usize, max_cols: usize) -> Room {
        let (input, scratch) = (Input::new(max_tokens, max_cols), Scratch::new(pool, max_tokens, max_cols));
        Room { max_tokens, max_cols, input, scratch }
    }
}
