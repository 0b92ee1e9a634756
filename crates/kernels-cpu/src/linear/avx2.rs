//! Linear layers with AVX2: 16 rows are two registers, a block's 64 codes two more. Next in the flow: neon.rs.
//!
//! Exact cells: codes -> PSHUFB in the palette -> escapes by PSHUFB with a table of where they go, eight codes at a
//! time (exact11), or one by one where there is any (exact12) -> unpack with the low bytes.

use super::LinearKernels;
use super::fma::{self, Floats, Lanes, Loader};
use super::index_loaders::{Index3, Index4, Index8, Int4};
use super::integers;
use super::loaders::{Bf16, Exact11, Exact12, Halves, Raw, Registers, Words, dispatch};
use super::scalar::expand_escapes;
use super::scratch::Worker;
use super::spread::SPREAD;
use super::tile::Tile;
use crate::input::{Input, Line};
use netweight_layout::{CELL_COLS, Layout, TILE_ROWS};
use std::arch::x86_64::*;

/// The table row.
pub(crate) static KERNELS: LinearKernels = LinearKernels {
    multiply,
    multiply_integers: integers::avx2::multiply,
    decode_row,
    tiles_at_once: fma::tiles_at_once,
};

/// Tokens whose chains fit registers: four registers each, of 16.
const MAX_TOKENS: usize = 2;

/// Whether this CPU has all that the functions here use.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("popcnt")
}

dispatch!(Avx2, expand_escapes);

/// # Safety
/// As [`fma::multiply`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn multiply_tiles<L: Loader>(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker, first_tile: usize) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply::<L, MAX_TOKENS>(tiles, input, worker, first_tile, multiply_run) };
}

/// # Safety
/// As [`fma::multiply_floats`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn multiply_run(run: &[Line<[f32; 16]>], first_cell: usize, input: &Input, sums: &mut [Line<[f32; TILE_ROWS]>]) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply_floats::<Ymms, MAX_TOKENS>(run, first_cell, input, sums) };
}

/// # Safety
/// As [`fma::decode_row`].
#[target_feature(enable = "avx2,fma,f16c,popcnt")]
unsafe fn decode_tile_row<L: Loader>(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    // SAFETY: as the caller says.
    unsafe { fma::decode_row::<L>(tile, row, worker, out) };
}

/// 16 rows.
#[derive(Clone, Copy)]
pub(crate) struct Ymms(pub(crate) [__m256; 2]);

