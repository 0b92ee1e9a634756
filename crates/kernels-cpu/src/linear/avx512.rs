//! How AVX-512 decodes cells: 16 rows are one register, a block's 64 codes another. Next in the flow: amx.rs.
//!
//! Exact cells: codes -> VPERMB in the palette -> VPEXPANDB of escapes -> unpack with the low bytes -> two registers
//! of 16 rows by (even | odd << 16). Port 5 of Intel's cores is what limits this: see notes.md.

use super::LinearKernels;
use super::fma::{self, Floats, Lanes, Loader, PREFETCH_BYTES};
use super::scratch::Worker;
use super::tile::Tile;
use crate::input::Input;
use netweight_layout::{CELL_COLS, Layout, READ_SLACK};
use std::arch::x86_64::*;

/// The table row.
pub(crate) static KERNELS: LinearKernels = LinearKernels { multiply, decode_row, pairs_from: usize::MAX };

/// Tokens whose sums fit registers: three registers each, of 32.
const MAX_TOKENS: usize = 8;

/// Whether this CPU has all that the functions here use.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt")
}

/// [`super::Multiply`].
pub(crate) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    assert!(available() && worker.has_room(input.n_tokens(), input.cols()));
    for (tile_idx, tile) in tiles.iter().enumerate() {
        expand_escapes(tile, &mut worker.escapes[0]);
        // SAFETY: the CPU has the features, and there is room, both checked above; loaders are the layouts'.
        unsafe {
            match tile.layout {
                Layout::F32 => multiply_tile::<Floats<Zmm>>(tile, input, worker, tile_idx),
                Layout::F16 => multiply_tile::<Halves>(tile, input, worker, tile_idx),
                Layout::Bf16 => multiply_tile::<Words<Bf16>>(tile, input, worker, tile_idx),
                Layout::Exact11 => multiply_tile::<Words<Exact11>>(tile, input, worker, tile_idx),
                Layout::Exact12 => multiply_tile::<Words<Exact12>>(tile, input, worker, tile_idx),
            }
        }
    }
}

/// [`super::DecodeRow`].
pub(crate) fn decode_row(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    assert!(available() && worker.has_room(0, tile.n_cells * CELL_COLS));
    expand_escapes(tile, &mut worker.escapes[0]);
    // SAFETY: as above.
    unsafe {
        match tile.layout {
            Layout::F32 => decode_tile_row::<Floats<Zmm>>(tile, row, worker, out),
            Layout::F16 => decode_tile_row::<Halves>(tile, row, worker, out),
            Layout::Bf16 => decode_tile_row::<Words<Bf16>>(tile, row, worker, out),
            Layout::Exact11 => decode_tile_row::<Words<Exact11>>(tile, row, worker, out),
            Layout::Exact12 => decode_tile_row::<Words<Exact12>>(tile, row, worker, out),
        }
    }
}

/// # Safety
/// As [`fma::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn multiply_tile<L: Loader>(tile: &Tile<'_>, input: &Input, worker: &mut Worker, tile_idx: usize) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply::<L, MAX_TOKENS>(tile, input, worker, tile_idx) };
}

/// # Safety
/// As [`fma::decode_row`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn decode_tile_row<L: Loader>(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    // SAFETY: as the caller says.
    unsafe { fma::decode_row::<L>(tile, row, worker, out) };
}

/// 16 rows.
#[derive(Clone, Copy)]
pub(crate) struct Zmm(__m512);

impl Lanes for Zmm {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { Zmm(_mm512_setzero_ps()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 values, the caller says.
        unsafe { Zmm(_mm512_loadu_ps(from)) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 16 values, the caller says.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_add_ps(self.0, other.0)) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: one value, the caller says.
        unsafe { Zmm(_mm512_set1_ps(*from)) }
    }

    #[inline(always)]
    unsafe fn add_product(self, weights: Self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_fmadd_ps(weights.0, x.0, self.0)) }
    }
}

/// IEEE half floats.
struct Halves {
    next: *const u8,
    cell: *const u8,
}

impl Loader for Halves {
    type Lanes = Zmm;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Halves { next: tile.cells.as_ptr(), cell: tile.cells.as_ptr() }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self) {
        self.cell = self.next;
        self.next = self.next.wrapping_add(1024);
    }

    #[inline(always)]
    unsafe fn block<const BLOCK: usize>(&mut self) -> [Zmm; 4] {
        // SAFETY: four columns of 16 halves, 128 bytes of the cell that `next_cell` went to.
        unsafe {
            let at = self.cell.add(BLOCK * 128);
            prefetch(at);
            prefetch(at.wrapping_add(64));
            let column = |idx: usize| Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(at.add(32 * idx).cast())));
            [column(0), column(1), column(2), column(3)]
        }
    }
}

/// Decodes cells to the 16 pairs of bf16 weights that they are in layout bf16.
///
/// # Safety
/// As [`Loader`].
pub(crate) trait PairLoader {
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self;
    unsafe fn next_cell(&mut self);
    /// Pairs `2 * BLOCK` and `2 * BLOCK + 1`: lane `row` is even | odd << 16.
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [__m512i; 2];
}

