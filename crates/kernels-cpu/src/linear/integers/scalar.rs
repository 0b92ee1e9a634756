//! The definition of a linear layer of integers: every other kernel gives these bits. Goes in: a tile of indices and
//! activations of precision int8. Comes out: (n_tokens, 16) sums. Next in the flow: dots.rs, the same for vector
//! registers.
//!
//! ```text
//! for each token, for each of 16 rows:
//!     sum = +0
//!     for each run of 64 columns, left to right:
//!         integer = the sum of index[col] * q[col], exact
//!         sum = fma(integer as f32, the run's scale, sum)
//! ```
//!
//! An integer is below 2^20 in magnitude: its f32 is exact, and so are sums in any order.

use crate::input::{Input, RUN_COLS};
use crate::linear::scalar::{CELL_WEIGHTS, Cells, expand_escapes};
use crate::linear::scratch::Worker;
use crate::linear::tile::Tile;
use netweight_layout::{CELL_COLS, TILE_ROWS};

/// Cells of a run.
pub(super) const RUN_CELLS: usize = RUN_COLS / CELL_COLS;

/// [`crate::linear::Multiply`].
pub(in crate::linear) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    let input = input.integers();
    for (tile_idx, tile) in tiles.iter().enumerate() {
        expand_escapes(tile, &mut worker.escapes[0]);
        let sums = worker.sums.tile_mut(tile_idx);
        sums.iter_mut().for_each(|line| line.0.fill(0.0));
        let mut cells = Cells::new(tile, &worker.escapes[0]);
        let mut indices = [[0.0; CELL_WEIGHTS]; RUN_CELLS];
        for run_idx in 0..input.n_runs() {
            let n_cells = RUN_CELLS.min(tile.n_cells - run_idx * RUN_CELLS);
            indices[..n_cells].iter_mut().for_each(|cell| cells.decode_next(cell));
            for (token, sums) in sums.iter_mut().enumerate().take(input.n_tokens()) {
                let block = input.block(token / 16);
                let at = run_idx * input.width() + token % 16;
                let integers = products(&indices.as_flattened()[..n_cells * CELL_WEIGHTS], &block.values[at].0);
                for (sum, integer) in sums.0.iter_mut().zip(integers) {
                    *sum = (integer as f32).mul_add(block.runs[at].scale, *sum);
                }
            }
        }
    }
}

/// Of (n_cols, 16) indices with as many activations.
fn products(indices: &[f32], values: &[i8; RUN_COLS]) -> [i32; TILE_ROWS] {
    let mut integers = [0; TILE_ROWS];
    for (column, &value) in indices.chunks_exact(TILE_ROWS).zip(values) {
        for (integer, &index) in integers.iter_mut().zip(column) {
            *integer += index as i32 * i32::from(value);
        }
    }
    integers
}
