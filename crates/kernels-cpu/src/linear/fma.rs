//! The kernel of every instruction set with fused multiply-add, over registers of any width. Goes in: a tile, and how
//! an instruction set decodes cells (a [`Loader`]). Comes out: (n_tokens, 16) sums. Next in the flow: avx512.rs.
//!
//! ```text
//! one token:   four tiles side by side, a cell of each in turn, as below
//! few tokens:  for each cell, for each of its 8 blocks of 4 columns:
//!                  decode the block in registers; for each token: two even and two odd products
//! many tokens: for each run of 8 cells:
//!                  decode it into 16 KiB of f32; for each block of tokens: multiply, sums carried on in memory
//! ```
//!
//! Everything here is `#[inline(always)]` and becomes part of functions that enable the instruction set. Blocks of a
//! cell are separate instances of [`Loader::block`], so that shifts are constants. Chains restart in each cell, which
//! lets out-of-order execution overlap the end of one cell with the start of the next.
//!
//! Q: Why four tiles side by side? Weights come from memory, and hardware asks for more of it ahead where it sees
//! several streams: exact11 became faster by 1.2 to 1.4 (notes.md).

use super::scratch::Worker;
use super::tile::Tile;
use crate::input::{FLOAT_TOKENS, Input, Line};
use netweight_layout::{CELL_COLS, TILE_ROWS};
use std::sync::atomic::{Ordering, compiler_fence};

/// Bytes by which kernels ask for weights ahead of reading them.
pub(crate) const AHEAD_BYTES: usize = 2048;
/// Tiles that are read side by side where there is one token.
pub(crate) const SIDE_BY_SIDE: usize = 4;
/// Cells that are decoded to memory at a time.
const RUN_CELLS: usize = 8;
/// Lines of a cell decoded to f32.
const CELL_LINES: usize = CELL_COLS;

/// One f32 for each of the 16 rows of a tile, in as many registers as that takes.
///
/// # Safety
/// Of all methods: the CPU has the instruction set.
pub(crate) trait Lanes: Copy {
    unsafe fn zero() -> Self;
    /// 16 values at any address.
    unsafe fn load(from: *const f32) -> Self;
    /// 16 values at any address.
    unsafe fn store(self, to: *mut f32);
    unsafe fn add(self, other: Self) -> Self;
    /// All 16 rows have the value at `from`.
    unsafe fn splat(from: *const f32) -> Self;
    /// `self + weights * x`, rounded once.
    unsafe fn add_product(self, weights: Self, x: Self) -> Self;
}

/// Decodes the cells of a tile from the first to the last, and in each cell its blocks from the first to the last.
///
/// # Safety
/// Of all methods: the CPU has the instruction set; no more cells are asked for than the tile has.
pub(crate) trait Loader {
    type Lanes: Lanes;
    /// `escapes` has room for the weights of the tile and 64 bytes more, and outlives the loader, as does the tile.
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self;
    /// Goes on to the next cell, and asks for weights `ahead` bytes behind what it reads.
    unsafe fn next_cell(&mut self, ahead: usize);
    /// Columns `4 * BLOCK..4 * BLOCK + 4` of the cell.
    unsafe fn block<const BLOCK: usize>(&mut self) -> [Self::Lanes; 4];
}

/// Reads cells that were decoded to f32.
pub(crate) struct Floats<L> {
    next: *const f32,
    cell: *const f32,
    lanes: std::marker::PhantomData<L>,
}

impl<L> Floats<L> {
    fn at(next: *const f32) -> Floats<L> {
        Floats { next, cell: next, lanes: std::marker::PhantomData }
    }
}

