//! Products of integers with NEON: SMULL to 16 bits, two of which are summed by ADDP and SADALP each. 16 rows are four
//! registers. Next in the flow: amx.rs.
//!
//! The magnitude of an index is at most 128 and that of an activation 127: two products stay below 2^15.

use super::dots::{self, Dots, dispatch_integers};
use crate::input::{Input, Integers, Line, Run};
use crate::linear::fma;
use crate::linear::index_loaders::{Index3, Index4, Index8, IndexLoader, Int4};
use crate::linear::neon::{Neon, Quads, available, each};
use crate::linear::scalar::expand_escapes;
use crate::linear::scratch::{MAX_TILES, Worker};
use crate::linear::tile::Tile;
use netweight_layout::{Layout, TILE_ROWS};
use std::arch::aarch64::*;

/// Tokens whose sums fit registers: up to eight registers each, of 32.
const MAX_TOKENS: usize = 2;

dispatch_integers!(Neon, "neon", expand_escapes);

impl Dots for Neon {
    const FLIP: u8 = 0;
    type Sums = [int32x4_t; 4];

    #[inline(always)]
    unsafe fn zero() -> [int32x4_t; 4] {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    unsafe fn add(a: [int32x4_t; 4], b: [int32x4_t; 4]) -> [int32x4_t; 4] {
        // SAFETY: as above.
        unsafe {
            each(
                #[inline(always)]
                |idx| vaddq_s32(a[idx], b[idx]),
            )
        }
    }

    #[inline(always)]
    unsafe fn quads(indices: [uint8x16_t; 4], _must_flip: bool) -> [uint8x16_t; 4] {
        // SAFETY: as above; the order is 16 bytes.
        unsafe {
            let order = vld1q_u8([0u8, 1, 8, 9, 2, 3, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15].as_ptr());
            each(
                #[inline(always)]
                |idx| vqtbl1q_u8(indices[idx], order),
            )
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(bytes: [uint8x16_t; 4], to: *mut u8) {
        // SAFETY: 64 bytes, the caller says.
        unsafe {
            each(
                #[inline(always)]
                |idx| vst1q_u8(to.add(16 * idx), bytes[idx]),
            );
        }
    }

    #[inline(always)]
    unsafe fn add_quads(sums: [int32x4_t; 4], quads: [uint8x16_t; 4], x: *const i8) -> [int32x4_t; 4] {
        // SAFETY: four bytes, the caller says.
        unsafe {
            let x = vreinterpretq_s8_s32(vdupq_n_s32(x.cast::<i32>().read_unaligned()));
            each(
                #[inline(always)]
                |idx| {
                    let quads = vreinterpretq_s8_u8(quads[idx]);
                    let low = vmull_s8(vget_low_s8(quads), vget_low_s8(x));
                    let high = vmull_high_s8(quads, x);
                    vpadalq_s16(sums[idx], vpaddq_s16(low, high))
                },
            )
        }
    }

    #[inline(always)]
    unsafe fn to_floats(sums: [int32x4_t; 4], _run: &Run) -> Quads {
        // SAFETY: as above.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| vcvtq_f32_s32(sums[idx]),
            ))
        }
    }
}
