//! Linear layers: y = W x, where W lies in tiles of any layout, and may have a step for each row ([`Job`]) and column
//! ([`crate::Input::set`]). Goes in: matrices and prepared activations. Comes out:
//! one f32 for each token and row, the same bits on every instruction set, in any number of threads, and for any
//! number of tokens at once.
//!
//! A work item is a tile of 16 rows (or four or eight, where a kernel is faster with many) with all tokens. A kernel decodes weights in
//! registers and multiplies them right there; where tokens are many it decodes a few cells into the first-level cache
//! first and multiplies them with all tokens. Suggested reading: `scalar.rs` (the definition), `fma.rs` (the same for
//! registers of any width), one of `avx512.rs`, `avx2.rs`, `neon.rs` (how cells are decoded), `amx.rs`; and `integers/mod.rs`, for indices times int8 activations.

mod output;
mod rows;
mod scratch;
mod tile;

pub(crate) mod scalar;

mod fma;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod index_loaders;
mod integers;
mod loaders;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod spread;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod tiles;

use crate::input::Input;
use crate::isa::Kind;
use crate::{Isa, Pool, Precision};
use netweight_layout::{Matrix, TILE_ROWS};
use output::Output;
pub use rows::{grid_rows, rows};
pub use scratch::Scratch;
use scratch::{MAX_TILES, Sums, Worker};
use tile::Tile;
#[cfg(target_arch = "x86_64")]
pub(crate) use tiles::is_exact as has_exact_tiles;

/// `(tiles, input, worker)`: products of 1 to 8 tiles of one matrix with all tokens of the input, which have as many columns. Tile
/// `idx`'s go to `worker.sums.tile(idx)`. `worker` has room for them.
pub(crate) type Multiply = fn(&[Tile<'_>], &Input, &mut Worker);
/// `(tile, row, worker, out)`: the weights of one row as f32. `out` has the columns of the matrix.
pub(crate) type DecodeRow = fn(&Tile<'_>, usize, &mut Worker, &mut [f32]);

/// The kernels of one instruction set.
pub(crate) struct LinearKernels {
    pub(crate) multiply: Multiply,
    /// As `multiply`, of tiles of indices with activations of precision int8.
    pub(crate) multiply_integers: Multiply,
    pub(crate) decode_row: DecodeRow,
    /// The least and the most tiles that `multiply` should get at once for so many tokens, both powers of two.
    pub(crate) tiles_at_once: fn(n_tokens: usize) -> [usize; 2],
}

fn kernels(isa: Isa) -> &'static LinearKernels {
    match isa.kind() {
        #[cfg(target_arch = "aarch64")]
        Kind::Neon => &neon::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => &avx2::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => &avx512::KERNELS,
        #[cfg(target_arch = "x86_64")]
        Kind::Amx => &amx::KERNELS,
        _ => &scalar::KERNELS,
    }
}

/// Weights that a worker should have in a run of items, so that claiming it costs little: some 10 microseconds.
const RUN_WEIGHTS: usize = 1 << 17;

/// Items of a run: enough to make claiming cheap, few enough that threads finish together.
fn run_len(n_items: usize, item_weights: usize, n_threads: usize) -> usize {
    (RUN_WEIGHTS / item_weights).min(n_items / (8 * n_threads)).max(1)
}

/// Tiles of an item: as many as a kernel wants, and still some items for each thread.
fn item_tiles(n_tiles: usize, n_threads: usize, [least, most]: [usize; 2]) -> usize {
    let fair = (n_tiles / (4 * n_threads)).checked_ilog2().map_or(1, |log| 1 << log);
    fair.clamp(least, most)
}

/// One matrix of a call.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// (rows, cols), cols those of the input.
    pub matrix: &'a Matrix,
    /// (rows,), what sums are multiplied with before the bias is added: the row steps of a grid.
    pub row_steps: Option<&'a [f32]>,
    /// (rows,), added at the end.
    pub bias: Option<&'a [f32]>,
    /// Row 0 goes to this column of the output.
    pub out_col: usize,
}

impl Job<'_> {
    fn n_items(&self, tiles_per_item: usize) -> usize {
        self.matrix.n_tiles().div_ceil(tiles_per_item)
    }
}