impl<L: Lanes> Loader for Floats<L> {
    type Lanes = L;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Floats::at(tile.cells.as_ptr().cast())
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, _ahead: usize) {
        self.cell = self.next;
        self.next = self.next.wrapping_add(CELL_LINES * TILE_ROWS);
    }

    #[inline(always)]
    unsafe fn block<const BLOCK: usize>(&mut self) -> [L; 4] {
        // SAFETY: inside of the cell that `next_cell` went to.
        unsafe {
            let at = self.cell.add(BLOCK * 4 * TILE_ROWS);
            [L::load(at), L::load(at.add(TILE_ROWS)), L::load(at.add(2 * TILE_ROWS)), L::load(at.add(3 * TILE_ROWS))]
        }
    }
}

/// [`super::LinearKernels::tiles_at_once`].
pub(crate) fn tiles_at_once(n_tokens: usize) -> [usize; 2] {
    if n_tokens == 1 { [1, SIDE_BY_SIDE] } else { [1, 1] }
}

/// Cuts tiles into what a kernel takes at once: fours of one layout, where it takes so many, and ones.
pub(crate) fn side_by_side<'a, 'b>(mut tiles: &'a [Tile<'b>], at_once: usize) -> impl Iterator<Item = &'a [Tile<'b>]> {
    std::iter::from_fn(move || {
        let four = tiles.first_chunk::<SIDE_BY_SIDE>().filter(|_| at_once == SIDE_BY_SIDE);
        let is_four = four.is_some_and(|four| four.iter().all(|tile| tile.layout == four[0].layout));
        tiles.split_off(..if is_four { SIDE_BY_SIDE } else { 1 })
    })
}

/// How far ahead of reading them weights are asked for, where four tiles lie side by side: behind its end, the stream
/// of a tile goes on in the tile after the next three.
pub(crate) struct Distance {
    /// Cells before the last [`AHEAD_BYTES`].
    n_cells: usize,
    past_end: usize,
}

impl Distance {
    /// For tiles like this one.
    pub(crate) fn of(tile: &Tile<'_>) -> Distance {
        let n_cells = tile.n_cells.saturating_sub(AHEAD_BYTES.div_ceil(tile.layout.cell_bytes()));
        Distance { n_cells, past_end: AHEAD_BYTES + (SIDE_BY_SIDE - 1) * tile.cells.len() }
    }

    /// For this cell, in bytes.
    #[inline(always)]
    pub(crate) fn at(&self, cell_idx: usize) -> usize {
        if cell_idx < self.n_cells { AHEAD_BYTES } else { self.past_end }
    }
}

