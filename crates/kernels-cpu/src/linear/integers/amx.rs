//! 16 and more tokens of integers with Intel's tile registers: TDPBSSD multiplies a run of 16 rows with 16 tokens. Goes in
//! and out as in mod.rs; next in the flow: none.
//!
//! ```text
//! for each 8 runs of a tile: decode them to 8 KiB of quads, which are the lines that TDPBSSD takes; for each 16 tokens:
//!     for each four runs: four products to memory; then integers to f32, times scales, added to 16 sums in registers
//! ```
//!
//! Fewer tokens are left to avx512.rs.

use super::avx512;
use super::dots::{self, Decoder, RUN_LINES};
use super::scalar::RUN_CELLS;
use crate::input::{Input, Integers, Line, Run, WORD_TOKENS};
use crate::linear::avx512::{Avx512, available, expand_escapes};
use crate::linear::index_loaders::{Index3, Index4, Index8, IndexLoader, Int4};
use crate::linear::scratch::Worker;
use crate::linear::tile::Tile;
use crate::linear::tiles::{self, Config};
use netweight_layout::{Layout, TILE_ROWS};
use std::arch::x86_64::*;

/// Runs that are decoded to memory at a time.
const RUNS_AT_ONCE: usize = 8;
/// Products that are on their way to memory at a time, one register each.
const IN_FLIGHT: usize = 4;
/// Lines of a register.
const LINES: usize = 16;

/// [`crate::linear::Multiply`].
pub(in crate::linear) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    if input.n_tokens() < WORD_TOKENS {
        return avx512::multiply(tiles, input, worker);
    }
    assert!(available() && worker.has_room(input.n_tokens(), input.cols()));
    assert!(tiles.iter().all(|tile| tile.n_cells == input.n_cells()));
    let _config = Config::load(WORD_TOKENS);
    for (idx, tile) in tiles.iter().enumerate() {
        expand_escapes(tile, &mut worker.escapes[idx]);
        // SAFETY: the CPU has the features, tiles are configured, and there is room, checked above.
        unsafe {
            match tile.layout {
                Layout::Index8 => multiply_tile::<Index8<_>>(tile, input, worker, idx),
                Layout::Index4 => multiply_tile::<Index4<_>>(tile, input, worker, idx),
                Layout::Index3 => multiply_tile::<Index3<_>>(tile, input, worker, idx),
                Layout::Int4 => multiply_tile::<Int4<_>>(tile, input, worker, idx),
                _ => unreachable!("int8 activations are for indices: checked by `linear`"),
            }
        }
    }
}

/// The products of one tile. Its escapes and sums are the worker's `tile_idx`.
///
/// # Safety
/// The CPU has the features, tiles are configured for 16 tokens, the tile has the loader's layout and the cells of the
/// input, and `worker` has room.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt")]
unsafe fn multiply_tile<I: IndexLoader<Registers = Avx512>>(
    tile: &Tile<'_>,
    input: &Input,
    worker: &mut Worker,
    tile_idx: usize,
) {
    let input = input.integers();
    let sums = worker.sums.tile_mut(tile_idx);
    sums[..input.n_blocks() * WORD_TOKENS].fill(Line([0.0; TILE_ROWS]));
    let (stored, products) = worker.expanded.split_at_mut(RUNS_AT_ONCE * RUN_LINES);
    // SAFETY: as the caller says.
    let mut source = unsafe { Decoder::<I>::new(tile, worker.escapes[tile_idx].as_ptr()) };
    for first_run in (0..input.n_runs()).step_by(RUNS_AT_ONCE) {
        let n_runs = RUNS_AT_ONCE.min(input.n_runs() - first_run);
        let n_cells = (n_runs * RUN_CELLS).min(tile.n_cells - first_run * RUN_CELLS);
        // A last cell of half a run is followed by what was there before, which meets activations of 0.
        // SAFETY: the tile has these cells.
        unsafe { dots::store_cells(&mut source, &mut stored[..n_cells * dots::CELL_LINES]) };
        for (block_idx, sums) in sums.chunks_exact_mut(WORD_TOKENS).take(input.n_blocks()).enumerate() {
            let runs = Runs::of(input, block_idx, first_run, n_runs);
            // SAFETY: `stored` has the lines of the runs, and tiles are configured, the caller says.
            unsafe { runs.multiply(stored, &mut products[..IN_FLIGHT * LINES], sums) };
        }
    }
}

