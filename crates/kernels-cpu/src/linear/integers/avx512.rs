//! Products of integers with AVX-512: VPDPBUSD multiplies unsigned bytes with signed ones and sums fours of them; 16 rows are
//! one register. Next in the flow: avx2.rs.
//!
//! Indices have 128 added, which palettes and escapes bring along; the correction takes it off the sums.

use super::dots::{self, Dots, dispatch_integers};
use crate::input::{Input, Integers, Line, Run};
use crate::linear::avx512::{Avx512, Zmm, available, expand_escapes};
use crate::linear::fma;
use crate::linear::index_loaders::{Index3, Index4, Index8, IndexLoader, Int4};
use crate::linear::scratch::{MAX_TILES, Worker};
use crate::linear::tile::Tile;
use netweight_layout::{Layout, TILE_ROWS};
use std::arch::x86_64::*;

/// Tokens whose sums fit registers: three registers each, of 32.
const MAX_TOKENS: usize = 8;

dispatch_integers!(
    Avx512,
    "avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2,avx512vnni,popcnt",
    expand_escapes
);

impl Dots for Avx512 {
    const FLIP: u8 = 128;
    type Sums = __m512i;

    #[inline(always)]
    unsafe fn zero() -> __m512i {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn add(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_add_epi32(a, b) }
    }

    #[inline(always)]
    unsafe fn quads(indices: __m512i, must_flip: bool) -> __m512i {
        // SAFETY: as above.
        unsafe {
            let order = _mm512_set4_epi32(0x0f0e_0706, 0x0d0c_0504, 0x0b0a_0302, 0x0908_0100);
            let quads = _mm512_shuffle_epi8(indices, order);
            if must_flip { _mm512_xor_si512(quads, _mm512_set1_epi8(-128)) } else { quads }
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(bytes: __m512i, to: *mut u8) {
        // SAFETY: 64 bytes, the caller says.
        unsafe { _mm512_storeu_si512(to.cast(), bytes) }
    }

    #[inline(always)]
    unsafe fn add_quads(sums: __m512i, quads: __m512i, x: *const i8) -> __m512i {
        // SAFETY: four bytes, the caller says.
        unsafe { _mm512_dpbusd_epi32(sums, quads, _mm512_set1_epi32(x.cast::<i32>().read_unaligned())) }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: __m512i, run: &Run) -> Zmm {
        // SAFETY: as above.
        unsafe { Zmm(_mm512_cvtepi32_ps(_mm512_add_epi32(sums, _mm512_set1_epi32(run.correction)))) }
    }
}
