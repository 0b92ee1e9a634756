//! Up to 16 tokens: memory is the limit, as with one. Four tiles side by side: a cell of each is decoded in turn, and
//! the one before it is multiplied.
//!
//! Q: Why not multiply a cell right after decoding it? Tile loads do not take bytes out of the store buffer: they
//! wait until all 16 lines have reached the cache.

use super::{CELL_BYTES, CELL_LINES, CellLoader, Decoded, Stored};
use crate::input::Input;
use crate::linear::fma::{self, Distance};
use crate::linear::index_loaders::{Index3, Index4, Index8, Int4};
use crate::linear::loaders::{Exact11, Exact12};
use crate::linear::scratch::Worker;
use crate::linear::tile::Tile;
use crate::linear::tiles;
use netweight_layout::Layout;

/// Places for cells on the way: two for each of four tiles.
const RING_CELLS: usize = 2 * fma::SIDE_BY_SIDE;
/// Cells decoded before the first of them is multiplied, where there is one tile.
const LAG: usize = 4;

/// [`super::multiply`], after its checks, with escapes expanded and tiles configured for the tokens.
pub(super) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    let mut n_done = 0;
    for tiles in fma::side_by_side(tiles, fma::SIDE_BY_SIDE) {
        // SAFETY: the caller has checked CPU, room and cells; loaders are the layouts'.
        unsafe {
            match tiles[0].layout {
                Layout::Exact11 => multiply_tiles::<Decoded<Exact11<_>>>(tiles, input, worker, n_done),
                Layout::Exact12 => multiply_tiles::<Decoded<Exact12<_>>>(tiles, input, worker, n_done),
                Layout::Index8 => multiply_tiles::<Decoded<Index8<_>>>(tiles, input, worker, n_done),
                Layout::Index4 => multiply_tiles::<Decoded<Index4<_>>>(tiles, input, worker, n_done),
                Layout::Index3 => multiply_tiles::<Decoded<Index3<_>>>(tiles, input, worker, n_done),
                Layout::Int4 => multiply_tiles::<Decoded<Int4<_>>>(tiles, input, worker, n_done),
                _ => multiply_tiles::<Stored>(tiles, input, worker, n_done),
            }
        }
        n_done += tiles.len();
    }
}

/// The products of one tile, or of four. Escapes and sums of tile `idx` are the worker's `first_tile + idx`.
///
/// # Safety
/// The CPU has the features, tiles are configured for the tokens, tiles have the loader's layout and the cells of
/// the input, and `worker` has room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn multiply_tiles<C: CellLoader>(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker, first_tile: usize) {
    let ring = worker.expanded[..RING_CELLS * CELL_LINES].as_mut_ptr().cast();
    let sums = &mut worker.sums;
    let mut sums = |idx: usize| sums.tile_mut(first_tile + idx)[..input.n_tokens()].as_mut_ptr().cast();
    let escapes = |idx: usize| worker.escapes[first_tile + idx].as_ptr();
    // SAFETY: as the caller says; the ring has its places, and sums a line for each token.
    unsafe {
        if let [first, second, third, fourth] = tiles {
            let loaders = [
                C::new(first, escapes(0)),
                C::new(second, escapes(1)),
                C::new(third, escapes(2)),
                C::new(fourth, escapes(3)),
            ];
            multiply_four(loaders, first, input, ring);
            tiles::store::<1>(sums(1));
            tiles::store::<2>(sums(2));
            tiles::store::<3>(sums(3));
        } else {
            multiply_one(C::new(&tiles[0], escapes(0)), &tiles[0], input, ring);
        }
        tiles::store::<0>(sums(0));
    }
}

/// Leaves the sums of tiles like `tile` in registers 0 to 3.
///
/// # Safety
/// As [`multiply_tiles`]; `ring` has [`RING_CELLS`] places.
#[inline(always)]
unsafe fn multiply_four<C: CellLoader>(loaders: [C; 4], tile: &Tile<'_>, input: &Input, ring: *mut u8) {
    let [mut first, mut second, mut third, mut fourth] = loaders;
    let [mut cell_0, mut cell_1, mut cell_2, mut cell_3] = [std::ptr::null(); 4];
    let x = input.word_block(0);
    let distance = Distance::of(tile);
    // SAFETY: each cell is asked for once, and stays in its half of the ring until it is multiplied; words have
    // `n_tokens` lines a cell.
    unsafe {
        tiles::zero::<0>();
        tiles::zero::<1>();
        tiles::zero::<2>();
        tiles::zero::<3>();
        for cell_idx in 0..=tile.n_cells {
            let room = ring.add(cell_idx % 2 * (RING_CELLS / 2) * CELL_BYTES);
            let step = Step { cell_idx, n_cells: tile.n_cells, ahead: distance.at(cell_idx) };
            if cell_idx > 0 {
                tiles::load::<4>(x[(cell_idx - 1) * input.n_tokens()..].as_ptr().cast());
            }
            step.run::<C, 0, 6>(&mut first, &mut cell_0, room);
            step.run::<C, 1, 7>(&mut second, &mut cell_1, room.add(CELL_BYTES));
            step.run::<C, 2, 6>(&mut third, &mut cell_2, room.add(2 * CELL_BYTES));
            step.run::<C, 3, 7>(&mut fourth, &mut cell_3, room.add(3 * CELL_BYTES));
        }
    }
}

/// What happens to each tile at once: cell `cell_idx - 1` is multiplied, and `cell_idx` is decoded, where there are such.
struct Step {
    cell_idx: usize,
    n_cells: usize,
    ahead: usize,
}

impl Step {
    /// # Safety
    /// As [`multiply_tiles`]; `cell` is that of the step before, and `room` has a place.
    #[inline(always)]
    unsafe fn run<C: CellLoader, const SUMS: usize, const WEIGHTS: usize>(
        &self,
        loader: &mut C,
        cell: &mut *const u8,
        room: *mut u8,
    ) {
        // SAFETY: as the caller says.
        unsafe {
            if self.cell_idx > 0 {
                tiles::load::<WEIGHTS>(*cell);
                tiles::add_products::<SUMS, 4, WEIGHTS>();
            }
            if self.cell_idx < self.n_cells {
                *cell = loader.next(self.ahead, room);
            }
        }
    }
}

/// Leaves the sums of one tile in register 0.
///
/// # Safety
/// As [`multiply_tiles`]; `ring` has [`RING_CELLS`] places.
#[inline(always)]
unsafe fn multiply_one<C: CellLoader>(mut loader: C, tile: &Tile<'_>, input: &Input, ring: *mut u8) {
    let x = input.word_block(0);
    let mut cells = [std::ptr::null(); RING_CELLS];
    // SAFETY: each cell is asked for once, and stays in its place until it is multiplied; words have `n_tokens`
    // lines a cell.
    unsafe {
        tiles::zero::<0>();
        for cell_idx in 0..tile.n_cells + LAG {
            if let Some(idx) = cell_idx.checked_sub(LAG) {
                tiles::load::<4>(x[idx * input.n_tokens()..].as_ptr().cast());
                tiles::load::<6>(cells[idx % RING_CELLS]);
                tiles::add_products::<0, 4, 6>();
            }
            if cell_idx < tile.n_cells {
                let place = cell_idx % RING_CELLS;
                cells[place] = loader.next(fma::AHEAD_BYTES, ring.add(place * CELL_BYTES));
            }
        }
    }
}