/// Products of a tile with all tokens, or of four with one token. `MAX_TOKENS` are as many as sums fit registers.
/// Escapes and sums of tile `idx` are the worker's `first_tile + idx`. `multiply_run` is [`multiply_floats`] of the same
/// instruction set: one function for all loaders.
///
/// # Safety
/// The CPU has the loader's instruction set. Tiles have the loader's layout and as many cells as the input, and
/// `worker` has room.
#[inline(always)]
pub(crate) unsafe fn multiply<L: Loader, const MAX_TOKENS: usize>(
    tiles: &[Tile<'_>],
    input: &Input,
    worker: &mut Worker,
    first_tile: usize,
    multiply_run: MultiplyRun,
) {
    assert!(tiles.iter().all(|tile| tile.n_cells == input.n_cells()));
    let x = Columns { first: input.float_block(0).as_ptr().cast(), width: input.float_width(0) };
    if let &[first, second, third, fourth] = tiles {
        assert!(input.n_tokens() == 1);
        let escapes = |idx: usize| worker.escapes[first_tile + idx].as_ptr();
        // SAFETY: as the caller says.
        let loaders = unsafe {
            [
                L::new(&first, escapes(0)),
                L::new(&second, escapes(1)),
                L::new(&third, escapes(2)),
                L::new(&fourth, escapes(3)),
            ]
        };
        // SAFETY: `x` has the cells of the tiles, checked above.
        let sums = unsafe { multiply_four(loaders, &first, x) };
        for (idx, sum) in sums.into_iter().enumerate() {
            // SAFETY: a line is 16 values.
            unsafe { sum.store(worker.sums.tile_mut(first_tile + idx)[0].0.as_mut_ptr()) };
        }
        return;
    }
    let [tile] = tiles else { panic!("one tile, or four") };
    let sums = worker.sums.tile_mut(first_tile);
    assert!(input.n_tokens() <= sums.len());
    sums[..input.n_tokens().next_multiple_of(FLOAT_TOKENS)].fill(Line([0.0; TILE_ROWS]));
    // SAFETY: as the caller says.
    let mut loader = unsafe { L::new(tile, worker.escapes[first_tile].as_ptr()) };
    if input.n_tokens() <= MAX_TOKENS {
        // SAFETY: `x` has the cells of the tile, checked above, and sums are padded to 8 tokens.
        unsafe { multiply_tokens::<L, MAX_TOKENS>(&mut loader, tile.n_cells, x, 0, sums) };
        return;
    }
    let expanded = &mut worker.expanded[..RUN_CELLS * CELL_LINES];
    for first_cell in (0..tile.n_cells).step_by(RUN_CELLS) {
        let n_cells = RUN_CELLS.min(tile.n_cells - first_cell);
        // SAFETY: the run is not longer than the rest of the tile, nor than `expanded`.
        unsafe { expand(&mut loader, &mut expanded[..n_cells * CELL_LINES]) };
        // SAFETY: the run has the cells of these columns.
        unsafe { multiply_run(&expanded[..n_cells * CELL_LINES], first_cell, input, sums) };
    }
}

/// [`multiply_floats`] of an instruction set: `(run, first_cell, input, sums)`.
pub(crate) type MultiplyRun = unsafe fn(&[Line<[f32; 16]>], usize, &Input, &mut [Line<[f32; TILE_ROWS]>]);

/// Adds the products of cells decoded to f32, whose first is `first_cell` of the tile, with all tokens.
///
/// # Safety
/// The CPU has the instruction set; the input has the cells, and `sums` a line for each token, padded to 8.
#[inline(always)]
pub(crate) unsafe fn multiply_floats<L: Lanes, const MAX_TOKENS: usize>(
    run: &[Line<[f32; 16]>], // (n_cells, 32)
    first_cell: usize,
    input: &Input,
    sums: &mut [Line<[f32; TILE_ROWS]>],
) {
    for block_idx in 0..input.n_float_blocks() {
        let width = input.float_width(block_idx);
        let x = input.float_block(block_idx)[first_cell * width * 2..].as_ptr().cast::<f32>();
        for token in (0..width).step_by(MAX_TOKENS) {
            // SAFETY: the block has `width` tokens, each of 32 activations, for the cells of the run.
            unsafe {
                let x = Columns { first: x.add(token * CELL_COLS), width };
                let first_token = block_idx * FLOAT_TOKENS + token;
                let mut floats = Floats::<L>::at(run.as_ptr().cast());
                multiply_tokens::<_, MAX_TOKENS>(&mut floats, run.len() / CELL_LINES, x, first_token, sums);
            }
        }
    }
}

/// Decodes `out.len() / 32` cells: column `col` of cell `idx` becomes `out[32 * idx + col]`.
///
/// # Safety
/// The CPU has the instruction set; the loader has as many cells.
#[inline(always)]
pub(crate) unsafe fn expand<L: Loader>(loader: &mut L, out: &mut [Line<[f32; 16]>]) {
    for cell in out.chunks_exact_mut(CELL_LINES) {
        let to = cell.as_mut_ptr().cast::<f32>();
        // SAFETY: the loader has that cell; `to` has 32 columns of 16 weights.
        unsafe {
            loader.next_cell(AHEAD_BYTES);
            expand_block::<L, 0>(loader, to);
            expand_block::<L, 1>(loader, to);
            expand_block::<L, 2>(loader, to);
            expand_block::<L, 3>(loader, to);
            expand_block::<L, 4>(loader, to);
            expand_block::<L, 5>(loader, to);
            expand_block::<L, 6>(loader, to);
            expand_block::<L, 7>(loader, to);
        }
    }
}

/// # Safety
/// As [`Loader::block`]; `to` has room for a cell.
#[inline(always)]
unsafe fn expand_block<L: Loader, const BLOCK: usize>(loader: &mut L, to: *mut f32) {
    // SAFETY: four columns of 16 weights, inside of the cell.
    unsafe {
        for (idx, lanes) in loader.block::<BLOCK>().into_iter().enumerate() {
            lanes.store(to.add((4 * BLOCK + idx) * TILE_ROWS));
        }
    }
}

/// The weights of one row, see [`super::DecodeRow`].
///
/// # Safety
/// The CPU has the loader's instruction set; the tile has the loader's layout, and `worker` has room.
#[inline(always)]
pub(crate) unsafe fn decode_row<L: Loader>(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    assert!(out.len() <= tile.n_cells * CELL_COLS);
    // SAFETY: as the caller says.
    let mut loader = unsafe { L::new(tile, worker.escapes[0].as_ptr()) };
    for out in out.chunks_mut(RUN_CELLS * CELL_COLS) {
        let expanded = &mut worker.expanded[..out.len().div_ceil(CELL_COLS) * CELL_LINES];
        // SAFETY: `out` has no more columns than the tile, checked above.
        unsafe { expand(&mut loader, expanded) };
        out.iter_mut().zip(expanded).for_each(|(out, column)| *out = column.0[row]);
    }
}

/// Activations of neighbouring tokens: those of cell `idx`, (n_tokens, 32), begin at `first + idx * width * 32`.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    first: *const f32,
    width: usize,
}

