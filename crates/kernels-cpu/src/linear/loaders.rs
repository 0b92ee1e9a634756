//! How cells of each layout are decoded, for registers of any width. Goes in: the bytes of a tile. Comes out: blocks
//! of four columns, widened to f32 or as pairs of bf16. Next in the flow: index_loaders.rs, and avx512.rs,
//! avx2.rs, neon.rs, which are [`Registers`] each.
//!
//! Exact cells: codes -> high bytes in the palette -> escapes in their places -> unpack with the low bytes -> two times
//! 16 rows by (even | odd << 16).

use super::fma::{Lanes, Loader};
use super::tile::Tile;
use netweight_layout::READ_SLACK;

/// The registers of an instruction set, as many as it takes for 16 rows or for the 64 codes of a block.
///
/// # Safety
/// Of all methods: the CPU has the instruction set, and there are as many bytes at a pointer as are read.
pub(crate) trait Registers {
    /// 16 rows as f32.
    type Floats: Lanes;
    /// 16 rows as even | odd << 16, two bf16.
    type Pairs: Copy;
    /// 64 bytes.
    type Bytes: Copy;
    /// A palette, ready for looking up.
    type Palette: Copy;

    /// 16 IEEE half floats.
    unsafe fn load_halves(from: *const u8) -> Self::Floats;
    unsafe fn load_pairs(from: *const u8) -> Self::Pairs;
    unsafe fn even(pairs: Self::Pairs) -> Self::Floats;
    unsafe fn odd(pairs: Self::Pairs) -> Self::Floats;
    unsafe fn load_bytes(from: *const u8) -> Self::Bytes;
    /// Each byte shifted; what comes in from above does not matter.
    unsafe fn shift_right<const N_BITS: u32>(bytes: Self::Bytes) -> Self::Bytes;
    /// Bit 2 of each byte from `top`, bits 0 and 1 from `low`; the others do not matter.
    unsafe fn join_code(top: Self::Bytes, low: Self::Bytes) -> Self::Bytes;
    /// Byte-unpacks, in lanes of 128 bits, the lower halves and the upper halves.
    unsafe fn unpack(low: Self::Bytes, high: Self::Bytes) -> [Self::Pairs; 2];
    /// Of a tile that has one.
    unsafe fn palette(tile: &Tile<'_>) -> Self::Palette;
    /// High bytes of codes in the lower three bits; code 7 takes the next of `escapes`, which has 64 bytes more.
    unsafe fn highs_of_3(codes: Self::Bytes, palette: &Self::Palette, escapes: &mut *const u8) -> Self::Bytes;
    /// Bytes of codes in the lower four bits; code 15 takes the next of `escapes`, which has 64 bytes more.
    unsafe fn bytes_of_4(codes: Self::Bytes, palette: &Self::Palette, escapes: &mut *const u8) -> Self::Bytes;
    /// The lower four bits less 8.
    unsafe fn indices_of_nibbles(codes: Self::Bytes) -> Self::Bytes;
    /// i8 as bf16, in the order of [`Registers::unpack`].
    unsafe fn pairs_of_indices(indices: Self::Bytes) -> [Self::Pairs; 2];
    /// The same, where `is_small` says that all are from -32 to 31.
    #[inline(always)]
    unsafe fn pairs_of_some_indices(indices: Self::Bytes, is_small: bool) -> [Self::Pairs; 2] {
        let _ = is_small;
        // SAFETY: as the caller says.
        unsafe { Self::pairs_of_indices(indices) }
    }
    /// High bytes of codes in the lower four bits; code 15, a rare one, takes the next raw byte.
    unsafe fn highs_of_4(codes: Self::Bytes, palette: &Self::Palette, raw: &mut Raw) -> Self::Bytes;
    /// Asks for a line; any address will do.
    fn prefetch(at: *const u8);

    /// The codes of a block in the lower three bits, of a cell's three vectors of codes.
    #[inline(always)]
    unsafe fn codes_of_3<const BLOCK: usize>([a, b, c]: &[Self::Bytes; 3]) -> Self::Bytes {
        // SAFETY: as the caller says.
        unsafe {
            match BLOCK {
                0 => *a,
                1 => Self::shift_right::<3>(*a),
                2 => *b,
                3 => Self::shift_right::<3>(*b),
                4 => *c,
                5 => Self::shift_right::<3>(*c),
                6 => Self::join_code(Self::shift_right::<4>(*c), Self::shift_right::<6>(*a)),
                _ => Self::join_code(Self::shift_right::<5>(*c), Self::shift_right::<6>(*b)),
            }
        }
    }
}

/// The raw bytes of a tile that are still to come, and 64 bytes of slack.
pub(crate) struct Raw {
    next: *const u8,
    n_left: usize,
}

impl Raw {
    /// Takes `n` bytes: where they are. Beyond the last one stands slack.
    #[inline(always)]
    pub(crate) fn take(&mut self, n: usize) -> *const u8 {
        let at = self.next;
        let n = n.min(self.n_left);
        self.n_left -= n;
        self.next = at.wrapping_add(n);
        at
    }
}

/// IEEE half floats.
pub(crate) struct Halves<R> {
    cells: Cells<1024>,
    registers: std::marker::PhantomData<R>,
}

/// Where the cells of a tile are, `BYTES` bytes each.
pub(super) struct Cells<const BYTES: usize> {
    next: *const u8,
    cell: *const u8,
    /// How far ahead of reading it memory is asked for, in bytes.
    ahead: usize,
}

impl<const BYTES: usize> Cells<BYTES> {
    #[inline(always)]
    pub(super) fn of(tile: &Tile<'_>) -> Self {
        Cells { next: tile.cells.as_ptr(), cell: tile.cells.as_ptr(), ahead: 0 }
    }

