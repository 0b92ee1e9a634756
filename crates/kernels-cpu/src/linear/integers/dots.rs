//! The kernel of every instruction set that multiplies bytes and sums fours of them, over registers of any width. Goes in:
//! tiles, and how an instruction set does that ([`Dots`]). Comes out: (n_tokens, 16) sums. Next in the flow: avx512.rs.
//!
//! ```text
//! one token:   four tiles side by side, a run of two cells of each in turn, as below
//! 2, 4, 8:     for each run, for each of its blocks of 4 columns:
//!                  decode the block in registers; for each token: fours of products, added to 16 integers
//!              then for each token: integers to f32, times the run's scale
//! others:      for each 16 runs: decode them into 16 KiB of bytes; for each block of tokens: multiply, sums carried
//!              on in memory
//! ```
//!
//! Everything here is `#[inline(always)]`, as in fma.rs.

use super::scalar::RUN_CELLS;
use crate::input::{Input, Integers, Line, RUN_COLS, Run};
use crate::linear::fma::{self, AHEAD_BYTES, Distance, Lanes};
use crate::linear::index_loaders::IndexLoader;
use crate::linear::loaders::Registers;
use crate::linear::scratch::Worker;
use crate::linear::tile::Tile;
use netweight_layout::{CELL_COLS, TILE_ROWS};
use std::sync::atomic::{Ordering, compiler_fence};

/// Runs that are decoded to memory at a time.
const RUNS_AT_ONCE: usize = 16;
/// Lines of a decoded cell.
pub(super) const CELL_LINES: usize = 8;
/// Lines of a decoded run.
pub(super) const RUN_LINES: usize = RUN_CELLS * CELL_LINES;

/// Products of bytes.
///
/// # Safety
/// Of all methods: the CPU has the instruction set, and there are as many bytes at a pointer as are read.
pub(crate) trait Dots: Registers {
    /// What indices are XORed with before they are multiplied: 128 where only unsigned bytes can be, else 0.
    const FLIP: u8;
    /// 16 rows of i32.
    type Sums: Copy;

    unsafe fn zero() -> Self::Sums;
    unsafe fn add(a: Self::Sums, b: Self::Sums) -> Self::Sums;
    /// A block's indices row by row, four columns each; XORed with [`Dots::FLIP`] where they must be and are not yet.
    unsafe fn quads(indices: Self::Bytes, must_flip: bool) -> Self::Bytes;
    unsafe fn store_bytes(bytes: Self::Bytes, to: *mut u8);
    /// Adds the products of each row's four indices with four activations.
    unsafe fn add_quads(sums: Self::Sums, quads: Self::Bytes, x: *const i8) -> Self::Sums;
    /// As f32, with the correction for flipped indices added before where they are.
    unsafe fn to_floats(sums: Self::Sums, run: &Run) -> Self::Floats;
}

/// Where blocks of quads come from.
///
/// # Safety
/// As [`IndexLoader`].
pub(super) trait Source {
    type Dots: Dots;
    unsafe fn next_cell(&mut self, ahead: usize);
    unsafe fn quads<const BLOCK: usize>(&mut self) -> <Self::Dots as Registers>::Bytes;
}

/// Decodes them.
pub(super) struct Decoder<I> {
    loader: I,
    must_flip: bool,
}

impl<I: IndexLoader<Registers: Dots>> Decoder<I> {
    /// A tile that is flipped, or not, as its indices are to be.
    ///
    /// # Safety
    /// As [`IndexLoader::new`].
    #[inline(always)]
    pub(super) unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says.
        Decoder { loader: unsafe { I::new(tile, escapes) }, must_flip: tile.flip != 0 && !I::HAS_PALETTE }
    }
}

impl<I: IndexLoader<Registers: Dots>> Source for Decoder<I> {
    type Dots = I::Registers;

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        // SAFETY: as the caller says.
        unsafe { self.loader.next_cell(ahead) }
    }

    #[inline(always)]
    unsafe fn quads<const BLOCK: usize>(&mut self) -> <I::Registers as Registers>::Bytes {
        // SAFETY: as the caller says.
        unsafe { I::Registers::quads(self.loader.indices::<BLOCK>(), self.must_flip) }
    }
}

