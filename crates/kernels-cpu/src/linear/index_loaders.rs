//! How cells of the index layouts are decoded, for registers of any width. Goes in: the bytes of a tile. Comes out: i8, for
//! integer products; or pairs of bf16, since every i8 is one exactly, so that what multiplies bf16 weights multiplies
//! these. Next in the flow: avx512.rs, integers/mod.rs.
//!
//! Codes -> indices in the palette -> escapes in their places -> bf16.

use super::loaders::{Cells, PairLoader, Registers};
use super::tile::Tile;

/// Decodes cells to indices, block by block in the order of [`super::scalar`].
///
/// # Safety
/// As [`super::fma::Loader`].
pub(crate) trait IndexLoader {
    /// Whether indices come out of a palette, and are flipped where the tile is ([`Tile::flipped`]).
    const HAS_PALETTE: bool;
    type Registers: Registers;
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self;
    unsafe fn next_cell(&mut self, ahead: usize);
    /// The 64 indices of a block.
    unsafe fn indices<const BLOCK: usize>(&mut self) -> <Self::Registers as Registers>::Bytes;
    /// Whether all indices are known to be from -32 to 31.
    fn is_small(&self) -> bool;
}

impl<I: IndexLoader> PairLoader for I {
    type Registers = I::Registers;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says; so for all of these.
        unsafe { I::new(tile, escapes) }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        // SAFETY: as above.
        unsafe { I::next_cell(self, ahead) }
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [<I::Registers as Registers>::Pairs; 2] {
        // SAFETY: as above.
        unsafe { I::Registers::pairs_of_some_indices(self.indices::<BLOCK>(), self.is_small()) }
    }
}

/// i8 as they are.
pub(crate) struct Index8<R> {
    cells: Cells<512>,
    registers: std::marker::PhantomData<R>,
}

impl<R: Registers> IndexLoader for Index8<R> {
    const HAS_PALETTE: bool = false;
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Index8 { cells: Cells::of(tile), registers: std::marker::PhantomData }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn indices<const BLOCK: usize>(&mut self) -> R::Bytes {
        // SAFETY: the block's 64 bytes are in the cell that `next_cell` went to.
        unsafe { R::load_bytes(self.cells.line::<R>(64 * BLOCK)) }
    }

    #[inline(always)]
    fn is_small(&self) -> bool {
        false
    }
}

/// Nibbles: indices plus 8.
pub(crate) struct Int4<R> {
    cells: Cells<256>,
    registers: std::marker::PhantomData<R>,
}

impl<R: Registers> IndexLoader for Int4<R> {
    const HAS_PALETTE: bool = false;
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Int4 { cells: Cells::of(tile), registers: std::marker::PhantomData }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn indices<const BLOCK: usize>(&mut self) -> R::Bytes {
        // SAFETY: the block's nibbles are in the cell that `next_cell` went to.
        unsafe { R::indices_of_nibbles(self.cells.codes_of_4::<R, BLOCK>()) }
    }

    #[inline(always)]
    fn is_small(&self) -> bool {
        true
    }
}

/// Codes of 4 bits; escapes were expanded before.
pub(crate) struct Index4<R: Registers> {
    cells: Cells<256>,
    escapes: *const u8,
    palette: R::Palette,
    is_small: bool,
}

impl<R: Registers> IndexLoader for Index4<R> {
    const HAS_PALETTE: bool = true;
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says.
        Index4 { cells: Cells::of(tile), escapes, palette: unsafe { R::palette(tile) }, is_small: tile.is_small }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
    }

    #[inline(always)]
    unsafe fn indices<const BLOCK: usize>(&mut self) -> R::Bytes {
        // SAFETY: the block's codes are in the cell that `next_cell` went to. Each weight takes one escape at most, so
        // that `escapes` is not beyond the weights of the tile, and 64 bytes can be read there.
        unsafe { R::bytes_of_4(self.cells.codes_of_4::<R, BLOCK>(), &self.palette, &mut self.escapes) }
    }

    #[inline(always)]
    fn is_small(&self) -> bool {
        self.is_small
    }
}

/// Codes of 3 bits; escapes were expanded before.
pub(crate) struct Index3<R: Registers> {
    cells: Cells<192>,
    escapes: *const u8,
    codes: [R::Bytes; 3],
    palette: R::Palette,
    is_small: bool,
}

impl<R: Registers> IndexLoader for Index3<R> {
    const HAS_PALETTE: bool = true;
    type Registers = R;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: a tile has a cell at least, since matrices have columns.
        unsafe {
            let codes = [R::load_bytes(tile.cells.as_ptr()); 3];
            Index3 { cells: Cells::of(tile), escapes, codes, palette: R::palette(tile), is_small: tile.is_small }
        }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self, ahead: usize) {
        self.cells.go_on(ahead);
        for (idx, codes) in self.codes.iter_mut().enumerate() {
            // SAFETY: the tile has one more cell, the caller says, which is three vectors of codes.
            *codes = unsafe { R::load_bytes(self.cells.line::<R>(64 * idx)) };
        }
    }

    #[inline(always)]
    unsafe fn indices<const BLOCK: usize>(&mut self) -> R::Bytes {
        // SAFETY: as for Index4.
        unsafe {
            let codes = R::codes_of_3::<BLOCK>(&self.codes);
            R::highs_of_3(codes, &self.palette, &mut self.escapes)
        }
    }

    #[inline(always)]
    fn is_small(&self) -> bool {
        self.is_small
    }
}