impl Lanes for Ymms {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { Ymms([_mm256_setzero_ps(); 2]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 values, the caller says.
        unsafe { Ymms([_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))]) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 16 values, the caller says.
        unsafe {
            _mm256_storeu_ps(to, self.0[0]);
            _mm256_storeu_ps(to.add(8), self.0[1]);
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe { Ymms([_mm256_add_ps(self.0[0], other.0[0]), _mm256_add_ps(self.0[1], other.0[1])]) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: one value, the caller says.
        unsafe { Ymms([_mm256_set1_ps(*from); 2]) }
    }

    #[inline(always)]
    unsafe fn add_product(self, weights: Self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            let [first, second] = self.0;
            Ymms([_mm256_fmadd_ps(weights.0[0], x.0[0], first), _mm256_fmadd_ps(weights.0[1], x.0[1], second)])
        }
    }
}

/// The registers of this instruction set.
pub(crate) struct Avx2;

impl Registers for Avx2 {
    type Floats = Ymms;
    type Pairs = [__m256i; 2];
    type Bytes = [__m256i; 2];
    type Palette = __m256i;

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Ymms {
        // SAFETY: as the caller says; so for all of these.
        unsafe {
            let [first, second] = [_mm_loadu_si128(from.cast()), _mm_loadu_si128(from.add(16).cast())];
            Ymms([_mm256_cvtph_ps(first), _mm256_cvtph_ps(second)])
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> [__m256i; 2] {
        // SAFETY: 64 bytes.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())] }
    }

    #[inline(always)]
    unsafe fn even([first, second]: [__m256i; 2]) -> Ymms {
        // SAFETY: as above.
        unsafe {
            let [first, second] = [_mm256_slli_epi32::<16>(first), _mm256_slli_epi32::<16>(second)];
            Ymms([_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)])
        }
    }

    #[inline(always)]
    unsafe fn odd([first, second]: [__m256i; 2]) -> Ymms {
        // SAFETY: as above.
        unsafe {
            let mask = _mm256_set1_epi32(0xffff_0000u32 as i32);
            let [first, second] = [_mm256_and_si256(first, mask), _mm256_and_si256(second, mask)];
            Ymms([_mm256_castsi256_ps(first), _mm256_castsi256_ps(second)])
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [__m256i; 2] {
        // SAFETY: 64 bytes.
        unsafe { Self::load_pairs(from) }
    }

    #[inline(always)]
    unsafe fn shift_right<const N_BITS: u32>([first, second]: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let n_bits = _mm_cvtsi32_si128(N_BITS as i32);
            [_mm256_srl_epi16(first, n_bits), _mm256_srl_epi16(second, n_bits)]
        }
    }

    #[inline(always)]
    unsafe fn join_code(top: [__m256i; 2], low: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let (four, three) = (_mm256_set1_epi8(4), _mm256_set1_epi8(3));
            let join = |top, low| _mm256_or_si256(_mm256_and_si256(top, four), _mm256_and_si256(low, three));
            [join(top[0], low[0]), join(top[1], low[1])]
        }
    }

    #[inline(always)]
    unsafe fn unpack(low: [__m256i; 2], high: [__m256i; 2]) -> [[__m256i; 2]; 2] {
        // SAFETY: as above.
        unsafe {
            let first = [_mm256_unpacklo_epi8(low[0], high[0]), _mm256_unpacklo_epi8(low[1], high[1])];
            let second = [_mm256_unpackhi_epi8(low[0], high[0]), _mm256_unpackhi_epi8(low[1], high[1])];
            [first, second]
        }
    }

    /// Escapes look up 0.
    #[inline(always)]
    unsafe fn palette(tile: &Tile<'_>) -> __m256i {
        let n_palette = tile.layout.n_palette();
        let palette: [u8; 16] = std::array::from_fn(|idx| if idx < n_palette { tile.palette[idx] } else { 0 });
        // SAFETY: 16 bytes.
        unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(palette.as_ptr().cast())) }
    }

    #[inline(always)]
    unsafe fn highs_of_3(codes: [__m256i; 2], palette: &__m256i, escapes: &mut *const u8) -> [__m256i; 2] {
        // SAFETY: as the caller says.
        unsafe {
            let seven = _mm256_set1_epi8(7);
            let codes = [_mm256_and_si256(codes[0], seven), _mm256_and_si256(codes[1], seven)];
            let first = _mm256_or_si256(_mm256_shuffle_epi8(*palette, codes[0]), spread::<7>(codes[0], escapes));
            let second = _mm256_or_si256(_mm256_shuffle_epi8(*palette, codes[1]), spread::<7>(codes[1], escapes));
            [first, second]
        }
    }

    #[inline(always)]
    unsafe fn bytes_of_4(codes: [__m256i; 2], palette: &__m256i, escapes: &mut *const u8) -> [__m256i; 2] {
        // SAFETY: as the caller says.
        unsafe {
            let fifteen = _mm256_set1_epi8(15);
            let codes = [_mm256_and_si256(codes[0], fifteen), _mm256_and_si256(codes[1], fifteen)];
            let first = _mm256_or_si256(_mm256_shuffle_epi8(*palette, codes[0]), spread::<15>(codes[0], escapes));
            let second = _mm256_or_si256(_mm256_shuffle_epi8(*palette, codes[1]), spread::<15>(codes[1], escapes));
            [first, second]
        }
    }