/// Adds the products of `n_cells` cells with `min(x.width, MAX_TOKENS)` tokens to sums from `first_token` on.
///
/// # Safety
/// The CPU has the instruction set; loader and `x` have as many cells; `x` has that many tokens.
#[inline(always)]
unsafe fn multiply_tokens<L: Loader, const MAX_TOKENS: usize>(
    loader: &mut L,
    n_cells: usize,
    x: Columns,
    first_token: usize,
    sums: &mut [Line<[f32; TILE_ROWS]>],
) {
    let n_tokens = x.width.min(MAX_TOKENS);
    let sums = sums[first_token..first_token + n_tokens].as_mut_ptr().cast::<f32>();
    // SAFETY: sums have `n_tokens` lines, checked on the line above; the rest the caller says.
    unsafe {
        match n_tokens {
            1 => multiply_cells::<L, 1>(loader, n_cells, x, sums),
            2 if MAX_TOKENS >= 2 => multiply_cells::<L, 2>(loader, n_cells, x, sums),
            4 if MAX_TOKENS >= 4 => multiply_cells::<L, 4>(loader, n_cells, x, sums),
            8 if MAX_TOKENS >= 8 => multiply_cells::<L, 8>(loader, n_cells, x, sums),
            _ => unreachable!("widths are 1, 2, 4 and 8"),
        }
    }
}

/// # Safety
/// As [`multiply_tokens`]; `sums` has `TOKENS` lines.
#[inline(always)]
unsafe fn multiply_cells<L: Loader, const TOKENS: usize>(
    loader: &mut L,
    n_cells: usize,
    x: Columns,
    sums: *mut f32, // (TOKENS, 16)
) {
    // SAFETY: `x` has 32 activations for each of `TOKENS` tokens in each cell, and `sums` 16 values for each.
    unsafe {
        let mut sum = [L::Lanes::zero(); TOKENS];
        for (token, sum) in sum.iter_mut().enumerate() {
            *sum = L::Lanes::load(sums.add(token * TILE_ROWS));
        }
        let mut x_cell = x.first;
        for _ in 0..n_cells {
            add_cell::<L, TOKENS>(loader, AHEAD_BYTES, x_cell, &mut sum);
            x_cell = x_cell.wrapping_add(x.width * CELL_COLS);
        }
        for (token, sum) in sum.into_iter().enumerate() {
            sum.store(sums.add(token * TILE_ROWS));
        }
    }
}