    #[inline(always)]
    pub(super) fn go_on(&mut self, ahead: usize) {
        self.cell = self.next;
        self.next = self.next.wrapping_add(BYTES);
        self.ahead = ahead;
    }

    /// Byte `at` of the cell, for which memory further ahead is asked for.
    #[inline(always)]
    pub(super) fn line<R: Registers>(&self, at: usize) -> *const u8 {
        let line = self.cell.wrapping_add(at);
        R::prefetch(line.wrapping_add(self.ahead));
        line
    }

    /// The codes of a block in the lower four bits, of a cell that begins with vectors of two blocks' each.
    ///
    /// # Safety
    /// As [`Registers`]; the cell that [`Cells::go_on`] went to is there.
    #[inline(always)]
    pub(super) unsafe fn codes_of_4<R: Registers, const BLOCK: usize>(&self) -> R::Bytes {
        // SAFETY: 64 bytes of the cell.
        unsafe {
            match BLOCK % 2 {
                0 => R::load_bytes(self.line::<R>(32 * BLOCK)),
                _ => R::shift_right::<4>(R::load_bytes(self.cell.wrapping_add(32 * (BLOCK - 1)))),
            }
        }
    }
}

impl<R: Registers> Loader for Halves<R> {
    type Lanes = R::Floats;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Halves { cells: Cells::of(tile), registers: std::marker::PhantomData }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn block<const BLOCK: usize>(&mut self) -> [R::Floats; 4] {
        // SAFETY: four columns of 16 halves, 128 bytes of the cell that `next_cell` went to.
        unsafe {
            let first = self.cells.line::<R>(128 * BLOCK);
            let second = self.cells.line::<R>(128 * BLOCK + 64);
            [
                R::load_halves(first),
                R::load_halves(first.add(32)),
                R::load_halves(second),
                R::load_halves(second.add(32)),
            ]
        }
    }
}

/// Decodes cells to the 16 pairs of columns that they are in layout bf16.
///
/// # Safety
/// As [`Loader`].
pub(crate) trait PairLoader {
    type Registers: Registers;
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self;
    unsafe fn next_cell(&mut self, ahead: usize);
    /// Pairs `2 * BLOCK` and `2 * BLOCK + 1`.
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [<Self::Registers as Registers>::Pairs; 2];
}

/// Widens pairs to f32.
pub(crate) struct Words<P>(P);

impl<P: PairLoader> Loader for Words<P> {
    type Lanes = <P::Registers as Registers>::Floats;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says.
        Words(unsafe { P::new(tile, escapes) })
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        // SAFETY: as the caller says.
        unsafe { self.0.next_cell(ahead) }
    }

    #[inline(always)]
    unsafe fn block<const BLOCK: usize>(&mut self) -> [Self::Lanes; 4] {
        // SAFETY: as the caller says.
        unsafe {
            let [first, second] = self.0.pairs::<BLOCK>();
            [P::Registers::even(first), P::Registers::odd(first), P::Registers::even(second), P::Registers::odd(second)]
        }
    }
}

/// Pairs as they are.
pub(crate) struct Bf16<R> {
    cells: Cells<1024>,
    registers: std::marker::PhantomData<R>,
}

impl<R: Registers> PairLoader for Bf16<R> {
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Bf16 { cells: Cells::of(tile), registers: std::marker::PhantomData }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [R::Pairs; 2] {
        // SAFETY: two pairs of 64 bytes of the cell that `next_cell` went to.
        unsafe {
            let first = self.cells.line::<R>(128 * BLOCK);
            let second = self.cells.line::<R>(128 * BLOCK + 64);
            [R::load_pairs(first), R::load_pairs(second)]
        }
    }
}

/// Codes of 3 bits; escapes were expanded before.
pub(crate) struct Exact11<R: Registers> {
    cells: Cells<704>,
    escapes: *const u8,
    codes: [R::Bytes; 3],
    palette: R::Palette,
}