    #[inline(always)]
    unsafe fn indices_of_nibbles(codes: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let (fifteen, eight) = (_mm256_set1_epi8(15), _mm256_set1_epi8(8));
            codes.map(|codes| _mm256_sub_epi8(_mm256_and_si256(codes, fifteen), eight))
        }
    }

    /// In 32 bits: even index << 8 | odd index << 24, each taken out with its sign, and made a float.
    #[inline(always)]
    unsafe fn pairs_of_indices(indices: [__m256i; 2]) -> [[__m256i; 2]; 2] {
        // SAFETY: as above.
        unsafe {
            let zero = _mm256_setzero_si256();
            let to_pairs = |both: __m256i| {
                let even = _mm256_srai_epi32::<24>(_mm256_slli_epi32::<16>(both));
                let odd = _mm256_srai_epi32::<24>(both);
                let even = _mm256_srli_epi32::<16>(_mm256_castps_si256(_mm256_cvtepi32_ps(even)));
                _mm256_or_si256(even, _mm256_castps_si256(_mm256_cvtepi32_ps(odd)))
            };
            let [first, second] = Self::unpack([zero, zero], indices);
            [[to_pairs(first[0]), to_pairs(first[1])], [to_pairs(second[0]), to_pairs(second[1])]]
        }
    }

    #[inline(always)]
    unsafe fn highs_of_4(codes: [__m256i; 2], palette: &__m256i, raw: &mut Raw) -> [__m256i; 2] {
        // SAFETY: as the caller says.
        unsafe {
            let fifteen = _mm256_set1_epi8(15);
            let codes = [_mm256_and_si256(codes[0], fifteen), _mm256_and_si256(codes[1], fifteen)];
            let high = [_mm256_shuffle_epi8(*palette, codes[0]), _mm256_shuffle_epi8(*palette, codes[1])];
            let is_escape = [_mm256_cmpeq_epi8(codes[0], fifteen), _mm256_cmpeq_epi8(codes[1], fifteen)];
            if _mm256_movemask_epi8(_mm256_or_si256(is_escape[0], is_escape[1])) == 0 {
                return high;
            }
            fill(high, is_escape, raw)
        }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing, and every x86-64 CPU has it.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
    }
}

/// Escapes in the places of code `ESCAPE`, 0 in all others.
///
/// # Safety
/// The CPU has the instruction set; 32 bytes can be read at `escapes`.
#[inline(always)]
unsafe fn spread<const ESCAPE: i8>(codes: __m256i, escapes: &mut *const u8) -> __m256i {
    // SAFETY: eight bytes at `escapes` after at most 24 of its 32 bytes were passed by.
    unsafe {
        let mask = _mm256_movemask_epi8(_mm256_cmpeq_epi8(codes, _mm256_set1_epi8(ESCAPE))) as u32;
        let mut eight = |byte_idx: u32| {
            let mask = mask >> (8 * byte_idx) & 0xff;
            let shuffle = _mm_cvtsi64_si128(SPREAD[mask as usize] as i64);
            let next = _mm_loadl_epi64((*escapes).cast());
            *escapes = escapes.wrapping_add(mask.count_ones() as usize);
            _mm_shuffle_epi8(next, shuffle)
        };
        let low = _mm_unpacklo_epi64(eight(0), eight(1));
        let high = _mm_unpacklo_epi64(eight(2), eight(3));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
    }
}

/// Raw bytes in the places of code 15.
///
/// # Safety
/// The CPU has the instruction set.
#[cold]
#[target_feature(enable = "avx2")]
unsafe fn fill(high: [__m256i; 2], is_escape: [__m256i; 2], raw: &mut Raw) -> [__m256i; 2] {
    let mut bytes = [0u8; 64];
    // SAFETY: 64 bytes are two times 32; where a raw byte is taken there is one, or slack.
    unsafe {
        for (idx, high) in high.into_iter().enumerate() {
            _mm256_storeu_si256(bytes.as_mut_ptr().add(32 * idx).cast(), high);
        }
        let half = |is_escape: __m256i| u64::from(_mm256_movemask_epi8(is_escape) as u32);
        let mut mask = half(is_escape[0]) | half(is_escape[1]) << 32;
        while mask != 0 {
            bytes[mask.trailing_zeros() as usize] = *raw.take(1);
            mask &= mask - 1;
        }
        Avx2::load_bytes(bytes.as_ptr())
    }
}