/// The sums of four tiles like `tile`, one token's.
///
/// # Safety
/// The CPU has the instruction set; loaders and `x` have the cells of the tile.
#[inline(always)]
unsafe fn multiply_four<L: Loader>(
    loaders: [L; SIDE_BY_SIDE],
    tile: &Tile<'_>,
    x: Columns,
) -> [L::Lanes; SIDE_BY_SIDE] {
    let [mut first, mut second, mut third, mut fourth] = loaders;
    let distance = Distance::of(tile);
    // SAFETY: as the caller says.
    unsafe {
        let mut sums = [[L::Lanes::zero(); 1]; SIDE_BY_SIDE];
        let mut x_cell = x.first;
        for cell_idx in 0..tile.n_cells {
            let ahead = distance.at(cell_idx);
            add_cell::<L, 1>(&mut first, ahead, x_cell, &mut sums[0]);
            compiler_fence(Ordering::SeqCst);
            add_cell::<L, 1>(&mut second, ahead, x_cell, &mut sums[1]);
            compiler_fence(Ordering::SeqCst);
            add_cell::<L, 1>(&mut third, ahead, x_cell, &mut sums[2]);
            compiler_fence(Ordering::SeqCst);
            add_cell::<L, 1>(&mut fourth, ahead, x_cell, &mut sums[3]);
            x_cell = x_cell.wrapping_add(CELL_COLS);
        }
        let [[first], [second], [third], [fourth]] = sums;
        [first, second, third, fourth]
    }
}

/// Adds the products of the next cell to one sum for each token.
///
/// # Safety
/// As [`Loader`]; `x` has (TOKENS, 32) activations.
#[inline(always)]
unsafe fn add_cell<L: Loader, const TOKENS: usize>(
    loader: &mut L,
    ahead: usize,
    x: *const f32,
    sum: &mut [L::Lanes; TOKENS],
) {
    // SAFETY: as the caller says.
    unsafe {
        loader.next_cell(ahead);
        let mut chains = [[L::Lanes::zero(); 2]; TOKENS];
        add_block::<L, TOKENS, 0>(loader, x, &mut chains);
        add_block::<L, TOKENS, 1>(loader, x, &mut chains);
        add_block::<L, TOKENS, 2>(loader, x, &mut chains);
        add_block::<L, TOKENS, 3>(loader, x, &mut chains);
        add_block::<L, TOKENS, 4>(loader, x, &mut chains);
        add_block::<L, TOKENS, 5>(loader, x, &mut chains);
        add_block::<L, TOKENS, 6>(loader, x, &mut chains);
        add_block::<L, TOKENS, 7>(loader, x, &mut chains);
        for token in 0..TOKENS {
            sum[token] = sum[token].add(chains[token][0].add(chains[token][1]));
        }
    }
}

/// The products of one block, in the definition's order.
///
/// # Safety
/// As [`Loader::block`]; `x` has (TOKENS, 32) activations.
#[inline(always)]
unsafe fn add_block<L: Loader, const TOKENS: usize, const BLOCK: usize>(
    loader: &mut L,
    x: *const f32,
    chains: &mut [[L::Lanes; 2]; TOKENS],
) {
    // SAFETY: columns of block `BLOCK` are below 32.
    unsafe {
        let columns = loader.block::<BLOCK>();
        for (col, weights) in columns.into_iter().enumerate() {
            for (token, chains) in chains.iter_mut().enumerate() {
                let x = L::Lanes::splat(x.add(token * CELL_COLS + 4 * BLOCK + col));
                chains[col % 2] = chains[col % 2].add_product(weights, x);
            }
        }
    }
}
