//! Products of integers with AVX2: VPMADDUBSW multiplies unsigned bytes with signed ones and sums twos of them, VPMADDWD
//! sums twos of these. 16 rows are two registers. Next in the flow: neon.rs.
//!
//! The magnitude of an index is at most 128 and that of an activation 127: two products stay below 2^15.

use super::dots::{self, Dots, dispatch_integers};
use crate::input::{Input, Integers, Line, Run};
use crate::linear::avx2::{Avx2, Ymms, available};
use crate::linear::fma;
use crate::linear::index_loaders::{Index3, Index4, Index8, IndexLoader, Int4};
use crate::linear::scalar::expand_escapes;
use crate::linear::scratch::{MAX_TILES, Worker};
use crate::linear::tile::Tile;
use netweight_layout::{Layout, TILE_ROWS};
use std::arch::x86_64::*;

/// Tokens whose sums fit registers: up to four registers each, of 16.
const MAX_TOKENS: usize = 2;

dispatch_integers!(Avx2, "avx2,fma,f16c,popcnt", expand_escapes);

impl Dots for Avx2 {
    const FLIP: u8 = 0;
    type Sums = [__m256i; 2];

    #[inline(always)]
    unsafe fn zero() -> [__m256i; 2] {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    unsafe fn add(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn quads(indices: [__m256i; 2], _must_flip: bool) -> [__m256i; 2] {
        // SAFETY: as above.
        unsafe {
            let order = _mm_set_epi32(0x0f0e_0706, 0x0d0c_0504, 0x0b0a_0302, 0x0908_0100);
            let order = _mm256_broadcastsi128_si256(order);
            [_mm256_shuffle_epi8(indices[0], order), _mm256_shuffle_epi8(indices[1], order)]
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(bytes: [__m256i; 2], to: *mut u8) {
        // SAFETY: 64 bytes, the caller says.
        unsafe {
            _mm256_storeu_si256(to.cast(), bytes[0]);
            _mm256_storeu_si256(to.add(32).cast(), bytes[1]);
        }
    }

    #[inline(always)]
    unsafe fn add_quads(sums: [__m256i; 2], quads: [__m256i; 2], x: *const i8) -> [__m256i; 2] {
        // SAFETY: four bytes, the caller says.
        unsafe {
            let x = _mm256_set1_epi32(x.cast::<i32>().read_unaligned());
            let ones = _mm256_set1_epi16(1);
            let add = |sums: __m256i, quads: __m256i| {
                let twos = _mm256_maddubs_epi16(_mm256_abs_epi8(quads), _mm256_sign_epi8(x, quads));
                _mm256_add_epi32(sums, _mm256_madd_epi16(twos, ones))
            };
            [add(sums[0], quads[0]), add(sums[1], quads[1])]
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: [__m256i; 2], _run: &Run) -> Ymms {
        // SAFETY: as above.
        unsafe { Ymms([_mm256_cvtepi32_ps(sums[0]), _mm256_cvtepi32_ps(sums[1])]) }
    }
}
