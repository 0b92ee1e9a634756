//! More than 16 tokens: for each run of 8 cells, for each two of up to eight tiles: decode it; for each 32 tokens:
//! multiply 2 x 2, sums carried on in memory.
//!
//! Q: Why eight tiles? The activations of many tokens do not fit the caches near the core: each run of them is
//! fetched once for all eight. One pair of tiles at a time reached a fifth of what the tiles can do.

use super::{Avx512, CELL_BYTES, CELL_LINES, CellLoader, Decoded, TILE_TOKENS};
use crate::input::{Input, Line};
use crate::linear::fma::AHEAD_BYTES;
use crate::linear::index_loaders::{Index3, Index4, Index8, Int4};
use crate::linear::loaders::{Exact11, Exact12};
use crate::linear::scratch::{MAX_TILES, Sums, Worker};
use crate::linear::tile::Tile;
use crate::linear::tiles;
use netweight_layout::{Layout, TILE_ROWS};
use std::arch::x86_64::*;

/// Cells that are decoded to memory at a time. Those of two tiles and the activations of 32 tokens are 32 KiB
/// together: they stay in the first-level cache, at strides that fall on the same sets.
const RUN_CELLS: usize = 8;

/// Cells on their way from a tile's layout to layout bf16.
enum Source {
    Exact11(Decoded<Exact11<Avx512>>),
    Exact12(Decoded<Exact12<Avx512>>),
    Index8(Decoded<Index8<Avx512>>),
    Index4(Decoded<Index4<Avx512>>),
    Index3(Decoded<Index3<Avx512>>),
    Int4(Decoded<Int4<Avx512>>),
    Stored(*const u8),
}

impl Source {
    /// # Safety
    /// As [`PairLoader::new`].
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Source {
        // SAFETY: as the caller says.
        unsafe {
            match tile.layout {
                Layout::Exact11 => Source::Exact11(Decoded::new(tile, escapes)),
                Layout::Exact12 => Source::Exact12(Decoded::new(tile, escapes)),
                Layout::Index8 => Source::Index8(Decoded::new(tile, escapes)),
                Layout::Index4 => Source::Index4(Decoded::new(tile, escapes)),
                Layout::Index3 => Source::Index3(Decoded::new(tile, escapes)),
                Layout::Int4 => Source::Int4(Decoded::new(tile, escapes)),
                _ => Source::Stored(tile.cells.as_ptr()),
            }
        }
    }

    /// The next `n_cells` cells in layout bf16: where they are, or decoded to `run`, which has room.
    ///
    /// # Safety
    /// The CPU has the features; the tile has as many cells.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
    unsafe fn next_run(&mut self, n_cells: usize, run: &mut [Line<[f32; 16]>]) -> *const u8 {
        let run = &mut run[..n_cells * CELL_LINES];
        // SAFETY: as the caller says.
        unsafe {
            match self {
                Source::Exact11(loader) => decode(loader, run),
                Source::Exact12(loader) => decode(loader, run),
                Source::Index8(loader) => decode(loader, run),
                Source::Index4(loader) => decode(loader, run),
                Source::Index3(loader) => decode(loader, run),
                Source::Int4(loader) => decode(loader, run),
                Source::Stored(next) => {
                    let cells = *next;
                    *next = next.wrapping_add(n_cells * CELL_BYTES);
                    return cells;
                }
            }
        }
        run.as_ptr().cast()
    }
}

/// # Safety
/// The CPU has the features; the loader has as many cells as `run`.
#[inline(always)]
unsafe fn decode<C: CellLoader>(loader: &mut C, run: &mut [Line<[f32; 16]>]) {
    for cell in run.chunks_exact_mut(CELL_LINES) {
        // SAFETY: a place is a cell's lines; the rest the caller says.
        unsafe { loader.next(AHEAD_BYTES, cell.as_mut_ptr().cast()) };
    }
}

/// [`super::multiply`], after its checks, with escapes expanded and tiles configured for 16 tokens.
pub(super) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    let mut sources: [Source; MAX_TILES] = std::array::from_fn(|idx| {
        let tile_idx = idx.min(tiles.len() - 1);
        // SAFETY: the CPU has the features and there is room for escapes, the caller checked.
        unsafe { Source::new(&tiles[tile_idx], worker.escapes[tile_idx].as_ptr()) }
    });
    let (n_cells, n_blocks) = (tiles[0].n_cells, input.n_word_blocks());
    for first_cell in (0..n_cells).step_by(RUN_CELLS) {
        let run_cells = RUN_CELLS.min(n_cells - first_cell);
        for first_tile in (0..tiles.len()).step_by(2) {
            let pair = first_tile..tiles.len().min(first_tile + 2);
            let mut weights = [std::ptr::null(); 2];
            let runs = worker.expanded.chunks_exact_mut(RUN_CELLS * CELL_LINES);
            for ((source, run), weights) in sources[pair.clone()].iter_mut().zip(runs).zip(&mut weights) {
                // SAFETY: the CPU has the features; the run is not longer than the rest of the tile.
                *weights = unsafe { source.next_run(run_cells, run) };
            }
            let is_last = pair.end == tiles.len();
            let (next, next_cell) = if is_last { (0, first_cell + run_cells) } else { (pair.end, first_cell) };
            let mut ahead = Ahead::new(&tiles[next..], next_cell, run_cells * n_blocks.div_ceil(2));
            let run = Run { first_cell, n_cells: run_cells, weights };
            for block_idx in (0..n_blocks).step_by(2) {
                // SAFETY: tiles are configured; `weights` are the run's cells.
                unsafe { run.multiply(input, block_idx, &mut worker.sums, pair.clone(), &mut ahead) };
            }
        }
    }
}

