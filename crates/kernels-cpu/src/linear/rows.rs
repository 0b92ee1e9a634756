//! Rows of a matrix as f32: embeddings. Goes in: row indices. Comes out: (n_rows, cols) weights.

use super::tile::Tile;
use super::{Scratch, kernels};
use crate::{Isa, Pool};
use netweight_layout::{Matrix, TILE_ROWS};

/// Gathers rows of a grid whose indices are `matrix`: the values of its weights, which are bf16.
///
/// # Panics
/// As [`rows`], and where there are other steps than rows and columns.
pub fn grid_rows(
    isa: Isa,
    pool: &Pool,
    scratch: &Scratch,
    matrix: &Matrix,
    (row_steps, col_steps): (&[f32], Option<&[f32]>), // (rows) and (cols); no col_steps stand for ones
    row_ids: &[u32],
    out: &mut [f32], // (row_ids.len(), matrix.cols())
) {
    assert!(row_steps.len() == matrix.rows() && col_steps.is_none_or(|steps| steps.len() == matrix.cols()));
    rows(isa, pool, scratch, matrix, row_ids, out);
    let round = |value: f32| half::bf16::from_f32(value).to_f32();
    for (&row, out) in row_ids.iter().zip(out.chunks_exact_mut(matrix.cols())) {
        let row_step = row_steps[row as usize];
        match col_steps {
            // No product of two steps and an index is rounded before the end: there are 23 bits in all.
            Some(steps) => out.iter_mut().zip(steps).for_each(|(out, step)| *out = round(row_step * (step * *out))),
            None => out.iter_mut().for_each(|out| *out = round(row_step * *out)),
        }
    }
}

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