/// Reads them where they were decoded to.
struct Stored<D> {
    next: *const u8,
    cell: *const u8,
    dots: std::marker::PhantomData<D>,
}

impl<D: Dots> Source for Stored<D> {
    type Dots = D;

    #[inline(always)]
    unsafe fn next_cell(&mut self, _ahead: usize) {
        self.cell = self.next;
        self.next = self.next.wrapping_add(64 * CELL_LINES);
    }

    #[inline(always)]
    unsafe fn quads<const BLOCK: usize>(&mut self) -> D::Bytes {
        // SAFETY: inside of the cell that `next_cell` went to.
        unsafe { D::load_bytes(self.cell.add(64 * BLOCK)) }
    }
}

/// Activations of neighbouring tokens: those of run `idx` begin at `values + idx * width * 64` and `runs + idx * width`.
#[derive(Clone, Copy)]
struct Columns {
    values: *const i8,
    runs: *const Run,
    width: usize,
}

impl Columns {
    /// From a run and a token of a block on.
    fn of(input: &Integers, block_idx: usize, first_run: usize, token: usize) -> Columns {
        let (block, width) = (input.block(block_idx), input.width());
        let at = first_run * width + token;
        Columns { values: block.values[at..].as_ptr().cast(), runs: block.runs[at..].as_ptr(), width }
    }

    #[inline(always)]
    fn next_run(self) -> Columns {
        let Columns { values, runs, width } = self;
        Columns { values: values.wrapping_add(width * RUN_COLS), runs: runs.wrapping_add(width), width }
    }
}

/// [`multiply_stored`] of an instruction set: `(lines, first_run, n_cells, input, sums)`.
pub(super) type MultiplyStored = unsafe fn(&[Line<[f32; 16]>], usize, usize, &Integers, &mut [Line<[f32; TILE_ROWS]>]);

