//! Linear layers with AVX-512: 16 rows are one register, a block's 64 codes another. Next in the flow: amx.rs.
//!
//! Exact cells: codes -> VPERMB in the palette -> VPEXPANDB of escapes -> unpack with the low bytes. What was tried
//! and lost: notes.md.

use super::LinearKernels;
use super::fma::{self, Floats, Lanes, Loader};
use super::index_loaders::{Index3, Index4, Index8, Int4};
use super::integers;
use super::loaders::{Bf16, Exact11, Exact12, Halves, Raw, Registers, Words, dispatch};
use super::scratch::Worker;
use super::tile::Tile;
use crate::input::{Input, Line};
use netweight_layout::{CELL_COLS, Layout, READ_SLACK, TILE_ROWS};
use std::arch::x86_64::*;

/// The table row.
pub(crate) static KERNELS: LinearKernels = LinearKernels {
    multiply,
    multiply_integers: integers::avx512::multiply,
    decode_row,
    tiles_at_once: fma::tiles_at_once,
};

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
        && is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("popcnt")
}

dispatch!(Avx512, expand_escapes);

/// # Safety
/// As [`fma::multiply`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn multiply_tiles<L: Loader>(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker, first_tile: usize) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply::<L, MAX_TOKENS>(tiles, input, worker, first_tile, multiply_run) };
}

/// # Safety
/// As [`fma::multiply_floats`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn multiply_run(run: &[Line<[f32; 16]>], first_cell: usize, input: &Input, sums: &mut [Line<[f32; TILE_ROWS]>]) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply_floats::<Zmm, MAX_TOKENS>(run, first_cell, input, sums) };
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
pub(crate) struct Zmm(pub(crate) __m512);

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

/// The registers of this instruction set.
pub(crate) struct Avx512;

