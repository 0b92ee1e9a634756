//! Rows of a matrix as f32: embeddings. Goes in: row indices. Comes out: (n_rows, cols) weights.

use super::tile::Tile;
use super::{Scratch, kernels};
use crate::{Isa, Pool};
use netweight_layout::{Matrix, TILE_ROWS};

/// Gathers rows of a matrix: `out[idx]` becomes row `row_ids[idx]`.
///
/// # Panics
/// Where there is no such row, `out` has another length, or the scratch was made for fewer columns.
pub fn rows(
    isa: Isa,
    pool: &Pool,
    scratch: &Scratch,
    matrix: &Matrix,
    row_ids: &[u32],
    out: &mut [f32], // (row_ids.len(), matrix.cols())
) {
    let cols = matrix.cols();
    assert!(out.len() == row_ids.len() * cols, "{} outputs for {} rows of {cols}", out.len(), row_ids.len());
    assert!(row_ids.iter().all(|&row| (row as usize) < matrix.rows()), "a row beyond the {}", matrix.rows());
    pool.run_rows(out, cols, 1, &|idx, out, worker_idx| {
        let mut worker = scratch.worker(worker_idx);
        assert!(worker.has_room(0, cols), "a scratch of fewer columns");
        let row = row_ids[idx] as usize;
        let tile = Tile::of(matrix, row / TILE_ROWS);
        (kernels(isa).decode_row)(&tile, row % TILE_ROWS, &mut worker, out);
    });
}
