//! Linear layers with Intel's tile registers. Goes in: tiles of bf16 weights in any layout that has them, and
//! activations in bf16. Comes out: (n_tokens, 16) sums, the definition's bits. Next in the flow: amx/few.rs, amx/many.rs,
//! tiles.rs.
//!
//! TDPBF16PS takes a cell as layout bf16 has it, and up to 16 tokens, in 16 cycles; decoding a cell takes 40 on the
//! ports that it does not use. One token is left to avx512.rs, which is as fast: memory is the limit.
//!
//! TDPBF16PS takes subnormals as 0. Activations of bf16 precision and weights of groups that are not wide have no
//! products or sums of products that are subnormal; everything else goes to avx512.rs.

mod few;
mod many;

use super::LinearKernels;
use super::avx512::{self, Avx512, expand_escapes};
use super::fma;
use super::integers;
use super::loaders::{PairLoader, Registers};
use super::scratch::{MAX_TILES, Worker};
use super::tile::Tile;
use super::tiles::{self, Config, WORD_TOKENS_PER_TILE as TILE_TOKENS};
use crate::input::Input;
use netweight_layout::Layout;
use std::arch::x86_64::*;

/// The table row.
pub(crate) static KERNELS: LinearKernels = LinearKernels {
    multiply,
    multiply_integers: integers::amx::multiply,
    decode_row: avx512::decode_row,
    tiles_at_once,
};

/// Lines of a decoded cell.
const CELL_LINES: usize = 16;
/// Bytes of a decoded cell.
const CELL_BYTES: usize = 64 * CELL_LINES;

fn tiles_at_once(n_tokens: usize) -> [usize; 2] {
    if n_tokens > TILE_TOKENS { [2, MAX_TILES] } else { [1, fma::SIDE_BY_SIDE] }
}

/// [`super::Multiply`].
pub(crate) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    let is_plain = |tile: &Tile<'_>| matches!(tile.layout, Layout::F32 | Layout::F16);
    if input.n_tokens() == 1 || !input.has_words() || tiles.iter().any(|tile| tile.is_wide || is_plain(tile)) {
        return avx512::multiply(tiles, input, worker);
    }
    assert!(tiles::is_exact() && worker.has_room(input.n_tokens(), input.cols()));
    assert!(tiles.len() <= MAX_TILES && tiles.iter().all(|tile| tile.n_cells == input.n_cells()));
    tiles.iter().zip(&mut worker.escapes).for_each(|(tile, escapes)| expand_escapes(tile, escapes));
    let _config = Config::load(input.n_tokens().min(TILE_TOKENS));
    if input.n_tokens() <= TILE_TOKENS {
        few::multiply(tiles, input, worker);
    } else {
        many::multiply(tiles, input, worker);
    }
}

/// The cells of a tile, one after the other, as TDPBF16PS takes them.
///
/// # Safety
/// As [`PairLoader`].
trait CellLoader {
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self;
    /// Where the next cell is: in the tile, or decoded to `room`, which has [`CELL_LINES`] lines. Asks for weights
    /// `ahead` bytes behind it.
    unsafe fn next(&mut self, ahead: usize, room: *mut u8) -> *const u8;
}

/// Cells of layout bf16.
struct Stored(*const u8);

impl CellLoader for Stored {
    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Stored(tile.cells.as_ptr())
    }

    #[inline(always)]
    unsafe fn next(&mut self, ahead: usize, _room: *mut u8) -> *const u8 {
        let cell = self.0;
        self.0 = cell.wrapping_add(CELL_BYTES);
        (0..CELL_BYTES).step_by(64).for_each(|at| Avx512::prefetch(cell.wrapping_add(ahead + at)));
        cell
    }
}

/// Cells that are decoded.
struct Decoded<P>(P);

impl<P: PairLoader<Registers = Avx512>> CellLoader for Decoded<P> {
    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says.
        Decoded(unsafe { P::new(tile, escapes) })
    }

    #[inline(always)]
    unsafe fn next(&mut self, ahead: usize, room: *mut u8) -> *const u8 {
        // SAFETY: as the caller says.
        unsafe {
            self.0.next_cell(ahead);
            store_block::<P, 0>(&mut self.0, room);
            store_block::<P, 1>(&mut self.0, room);
            store_block::<P, 2>(&mut self.0, room);
            store_block::<P, 3>(&mut self.0, room);
            store_block::<P, 4>(&mut self.0, room);
            store_block::<P, 5>(&mut self.0, room);
            store_block::<P, 6>(&mut self.0, room);
            store_block::<P, 7>(&mut self.0, room);
        }
        room
    }
}

/// # Safety
/// As [`PairLoader`]; `to` has room for a cell.
#[inline(always)]
unsafe fn store_block<P: PairLoader<Registers = Avx512>, const BLOCK: usize>(loader: &mut P, to: *mut u8) {
    // SAFETY: two lines of the cell.
    unsafe {
        let [first, second] = loader.pairs::<BLOCK>();
        _mm512_store_si512(to.add(128 * BLOCK).cast(), first);
        _mm512_store_si512(to.add(128 * BLOCK + 64).cast(), second);
    }
}