impl Registers for Avx512 {
    type Floats = Zmm;
    type Pairs = __m512i;
    type Bytes = __m512i;
    /// The palette, and the byte that stands in it for an escape.
    type Palette = [__m512i; 2];

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Zmm {
        // SAFETY: as the caller says; so for all of these.
        unsafe { Zmm(_mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))) }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> __m512i {
        // SAFETY: 64 bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn even(pairs: __m512i) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))) }
    }

    #[inline(always)]
    unsafe fn odd(pairs: __m512i) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff_0000u32 as i32)))) }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> __m512i {
        // SAFETY: 64 bytes.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N_BITS: u32>(bytes: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srli_epi16::<N_BITS>(bytes) }
    }

    #[inline(always)]
    unsafe fn join_code(top: __m512i, low: __m512i) -> __m512i {
        // SAFETY: as above. The truth table says: where the mask is 1 `top`, else `low`.
        unsafe { _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(4), top, low) }
    }

    #[inline(always)]
    unsafe fn unpack(low: __m512i, high: __m512i) -> [__m512i; 2] {
        // SAFETY: as above.
        unsafe { [_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)] }
    }

    /// VPERMB reads six bits of an index, of which the upper three are other blocks': codes of three bits have the
    /// palette eight times.
    #[inline(always)]
    unsafe fn palette(tile: &Tile<'_>) -> [__m512i; 2] {
        let period = tile.layout.n_palette() + 1;
        let palette: [u8; 64] = std::array::from_fn(|idx| tile.palette[idx % period]);
        // SAFETY: 64 bytes.
        unsafe { [_mm512_loadu_si512(palette.as_ptr().cast()), _mm512_set1_epi8(tile.marker() as i8)] }
    }

    #[inline(always)]
    unsafe fn highs_of_3(codes: __m512i, [palette, marker]: &[__m512i; 2], escapes: &mut *const u8) -> __m512i {
        // SAFETY: 64 bytes can be read at `escapes`, the caller says.
        unsafe {
            let high = _mm512_permutexvar_epi8(codes, *palette);
            let is_escape = _mm512_cmpeq_epi8_mask(high, *marker);
            let next = _mm512_loadu_si512((*escapes).cast());
            *escapes = escapes.wrapping_add(is_escape.count_ones() as usize);
            _mm512_mask_expand_epi8(high, is_escape, next)
        }
    }

    #[inline(always)]
    unsafe fn bytes_of_4(codes: __m512i, palette: &[__m512i; 2], escapes: &mut *const u8) -> __m512i {
        // The palette is repeated: two more bits of an index do not matter.
        // SAFETY: as the caller says.
        unsafe { Self::highs_of_3(codes, palette, escapes) }
    }

    #[inline(always)]
    unsafe fn indices_of_nibbles(codes: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_sub_epi8(_mm512_and_si512(codes, _mm512_set1_epi8(15)), _mm512_set1_epi8(8)) }
    }

    /// The magnitude looks up its bf16; -128 has none there.
    #[inline(always)]
    unsafe fn pairs_of_indices(indices: __m512i) -> [__m512i; 2] {
        // SAFETY: as above; tables are two times 64 bytes.
        unsafe {
            let table = |bytes: &[u8; 128]| {
                [_mm512_loadu_si512(bytes.as_ptr().cast()), _mm512_loadu_si512(bytes.as_ptr().add(64).cast())]
            };
            let ([low_0, low_1], [high_0, high_1]) = (table(&LOW_OF_MAGNITUDE), table(&HIGH_OF_MAGNITUDE));
            let magnitudes = _mm512_abs_epi8(indices);
            let low = _mm512_permutex2var_epi8(low_0, magnitudes, low_1);
            let high = _mm512_permutex2var_epi8(high_0, magnitudes, high_1);
            let least = _mm512_set1_epi8(-128);
            // The sign from the index, the rest from the table.
            let high = _mm512_ternarylogic_epi32::<0xca>(least, indices, high);
            let high =
                _mm512_mask_mov_epi8(high, _mm512_cmpeq_epi8_mask(indices, least), _mm512_set1_epi8(0xc3u8 as i8));
            Self::unpack(low, high)
        }
    }

    /// VPERMB reads the lower six bits of an index, which is half of VPERMI2B's work.
    #[inline(always)]
    unsafe fn pairs_of_some_indices(indices: __m512i, is_small: bool) -> [__m512i; 2] {
        // SAFETY: as above; tables are 64 bytes.
        unsafe {
            if !is_small {
                return Self::pairs_of_indices(indices);
            }
            let low = _mm512_permutexvar_epi8(indices, _mm512_loadu_si512(LOW_OF_SMALL.as_ptr().cast()));
            let high = _mm512_permutexvar_epi8(indices, _mm512_loadu_si512(HIGH_OF_SMALL.as_ptr().cast()));
            Self::unpack(low, high)
        }
    }

    #[inline(always)]
    unsafe fn highs_of_4(codes: __m512i, [palette, marker]: &[__m512i; 2], raw: &mut Raw) -> __m512i {
        // SAFETY: 64 bytes can be read where raw bytes begin.
        unsafe {
            let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
            let high = _mm512_shuffle_epi8(*palette, codes);
            let is_escape = _mm512_cmpeq_epi8_mask(high, *marker);
            if is_escape == 0 {
                return high;
            }
            let next = _mm512_loadu_si512(raw.take(is_escape.count_ones() as usize).cast());
            _mm512_mask_expand_epi8(high, is_escape, next)
        }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing, and every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// Low bytes of the bf16 of 0 to 127; that of 128 is that of 0.
static LOW_OF_MAGNITUDE: [u8; 128] = bytes_of_magnitudes(16);
/// High bytes of the bf16 of 0 to 127.
static HIGH_OF_MAGNITUDE: [u8; 128] = bytes_of_magnitudes(24);

/// Low bytes of the bf16 of 0 to 31 and -32 to -1.
static LOW_OF_SMALL: [u8; 64] = bytes_of_small(16);
/// High bytes of the bf16 of 0 to 31 and -32 to -1.
static HIGH_OF_SMALL: [u8; 64] = bytes_of_small(24);

const fn bytes_of_small(shift: u32) -> [u8; 64] {
    let (mut table, mut idx) = ([0; 64], 0i32);
    while idx < 64 {
        let index = if idx < 32 { idx } else { idx - 64 };
        table[idx as usize] = ((index as f32).to_bits() >> shift) as u8;
        idx += 1;
    }
    table
}

const fn bytes_of_magnitudes(shift: u32) -> [u8; 128] {
    let (mut table, mut magnitude) = ([0; 128], 0);
    while magnitude < 128 {
        table[magnitude] = ((magnitude as f32).to_bits() >> shift) as u8;
        magnitude += 1;
    }
    table
}

/// [`super::scalar::expand_escapes`].
pub(crate) fn expand_escapes(tile: &Tile<'_>, escapes: &mut [u8]) {
    if tile.layout.n_second_palette() == 0 {
        return;
    }
    assert!(available() && escapes.len() >= tile.nibbles.len() * 2 + 64);
    // SAFETY: the CPU has the features, and there is room, both checked on the line above.
    unsafe { expand_nibbles(tile, escapes) };
}

/// # Safety
/// `escapes` has room for two bytes for each of nibbles and 64 more; the tile is of a layout with a second palette.
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
                let raw = _mm512_xor_si512(raw, _mm512_set1_epi8(tile.flip as i8));
                high = _mm512_mask_expand_epi8(high, is_raw, raw);
                raw_idx = (raw_idx + is_raw.count_ones() as usize).min(n_raw);
            }
            _mm512_storeu_si512(escapes.as_mut_ptr().add(64 * idx).cast(), high);
        }
    }
}