/// Multiplies several matrices with the same activations, in one parallel region: `y[token][out_col + row]` becomes
/// the product of the row with the token's activations, plus the bias.
///
/// # Panics
/// Where shapes do not fit each other or the scratch, two jobs write the same columns, or activations are of precision int8
/// and a matrix is in no layout of indices.
pub fn linear(
    isa: Isa,
    pool: &Pool,
    scratch: &Scratch,
    input: &Input,
    jobs: &[Job<'_>],
    y: &mut [f32], // (n_tokens, y_stride); columns of no job stay as they are
    y_stride: usize,
) {
    let n_tokens = input.n_tokens();
    if n_tokens == 0 {
        return;
    }
    check(input, jobs, y.len(), y_stride);
    let kernels = kernels(isa);
    let is_integer = input.precision() == Precision::Int8;
    let multiply = if is_integer { kernels.multiply_integers } else { kernels.multiply };
    let n_tiles = jobs.iter().map(|job| job.matrix.n_tiles()).sum();
    let tiles_per_item = item_tiles(n_tiles, pool.n_threads(), (kernels.tiles_at_once)(n_tokens));
    let n_items = jobs.iter().map(|job| job.n_items(tiles_per_item)).sum();
    let output = Output::new(y, y_stride);
    let run_len = run_len(n_items, tiles_per_item * TILE_ROWS * input.cols(), pool.n_threads());
    pool.run(n_items, run_len, &|items, worker_idx| {
        let mut worker = scratch.worker(worker_idx);
        assert!(worker.has_room(n_tokens, input.cols()), "a scratch of fewer tokens or columns");
        for item in items {
            let (job, tiles) = find(jobs, item, tiles_per_item);
            let mut views = [Tile::of(job.matrix, tiles.start); MAX_TILES];
            for (view, tile_idx) in views.iter_mut().zip(tiles.clone()).skip(1) {
                *view = Tile::of(job.matrix, tile_idx);
            }
            multiply(&views[..tiles.len()], input, &mut worker);
            (0..n_tokens).for_each(|token| write_token(job, tiles.clone(), token, &worker.sums, &output));
        }
    });
}

fn check(input: &Input, jobs: &[Job<'_>], y_len: usize, y_stride: usize) {
    assert!((input.n_tokens() - 1) * y_stride <= y_len, "an output of {y_len} for {} tokens", input.n_tokens());
    for (idx, job) in jobs.iter().enumerate() {
        assert!(
            input.precision() != Precision::Int8 || job.matrix.layout().is_index(),
            "int8 activations for a matrix that has no indices"
        );
        assert!(job.matrix.cols() == input.cols(), "{} columns, {} activations", job.matrix.cols(), input.cols());
        let vectors = [job.bias, job.row_steps].into_iter().flatten();
        assert!(
            vectors.into_iter().all(|vector| vector.len() == job.matrix.rows()),
            "a bias or steps of another length"
        );
        let cols = job.out_col..job.out_col + job.matrix.rows();
        assert!(
            cols.end <= y_stride && (input.n_tokens() - 1) * y_stride + cols.end <= y_len,
            "rows beyond the output"
        );
        for other in &jobs[..idx] {
            let other = other.out_col..other.out_col + other.matrix.rows();
            assert!(other.end <= cols.start || cols.end <= other.start, "two jobs write the same columns");
        }
    }
}

/// The job and the tiles of a work item.
fn find<'a>(jobs: &'a [Job<'a>], mut item: usize, tiles_per_item: usize) -> (&'a Job<'a>, std::ops::Range<usize>) {
    for job in jobs {
        let n_items = job.n_items(tiles_per_item);
        if item < n_items {
            let begin = item * tiles_per_item;
            return (job, begin..job.matrix.n_tiles().min(begin + tiles_per_item));
        }
        item -= n_items;
    }
    unreachable!("the pool gives items that there are")
}

/// Multiplies with the row steps, adds the bias, and leaves out rows of padding. Tiles side by side: what a token's row takes at once.
fn write_token(job: &Job<'_>, tiles: std::ops::Range<usize>, token: usize, sums: &Sums, output: &Output<'_>) {
    let rows = tiles.start * TILE_ROWS..job.matrix.rows().min(tiles.end * TILE_ROWS);
    // SAFETY: a tile is one work item's, and jobs write different columns, checked in `check`.
    let y = unsafe { output.slice(token, job.out_col + rows.start, rows.len()) };
    for (idx, y) in y.chunks_mut(TILE_ROWS).enumerate() {
        let sums = &sums.tile(idx)[token].0;
        match y.as_chunks_mut().0 {
            [y] => *y = *sums,
            _ => y.copy_from_slice(&sums[..y.len()]),
        }
    }
    if let Some(row_steps) = job.row_steps {
        y.iter_mut().zip(&row_steps[rows.clone()]).for_each(|(y, row_step)| *y *= row_step);
    }
    if let Some(bias) = job.bias {
        y.iter_mut().zip(&bias[rows]).for_each(|(y, bias)| *y += bias);
    }
}

#[cfg(test)]
mod tests;