/// Widens pairs to f32.
pub(crate) struct Words<P>(P);

impl<P: PairLoader> Loader for Words<P> {
    type Lanes = Zmm;

    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // SAFETY: as the caller says.
        Words(unsafe { P::new(tile, escapes) })
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self) {
        // SAFETY: as the caller says.
        unsafe { self.0.next_cell() }
    }

    #[inline(always)]
    unsafe fn block<const BLOCK: usize>(&mut self) -> [Zmm; 4] {
        // SAFETY: as the caller says.
        unsafe {
            let [first, second] = self.0.pairs::<BLOCK>();
            let odd = _mm512_set1_epi32(0xffff_0000u32 as i32);
            let even = |pair| Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pair)));
            let odd = |pair| Zmm(_mm512_castsi512_ps(_mm512_and_si512(pair, odd)));
            [even(first), odd(first), even(second), odd(second)]
        }
    }
}

/// Pairs as they are.
pub(crate) struct Bf16 {
    next: *const u8,
    cell: *const u8,
}

impl PairLoader for Bf16 {
    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        Bf16 { next: tile.cells.as_ptr(), cell: tile.cells.as_ptr() }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self) {
        self.cell = self.next;
        self.next = self.next.wrapping_add(1024);
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [__m512i; 2] {
        // SAFETY: two pairs of 64 bytes of the cell that `next_cell` went to.
        unsafe {
            let at = self.cell.add(BLOCK * 128);
            prefetch(at);
            prefetch(at.wrapping_add(64));
            [_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(64).cast())]
        }
    }
}

/// Codes of 3 bits; escapes were expanded before.
pub(crate) struct Exact11 {
    next: *const u8,
    low: *const u8,
    escapes: *const u8,
    codes: [__m512i; 3],
    palette: __m512i,
    marker: __m512i,
}

impl PairLoader for Exact11 {
    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, escapes: *const u8) -> Self {
        // VPERMB reads six bits of an index; the upper three belong to other blocks.
        let palette: [u8; 64] = std::array::from_fn(|idx| tile.palette[idx % 8]);
        // SAFETY: the CPU has the instruction set, the caller says.
        unsafe {
            Exact11 {
                next: tile.cells.as_ptr(),
                low: tile.cells.as_ptr(),
                escapes,
                codes: [_mm512_setzero_si512(); 3],
                palette: _mm512_loadu_si512(palette.as_ptr().cast()),
                marker: _mm512_set1_epi8(tile.marker() as i8),
            }
        }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self) {
        // SAFETY: the tile has one more cell of 704 bytes, the caller says.
        unsafe {
            for (idx, codes) in self.codes.iter_mut().enumerate() {
                let at = self.next.add(64 * idx);
                prefetch(at);
                *codes = _mm512_loadu_si512(at.cast());
            }
            self.low = self.next.add(192);
            self.next = self.next.wrapping_add(704);
        }
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [__m512i; 2] {
        // SAFETY: the block's 64 low bytes are in the cell. Each weight takes one escape at most, so that `escapes`
        // is not beyond the weights of the tile, and 64 bytes can be read there.
        unsafe {
            let [a, b, c] = self.codes;
            let top = _mm512_set1_epi8(4);
            let codes = match BLOCK {
                0 => a,
                1 => _mm512_srli_epi16::<3>(a),
                2 => b,
                3 => _mm512_srli_epi16::<3>(b),
                4 => c,
                5 => _mm512_srli_epi16::<3>(c),
                6 => select(top, _mm512_srli_epi16::<4>(c), _mm512_srli_epi16::<6>(a)),
                _ => select(top, _mm512_srli_epi16::<5>(c), _mm512_srli_epi16::<6>(b)),
            };
            let high = _mm512_permutexvar_epi8(codes, self.palette);
            let is_escape = _mm512_cmpeq_epi8_mask(high, self.marker);
            let high = _mm512_mask_expand_epi8(high, is_escape, _mm512_loadu_si512(self.escapes.cast()));
            self.escapes = self.escapes.wrapping_add(is_escape.count_ones() as usize);
            let low = self.low.add(64 * BLOCK);
            prefetch(low);
            let low = _mm512_loadu_si512(low.cast());
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }
}

/// Codes of 4 bits; escapes are raw bytes, and rare.
pub(crate) struct Exact12 {
    next: *const u8,
    low: *const u8,
    raw: *const u8,
    raw_idx: usize,
    n_raw: usize,
    codes: [__m512i; 4],
    palette: __m512i,
    marker: __m512i,
}

impl PairLoader for Exact12 {
    #[inline(always)]
    unsafe fn new(tile: &Tile<'_>, _escapes: *const u8) -> Self {
        // SAFETY: the CPU has the instruction set, the caller says; the palette has 16 bytes.
        unsafe {
            Exact12 {
                next: tile.cells.as_ptr(),
                low: tile.cells.as_ptr(),
                raw: tile.raw.as_ptr(),
                raw_idx: 0,
                n_raw: tile.raw.len() - READ_SLACK,
                codes: [_mm512_setzero_si512(); 4],
                palette: _mm512_broadcast_i32x4(_mm_loadu_si128(tile.palette.as_ptr().cast())),
                marker: _mm512_set1_epi8(tile.marker() as i8),
            }
        }
    }

    #[inline(always)]
    unsafe fn next_cell(&mut self) {
        // SAFETY: the tile has one more cell of 768 bytes, the caller says.
        unsafe {
            for (idx, codes) in self.codes.iter_mut().enumerate() {
                let at = self.next.add(64 * idx);
                prefetch(at);
                *codes = _mm512_loadu_si512(at.cast());
            }
            self.low = self.next.add(256);
            self.next = self.next.wrapping_add(768);
        }
    }

    #[inline(always)]
    unsafe fn pairs<const BLOCK: usize>(&mut self) -> [__m512i; 2] {
        // SAFETY: the block's 64 low bytes are in the cell; `raw_idx` is at most `n_raw`, and 64 bytes of slack follow.
        unsafe {
            let codes = self.codes[BLOCK / 2];
            let codes = if BLOCK.is_multiple_of(2) { codes } else { _mm512_srli_epi16::<4>(codes) };
            let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
            let mut high = _mm512_shuffle_epi8(self.palette, codes);
            let is_escape = _mm512_cmpeq_epi8_mask(high, self.marker);
            if is_escape != 0 {
                let raw = _mm512_loadu_si512(self.raw.add(self.raw_idx).cast());
                high = _mm512_mask_expand_epi8(high, is_escape, raw);
                self.raw_idx = (self.raw_idx + is_escape.count_ones() as usize).min(self.n_raw);
            }
            let low = self.low.add(64 * BLOCK);
            prefetch(low);
            let low = _mm512_loadu_si512(low.cast());
            [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)]
        }
    }
}