/// Neighbouring runs of 16 tokens.
struct Runs<'a> {
    values: &'a [Line<[i8; 64]>], // (n_runs, 16)
    runs: &'a [Run],              // (n_runs, 16)
}

impl<'a> Runs<'a> {
    fn of(input: &'a Integers, block_idx: usize, first_run: usize, n_runs: usize) -> Runs<'a> {
        let block = input.block(block_idx);
        let at = first_run * WORD_TOKENS..(first_run + n_runs) * WORD_TOKENS;
        Runs { values: &block.values[at.clone()], runs: &block.runs[at] }
    }

    /// Adds the products with `stored`, (n_runs, 16, 64) quads, to 16 sums. `products` is room for four registers.
    ///
    /// # Safety
    /// The CPU has the features; tiles are configured for 16 tokens.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt")]
    unsafe fn multiply(
        &self,
        stored: &[Line<[f32; 16]>],
        products: &mut [Line<[f32; 16]>],
        sums: &mut [Line<[f32; TILE_ROWS]>],
    ) {
        let n_runs = self.values.len() / WORD_TOKENS;
        assert!(sums.len() == WORD_TOKENS && stored.len() >= n_runs * LINES && products.len() == IN_FLIGHT * LINES);
        // SAFETY: the lengths were checked on the line above; lines are 16 values.
        unsafe {
            let mut sum: [__m512; WORD_TOKENS] = std::array::from_fn(|token| _mm512_load_ps(sums[token].0.as_ptr()));
            let room: *mut u8 = products.as_mut_ptr().cast();
            let (x, weights): (*const u8, *const u8) = (self.values.as_ptr().cast(), stored.as_ptr().cast());
            for first in (0..n_runs).step_by(IN_FLIGHT) {
                let n_now = IN_FLIGHT.min(n_runs - first);
                let at = |idx: usize| (first + idx.min(n_now - 1)) * 64 * LINES;
                // Where fewer are left, the last is multiplied again and not looked at.
                product::<0>(x.add(at(0)), weights.add(at(0)), room);
                product::<1>(x.add(at(1)), weights.add(at(1)), room);
                product::<2>(x.add(at(2)), weights.add(at(2)), room);
                product::<3>(x.add(at(3)), weights.add(at(3)), room);
                for idx in 0..n_now {
                    let runs = self.runs[(first + idx) * WORD_TOKENS..].as_ptr();
                    let integers = room.add(idx * 64 * LINES).cast::<i32>();
                    for (token, sum) in sum.iter_mut().enumerate() {
                        let floats = _mm512_cvtepi32_ps(_mm512_load_si512(integers.add(token * TILE_ROWS).cast()));
                        *sum = _mm512_fmadd_ps(floats, _mm512_set1_ps((*runs.add(token)).scale), *sum);
                    }
                }
            }
            for (line, sum) in sums.iter_mut().zip(sum) {
                _mm512_store_ps(line.0.as_mut_ptr(), sum);
            }
        }
    }
}

/// Products of a run by way of register `SUMS`, to its place in `room`.
///
/// # Safety
/// Tiles are configured for 16 tokens; `x` and `weights` have 16 lines, `room` as many for each register.
#[inline(always)]
unsafe fn product<const SUMS: usize>(x: *const u8, weights: *const u8, room: *mut u8) {
    // SAFETY: as the caller says.
    unsafe {
        tiles::zero::<SUMS>();
        tiles::load::<4>(x);
        tiles::load::<6>(weights);
        tiles::add_integer_products::<SUMS, 4, 6>();
        tiles::store::<SUMS>(room.add(SUMS * 64 * LINES));
    }
}