/// Products of a tile with all tokens, or of four with one token. Escapes and sums of tile `idx` are the worker's
/// `first_tile + idx`. 1, 2, 4 or 8 tokens, but at most `MAX_TOKENS`, are multiplied with blocks as they are decoded.
///
/// # Safety
/// The CPU has the loader's instruction set. Tiles have the loader's layout and as many cells as the input, and `worker`
/// has room.
#[inline(always)]
pub(super) unsafe fn multiply<I: IndexLoader<Registers: Dots>, const MAX_TOKENS: usize>(
    tiles: &[Tile<'_>],
    input: &Input,
    worker: &mut Worker,
    first_tile: usize,
    multiply_stored: MultiplyStored,
) {
    assert!(tiles.iter().all(|tile| tile.n_cells == input.n_cells()));
    let input = input.integers();
    let escapes = |idx: usize| worker.escapes[first_tile + idx].as_ptr();
    let x = Columns::of(input, 0, 0, 0);
    if let [first, second, third, fourth] = tiles {
        assert!(input.n_tokens() == 1);
        // SAFETY: as the caller says; `x` has the runs of the tiles, checked above.
        let sums = unsafe {
            let loaders = [
                Decoder::<I>::new(first, escapes(0)),
                Decoder::new(second, escapes(1)),
                Decoder::new(third, escapes(2)),
                Decoder::new(fourth, escapes(3)),
            ];
            multiply_four(loaders, first, x)
        };
        for (idx, sum) in sums.into_iter().enumerate() {
            // SAFETY: a line is 16 values.
            unsafe { sum.store(worker.sums.tile_mut(first_tile + idx)[0].0.as_mut_ptr()) };
        }
        return;
    }
    let [tile] = tiles else { panic!("one tile, or four") };
    // SAFETY: as the caller says.
    let mut source = unsafe { Decoder::<I>::new(tile, escapes(0)) };
    let sums = worker.sums.tile_mut(first_tile);
    sums[..input.n_blocks() * input.width()].fill(Line([0.0; TILE_ROWS]));
    if input.n_tokens() <= MAX_TOKENS && input.n_tokens().is_power_of_two() {
        // SAFETY: `x` has the runs of the tile, checked above, and the tokens of `sums`.
        unsafe { multiply_tokens(&mut source, tile.n_cells, x, &mut sums[..input.n_tokens()]) };
        return;
    }
    let stored = &mut worker.expanded[..RUNS_AT_ONCE * RUN_LINES];
    for first_cell in (0..tile.n_cells).step_by(RUNS_AT_ONCE * RUN_CELLS) {
        let n_cells = (RUNS_AT_ONCE * RUN_CELLS).min(tile.n_cells - first_cell);
        let stored = &mut stored[..n_cells * CELL_LINES];
        // SAFETY: these are not more cells than the rest of the tile, and there are their lines and runs.
        unsafe {
            store_cells(&mut source, stored);
            multiply_stored(stored, first_cell / RUN_CELLS, n_cells, input, sums);
        }
    }
}

/// Decodes a cell for each 8 lines.
///
/// # Safety
/// The CPU has the instruction set; the source has as many cells.
#[inline(always)]
pub(super) unsafe fn store_cells<S: Source>(source: &mut S, lines: &mut [Line<[f32; 16]>]) {
    for cell in lines.chunks_exact_mut(CELL_LINES) {
        let to = cell.as_mut_ptr().cast::<u8>();
        // SAFETY: the source has that cell; `to` has eight lines.
        unsafe {
            source.next_cell(AHEAD_BYTES);
            S::Dots::store_bytes(source.quads::<0>(), to);
            S::Dots::store_bytes(source.quads::<1>(), to.add(64));
            S::Dots::store_bytes(source.quads::<2>(), to.add(128));
            S::Dots::store_bytes(source.quads::<3>(), to.add(192));
            S::Dots::store_bytes(source.quads::<4>(), to.add(256));
            S::Dots::store_bytes(source.quads::<5>(), to.add(320));
            S::Dots::store_bytes(source.quads::<6>(), to.add(384));
            S::Dots::store_bytes(source.quads::<7>(), to.add(448));
        }
    }
}

/// Adds the products of stored cells, whose first run is `first_run` of the tile, with all tokens.
///
/// # Safety
/// The CPU has the instruction set; `stored` has 8 lines for each cell, `input` the runs of these cells, and `sums` a line
/// for each token, padded as blocks are.
#[inline(always)]
pub(super) unsafe fn multiply_stored<D: Dots>(
    stored: &[Line<[f32; 16]>],
    first_run: usize,
    n_cells: usize,
    input: &Integers,
    sums: &mut [Line<[f32; TILE_ROWS]>],
) {
    let first = stored.as_ptr().cast::<u8>();
    for block_idx in 0..input.n_blocks() {
        let sums = &mut sums[block_idx * input.width()..][..input.width()];
        let mut token = 0;
        while token < sums.len() {
            let n_tokens = 1 << (sums.len() - token).min(8).ilog2();
            let mut source = Stored::<D> { next: first, cell: first, dots: std::marker::PhantomData };
            let x = Columns::of(input, block_idx, first_run, token);
            // SAFETY: as the caller says.
            unsafe { multiply_tokens(&mut source, n_cells, x, &mut sums[token..token + n_tokens]) };
            token += n_tokens;
        }
    }
}

/// Adds the products of `n_cells` cells with the first tokens of `x` to their sums.
///
/// # Safety
/// The CPU has the instruction set; the source has as many cells, and `x` their runs and as many tokens as `sums`, which are
/// 1, 2, 4 or 8.
#[inline(always)]
unsafe fn multiply_tokens<S: Source>(source: &mut S, n_cells: usize, x: Columns, sums: &mut [Line<[f32; TILE_ROWS]>]) {
    let n_tokens = sums.len();
    let sums = sums.as_mut_ptr().cast::<f32>();
    // SAFETY: sums have `n_tokens` lines; the rest the caller says.
    unsafe {
        match n_tokens {
            1 => multiply_cells::<S, 1>(source, n_cells, x, sums),
            2 => multiply_cells::<S, 2>(source, n_cells, x, sums),
            4 => multiply_cells::<S, 4>(source, n_cells, x, sums),
            8 => multiply_cells::<S, 8>(source, n_cells, x, sums),
            _ => unreachable!("1, 2, 4 or 8 tokens"),
        }
    }
}

/// # Safety
/// As [`multiply_tokens`]; `sums` has `TOKENS` lines.
#[inline(always)]
unsafe fn multiply_cells<S: Source, const TOKENS: usize>(
    source: &mut S,
    n_cells: usize,
    mut x: Columns,
    sums: *mut f32, // (TOKENS, 16)
) {
    // SAFETY: as the caller says.
    unsafe {
        let mut sum = [<S::Dots as Registers>::Floats::zero(); TOKENS];
        for (token, sum) in sum.iter_mut().enumerate() {
            *sum = Lanes::load(sums.add(token * TILE_ROWS));
        }
        for first_cell in (0..n_cells).step_by(RUN_CELLS) {
            let n_cells = n_cells - first_cell;
            add_run::<S, TOKENS>(source, n_cells, [AHEAD_BYTES; RUN_CELLS], x, &mut sum);
            x = x.next_run();
        }
        for (token, sum) in sum.into_iter().enumerate() {
            sum.store(sums.add(token * TILE_ROWS));
        }
    }
}

/// The sums of four tiles like `tile`, one token's.
///
/// # Safety
/// The CPU has the instruction set; sources and `x` have the cells of the tile.
#[inline(always)]
unsafe fn multiply_four<S: Source>(
    sources: [S; fma::SIDE_BY_SIDE],
    tile: &Tile<'_>,
    mut x: Columns,
) -> [<S::Dots as Registers>::Floats; fma::SIDE_BY_SIDE] {
    let [mut first, mut second, mut third, mut fourth] = sources;
    let distance = Distance::of(tile);
    // SAFETY: as the caller says.
    unsafe {
        let mut sums = [[<S::Dots as Registers>::Floats::zero(); 1]; fma::SIDE_BY_SIDE];
        for first_cell in (0..tile.n_cells).step_by(RUN_CELLS) {
            let n_cells = tile.n_cells - first_cell;
            let ahead = [distance.at(first_cell), distance.at(first_cell + 1)];
            add_run::<S, 1>(&mut first, n_cells, ahead, x, &mut sums[0]);
            compiler_fence(Ordering::SeqCst);
            add_run::<S, 1>(&mut second, n_cells, ahead, x, &mut sums[1]);
            compiler_fence(Ordering::SeqCst);
            add_run::<S, 1>(&mut third, n_cells, ahead, x, &mut sums[2]);
            compiler_fence(Ordering::SeqCst);
            add_run::<S, 1>(&mut fourth, n_cells, ahead, x, &mut sums[3]);
            x = x.next_run();
        }
        let [[first], [second], [third], [fourth]] = sums;
        [first, second, third, fourth]
    }
}

/// Adds the products of the next run, which has two cells or as many as are left, to one sum for each token.
///
/// # Safety
/// As [`Source`]; `x` has `TOKENS` tokens of the run.
#[inline(always)]
unsafe fn add_run<S: Source, const TOKENS: usize>(
    source: &mut S,
    n_cells_left: usize,
    ahead: [usize; RUN_CELLS],
    x: Columns,
    sum: &mut [<S::Dots as Registers>::Floats; TOKENS],
) {
    // SAFETY: as the caller says.
    unsafe {
        let mut sums = [[S::Dots::zero(); 2]; TOKENS];
        add_cell::<S, TOKENS>(source, ahead[0], x.values, &mut sums);
        if n_cells_left > 1 {
            add_cell::<S, TOKENS>(source, ahead[1], x.values.add(CELL_COLS), &mut sums);
        }
        for (token, [even, odd]) in sums.into_iter().enumerate() {
            let run = &*x.runs.add(token);
            let floats = S::Dots::to_floats(S::Dots::add(even, odd), run);
            sum[token] = sum[token].add_product(floats, Lanes::splat(&run.scale));
        }
    }
}

/// Even blocks go to the first sum of each token, odd ones to the second: chains of half the length.
///
/// # Safety
/// As [`Source`]; `x` has 32 values, and as many 64 bytes after them for each further token.
#[inline(always)]
unsafe fn add_cell<S: Source, const TOKENS: usize>(
    source: &mut S,
    ahead: usize,
    x: *const i8,
    sums: &mut [[<S::Dots as Dots>::Sums; 2]; TOKENS],
) {
    // SAFETY: as the caller says.
    unsafe {
        source.next_cell(ahead);
        add_block::<S, TOKENS, 0>(source, x, sums);
        add_block::<S, TOKENS, 1>(source, x, sums);
        add_block::<S, TOKENS, 2>(source, x, sums);
        add_block::<S, TOKENS, 3>(source, x, sums);
        add_block::<S, TOKENS, 4>(source, x, sums);
        add_block::<S, TOKENS, 5>(source, x, sums);
        add_block::<S, TOKENS, 6>(source, x, sums);
        add_block::<S, TOKENS, 7>(source, x, sums);
    }
}

/// # Safety
/// As [`add_cell`].
#[inline(always)]
unsafe fn add_block<S: Source, const TOKENS: usize, const BLOCK: usize>(
    source: &mut S,
    x: *const i8,
    sums: &mut [[<S::Dots as Dots>::Sums; 2]; TOKENS],
) {
    // SAFETY: as the caller says.
    unsafe {
        let quads = source.quads::<BLOCK>();
        for (token, sums) in sums.iter_mut().enumerate() {
            let x = x.add(token * RUN_COLS + 4 * BLOCK);
            sums[BLOCK % 2] = S::Dots::add_quads(sums[BLOCK % 2], quads, x);
        }
    }
}

/// `multiply` of an instruction set, and the functions that enable its features; of the file that asks: `MAX_TOKENS`, whose
/// sums fit registers.
macro_rules! dispatch_integers {
    ($registers:ty, $features:literal, $expand_escapes:path) => {
        /// [`crate::linear::Multiply`].
        pub(in crate::linear) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
            assert!(available() && worker.has_room(input.n_tokens(), input.cols()));
            let mut flipped = [tiles[0]; MAX_TILES];
            for (idx, tile) in tiles.iter().enumerate() {
                flipped[idx] = tile.flipped(<$registers as Dots>::FLIP);
                $expand_escapes(&flipped[idx], &mut worker.escapes[idx]);
            }
            let mut n_done = 0;
            for tiles in fma::side_by_side(&flipped[..tiles.len()], fma::tiles_at_once(input.n_tokens())[1]) {
                // SAFETY: the CPU has the features, and there is room, checked above; loaders are the layouts'.
                unsafe {
                    match tiles[0].layout {
                        Layout::Index8 => multiply_tiles::<Index8<$registers>>(tiles, input, worker, n_done),
                        Layout::Index4 => multiply_tiles::<Index4<$registers>>(tiles, input, worker, n_done),
                        Layout::Index3 => multiply_tiles::<Index3<$registers>>(tiles, input, worker, n_done),
                        Layout::Int4 => multiply_tiles::<Int4<$registers>>(tiles, input, worker, n_done),
                        _ => unreachable!("int8 activations are for indices: checked by `linear`"),
                    }
                }
                n_done += tiles.len();
            }
        }

        /// # Safety
        /// As [`dots::multiply`].
        #[target_feature(enable = $features)]
        unsafe fn multiply_tiles<I: IndexLoader<Registers = $registers>>(
            tiles: &[Tile<'_>],
            input: &Input,
            worker: &mut Worker,
            first_tile: usize,
        ) {
            // SAFETY: as the caller says.
            unsafe { dots::multiply::<I, MAX_TOKENS>(tiles, input, worker, first_tile, multiply_stored) };
        }

        /// # Safety
        /// As [`dots::multiply_stored`].
        #[target_feature(enable = $features)]
        unsafe fn multiply_stored(
            stored: &[Line<[f32; 16]>],
            first_run: usize,
            n_cells: usize,
            input: &Integers,
            sums: &mut [Line<[f32; TILE_ROWS]>],
        ) {
            // SAFETY: as the caller says.
            unsafe { dots::multiply_stored::<$registers>(stored, first_run, n_cells, input, sums) };
        }
    };
}
pub(super) use dispatch_integers;