impl<R: Registers> PairLoader for Exact11<R> {
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: a tile has a cell at least, since matrices have columns.
        unsafe {
            let codes = [R::load_bytes(tile.cells.as_ptr()); 3];
            Exact11 { cells: Cells::of(tile), escapes, codes, palette: R::palette(tile) }
        }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
        for (idx, codes) in self.codes.iter_mut().enumerate() {
            // SAFETY: the tile has one more cell, the caller says, which begins with three vectors of codes.
            *codes = unsafe { R::load_bytes(self.cells.line::<R>(64 * idx)) };
        }
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [R::Pairs; 2] {
        // SAFETY: the block's 64 low bytes are in the cell. Each weight takes one escape at most, so that `escapes`
        // is not beyond the weights of the tile, and 64 bytes can be read there.
        unsafe {
            let codes = R::codes_of_3::<BLOCK>(&self.codes);
            let high = R::highs_of_3(codes, &self.palette, &mut self.escapes);
            R::unpack(R::load_bytes(self.cells.line::<R>(192 + 64 * BLOCK)), high)
        }
    }
}

/// Codes of 4 bits; escapes are raw bytes, and rare.
pub(crate) struct Exact12<R: Registers> {
    cells: Cells<768>,
    raw: Raw,
    palette: R::Palette,
}

impl<R: Registers> PairLoader for Exact12<R> {
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        let raw = Raw { next: tile.raw.as_ptr(), n_left: tile.raw.len() - READ_SLACK };
        // SAFETY: as the caller says.
        Exact12 { cells: Cells::of(tile), raw, palette: unsafe { R::palette(tile) } }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [R::Pairs; 2] {
        // SAFETY: the block's codes and its 64 low bytes are in the cell that `next_cell` went to.
        unsafe {
            let high = R::highs_of_4(self.cells.codes_of_4::<R, BLOCK>(), &self.palette, &mut self.raw);
            R::unpack(R::load_bytes(self.cells.line::<R>(256 + 64 * BLOCK)), high)
        }
    }
}

/// The two functions of a table row, from the functions that enable the instruction set: `multiply_tiles` and
/// `decode_tile_row`, each generic over a [`Loader`].
macro_rules! dispatch {
    ($registers:ty, $expand_escapes:path) => {
        /// [`super::Multiply`].
        pub(crate) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
            assert!(available() && worker.has_room(input.n_tokens(), input.cols()));
            tiles.iter().zip(&mut worker.escapes).for_each(|(tile, escapes)| $expand_escapes(tile, escapes));
            let mut n_done = 0;
            for tiles in fma::side_by_side(tiles, fma::tiles_at_once(input.n_tokens())[1]) {
                // SAFETY: the CPU has the features, and there is room, checked above; loaders are the layouts'.
                unsafe {
                    match tiles[0].layout {
                        Layout::F32 => {
                            multiply_tiles::<Floats<<$registers as Registers>::Floats>>(tiles, input, worker, n_done)
                        }
                        Layout::F16 => multiply_tiles::<Halves<$registers>>(tiles, input, worker, n_done),
                        Layout::Bf16 => multiply_tiles::<Words<Bf16<$registers>>>(tiles, input, worker, n_done),
                        Layout::Exact11 => multiply_tiles::<Words<Exact11<$registers>>>(tiles, input, worker, n_done),
                        Layout::Exact12 => multiply_tiles::<Words<Exact12<$registers>>>(tiles, input, worker, n_done),
                        Layout::Index8 => multiply_tiles::<Words<Index8<$registers>>>(tiles, input, worker, n_done),
                        Layout::Index4 => multiply_tiles::<Words<Index4<$registers>>>(tiles, input, worker, n_done),
                        Layout::Index3 => multiply_tiles::<Words<Index3<$registers>>>(tiles, input, worker, n_done),
                        Layout::Int4 => multiply_tiles::<Words<Int4<$registers>>>(tiles, input, worker, n_done),
                    }
                }
                n_done += tiles.len();
            }
        }

        /// [`super::DecodeRow`].
        pub(crate) fn decode_row(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
            assert!(available() && worker.has_room(0, tile.n_cells * CELL_COLS));
            $expand_escapes(tile, &mut worker.escapes[0]);
            // SAFETY: the CPU has the features, and there is room, checked above; loaders are the layouts'.
            unsafe {
                match tile.layout {
                    Layout::F32 => decode_tile_row::<Floats<<$registers as Registers>::Floats>>(tile, row, worker, out),
                    Layout::F16 => decode_tile_row::<Halves<$registers>>(tile, row, worker, out),
                    Layout::Bf16 => decode_tile_row::<Words<Bf16<$registers>>>(tile, row, worker, out),
                    Layout::Exact11 => decode_tile_row::<Words<Exact11<$registers>>>(tile, row, worker, out),
                    Layout::Exact12 => decode_tile_row::<Words<Exact12<$registers>>>(tile, row, worker, out),
                    Layout::Index8 => decode_tile_row::<Words<Index8<$registers>>>(tile, row, worker, out),
                    Layout::Index4 => decode_tile_row::<Words<Index4<$registers>>>(tile, row, worker, out),
                    Layout::Index3 => decode_tile_row::<Words<Index3<$registers>>>(tile, row, worker, out),
                    Layout::Int4 => decode_tile_row::<Words<Int4<$registers>>>(tile, row, worker, out),
                }
            }
        }
    };
}
pub(crate) use dispatch;