/// A run of cells of one or two tiles.
struct Run {
    first_cell: usize,
    n_cells: usize,
    weights: [*const u8; 2], // each (n_cells, 16 pairs, 16 rows, 2) bf16
}

impl Run {
    /// With one or two blocks of 16 tokens.
    ///
    /// # Safety
    /// Tiles are configured for 16 tokens; `weights` has the cells of as many tiles as `tiles`.
    unsafe fn multiply(
        &self,
        input: &Input,
        block_idx: usize,
        sums: &mut Sums,
        tiles: std::ops::Range<usize>,
        ahead: &mut Ahead,
    ) {
        let n_blocks = 2.min(input.n_word_blocks() - block_idx);
        let x = [block_idx, block_idx + n_blocks - 1].map(|block_idx| {
            let lines = &input.word_block(block_idx)[self.first_cell * TILE_TOKENS..][..self.n_cells * TILE_TOKENS];
            lines.as_ptr().cast::<u8>()
        });
        let sums = [tiles.start, tiles.end - 1].map(|tile_idx| {
            let lines = &mut sums.tile_mut(tile_idx)[block_idx * TILE_TOKENS..][..n_blocks * TILE_TOKENS];
            let lines = lines.as_mut_ptr();
            [lines.cast::<u8>(), lines.wrapping_add((n_blocks - 1) * TILE_TOKENS).cast()]
        });
        let step = Step { is_first: self.first_cell == 0, n_cells: self.n_cells, x, weights: self.weights, sums };
        // SAFETY: pointers are those of blocks, of weights and of sums that are there.
        unsafe {
            match (n_blocks, tiles.len()) {
                (1, 1) => step.run::<1, 1>(ahead),
                (1, _) => step.run::<1, 2>(ahead),
                (_, 1) => step.run::<2, 1>(ahead),
                _ => step.run::<2, 2>(ahead),
            }
        }
    }
}

/// A run of cells of one or two tiles, with one or two blocks of 16 tokens.
struct Step {
    is_first: bool,
    n_cells: usize,
    x: [*const u8; 2],       // each (n_cells, 16 tokens, 32) bf16
    weights: [*const u8; 2], // each (n_cells, 16 pairs, 16 rows, 2) bf16
    sums: [[*mut u8; 2]; 2], // [tile][block], each (16 tokens, 16 rows) f32
}

impl Step {
    /// # Safety
    /// Tiles are configured for 16 tokens; the first `BLOCKS` and `TILES` of each pointer point to what they say.
    unsafe fn run<const BLOCKS: usize, const TILES: usize>(&self, ahead: &mut Ahead) {
        let [[sums_00, sums_01], [sums_10, sums_11]] = self.sums;
        // SAFETY: as the caller says.
        unsafe {
            self.begin::<0>(sums_00);
            (BLOCKS > 1).then(|| self.begin::<1>(sums_01));
            (TILES > 1).then(|| self.begin::<2>(sums_10));
            (TILES > 1 && BLOCKS > 1).then(|| self.begin::<3>(sums_11));
            for cell_idx in 0..self.n_cells {
                ahead.step();
                let at = cell_idx * 1024;
                tiles::load::<6>(self.weights[0].add(at));
                tiles::load::<4>(self.x[0].add(at));
                tiles::add_products::<0, 4, 6>();
                if BLOCKS > 1 {
                    tiles::load::<5>(self.x[1].add(at));
                    tiles::add_products::<1, 5, 6>();
                }
                if TILES > 1 {
                    tiles::load::<7>(self.weights[1].add(at));
                    tiles::add_products::<2, 4, 7>();
                }
                if TILES > 1 && BLOCKS > 1 {
                    tiles::add_products::<3, 5, 7>();
                }
            }
            tiles::store::<0>(sums_00);
            (BLOCKS > 1).then(|| tiles::store::<1>(sums_01));
            (TILES > 1).then(|| tiles::store::<2>(sums_10));
            (TILES > 1 && BLOCKS > 1).then(|| tiles::store::<3>(sums_11));
        }
    }

    /// # Safety
    /// As [`Step::run`].
    #[inline(always)]
    unsafe fn begin<const TMM: usize>(&self, sums: *const u8) {
        // SAFETY: as the caller says.
        unsafe { if self.is_first { tiles::zero::<TMM>() } else { tiles::load::<TMM>(sums) } }
    }
}

/// Asks for the weights of the next run while this one is multiplied: evenly, a few lines a step.
struct Ahead {
    next: [*const u8; 2],
    n_lines_left: usize,
    lines_a_step: usize,
}

impl Ahead {
    fn new(tiles: &[Tile<'_>], first_cell: usize, n_steps: usize) -> Ahead {
        let n_lines = (RUN_CELLS * tiles[0].layout.cell_bytes() + AHEAD_BYTES) / 64;
        let at = |tile: &Tile<'_>| tile.cells.as_ptr().wrapping_add(first_cell * tile.layout.cell_bytes());
        let next = [at(&tiles[0]), at(&tiles[1.min(tiles.len() - 1)])];
        Ahead { next, n_lines_left: n_lines, lines_a_step: n_lines.div_ceil(n_steps) }
    }

    #[inline(always)]
    fn step(&mut self) {
        let n_lines = self.lines_a_step.min(self.n_lines_left);
        self.n_lines_left -= n_lines;
        for next in &mut self.next {
            for _ in 0..n_lines {
                // SAFETY: a prefetch reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(next.cast()) };
                *next = next.wrapping_add(64);
            }
        }
    }
}

const _: () = assert!(TILE_ROWS == 16 && RUN_CELLS * CELL_LINES * 2 <= crate::linear::scratch::EXPANDED_LINES);