/// Bits of `ones` where `mask` is 1, else of `zeros`.
///
/// # Safety
/// The CPU has the instruction set.
#[inline(always)]
unsafe fn select(mask: __m512i, ones: __m512i, zeros: __m512i) -> __m512i {
    // SAFETY: as the caller says.
    unsafe { _mm512_ternarylogic_epi32::<0xca>(mask, ones, zeros) }
}

/// Asks for the line some way behind `at`; any address will do.
#[inline(always)]
pub(crate) fn prefetch(at: *const u8) {
    // SAFETY: a prefetch reads nothing, and every x86-64 CPU has it.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(PREFETCH_BYTES).cast()) }
}

/// [`scalar::expand_escapes`].
pub(crate) fn expand_escapes(tile: &Tile<'_>, escapes: &mut [u8]) {
    if tile.layout != Layout::Exact11 {
        return;
    }
    assert!(available() && escapes.len() >= tile.nibbles.len() * 2 + 64);
    // SAFETY: the CPU has the features, and there is room, both checked on the line above.
    unsafe { expand_nibbles(tile, escapes) };
}

/// # Safety
/// `escapes` has room for two bytes for each of nibbles and 64 more; the tile is of exact11.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn expand_nibbles(tile: &Tile<'_>, escapes: &mut [u8]) {
    let n_raw = tile.raw.len() - READ_SLACK;
    let mut raw_idx = 0;
    // SAFETY: loads take 16 bytes of the palette, 32 of a chunk of nibbles, and 64 of raw bytes, of which as many
    // follow `raw_idx`, which is at most `n_raw`; stores end 64 bytes behind the last chunk's begin at most.
    unsafe {
        let second = _mm512_broadcast_i32x4(_mm_loadu_si128(tile.second.as_ptr().cast()));
        for (idx, nibbles) in tile.nibbles.chunks(32).enumerate() {
            // The next tile's nibbles follow this one's.
            _mm_prefetch::<_MM_HINT_T0>(nibbles.as_ptr().wrapping_add(tile.nibbles.len()).cast());
            let mask = u32::MAX >> (32 - nibbles.len());
            let bytes = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(mask, nibbles.as_ptr().cast()));
            let both = _mm512_or_si512(bytes, _mm512_slli_epi16::<4>(bytes));
            let codes = _mm512_and_si512(both, _mm512_set1_epi8(15));
            let mut high = _mm512_shuffle_epi8(second, codes);
            let is_raw = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(15));
            if is_raw != 0 {
                let raw = _mm512_loadu_si512(tile.raw.as_ptr().add(raw_idx).cast());
                high = _mm512_mask_expand_epi8(high, is_raw, raw);
                raw_idx = (raw_idx + is_raw.count_ones() as usize).min(n_raw);
            }
            _mm512_storeu_si512(escapes.as_mut_ptr().add(64 * idx).cast(), high);
        }
    }
}
