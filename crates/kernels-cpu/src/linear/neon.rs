//! Linear layers with NEON: 16 rows are four registers, a block's 64 codes four more. Next in the flow: none.
//!
//! Exact cells: codes -> TBL in the palette -> escapes by TBL with a table of where they go, eight codes at a time
//! (exact11), or one by one where there is any (exact12) -> ZIP with the low bytes.

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
use std::arch::aarch64::*;
use std::arch::asm;

/// The table row.
pub(crate) static KERNELS: LinearKernels = LinearKernels {
    multiply,
    multiply_integers: integers::neon::multiply,
    decode_row,
    tiles_at_once: fma::tiles_at_once,
};

/// Tokens whose chains fit registers: eight registers each, of 32.
const MAX_TOKENS: usize = 2;

/// Whether this CPU has all that the functions here use.
pub(crate) fn available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

dispatch!(Neon, expand_escapes);

/// # Safety
/// As [`fma::multiply`].
#[target_feature(enable = "neon")]
unsafe fn multiply_tiles<L: Loader>(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker, first_tile: usize) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply::<L, MAX_TOKENS>(tiles, input, worker, first_tile, multiply_run) };
}

/// # Safety
/// As [`fma::multiply_floats`].
#[target_feature(enable = "neon")]
unsafe fn multiply_run(run: &[Line<[f32; 16]>], first_cell: usize, input: &Input, sums: &mut [Line<[f32; TILE_ROWS]>]) {
    // SAFETY: as the caller says.
    unsafe { fma::multiply_floats::<Quads, MAX_TOKENS>(run, first_cell, input, sums) };
}

/// # Safety
/// As [`fma::decode_row`].
#[target_feature(enable = "neon")]
unsafe fn decode_tile_row<L: Loader>(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    // SAFETY: as the caller says.
    unsafe { fma::decode_row::<L>(tile, row, worker, out) };
}

/// `[f(0), f(1), f(2), f(3)]`.
#[inline(always)]
pub(crate) fn each<T>(mut f: impl FnMut(usize) -> T) -> [T; 4] {
    [f(0), f(1), f(2), f(3)]
}

/// 16 rows.
#[derive(Clone, Copy)]
pub(crate) struct Quads(pub(crate) [float32x4_t; 4]);

impl Lanes for Quads {
    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the CPU has the instruction set, the caller says; so for all of these.
        unsafe { Quads([vdupq_n_f32(0.0); 4]) }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: 16 values, the caller says.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| vld1q_f32(from.add(4 * idx)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: 16 values, the caller says.
        unsafe {
            each(
                #[inline(always)]
                |idx| vst1q_f32(to.add(4 * idx), self.0[idx]),
            );
        }
    }

    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| vaddq_f32(self.0[idx], other.0[idx]),
            ))
        }
    }

    #[inline(always)]
    unsafe fn splat(from: *const f32) -> Self {
        // SAFETY: one value, the caller says.
        unsafe { Quads([vdupq_n_f32(*from); 4]) }
    }

    #[inline(always)]
    unsafe fn add_product(self, weights: Self, x: Self) -> Self {
        // SAFETY: as above.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| vfmaq_f32(self.0[idx], weights.0[idx], x.0[idx]),
            ))
        }
    }
}

/// The registers of this instruction set.
pub(crate) struct Neon;

impl Registers for Neon {
    type Floats = Quads;
    type Pairs = [uint32x4_t; 4];
    type Bytes = [uint8x16_t; 4];
    type Palette = uint8x16_t;

    #[inline(always)]
    unsafe fn load_halves(from: *const u8) -> Quads {
        // SAFETY: 32 bytes, the caller says. FCVTL is NEON; its intrinsic takes a type that is not stable.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| {
                    let halves = vld1_u8(from.add(8 * idx));
                    let floats: float32x4_t;
                    asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) floats, in(vreg) halves, options(pure, nomem, nostack));
                    floats
                },
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const u8) -> [uint32x4_t; 4] {
        // SAFETY: 64 bytes, the caller says; so for all of these.
        unsafe {
            each(
                #[inline(always)]
                |idx| vreinterpretq_u32_u8(vld1q_u8(from.add(16 * idx))),
            )
        }
    }

    #[inline(always)]
    unsafe fn even(pairs: [uint32x4_t; 4]) -> Quads {
        // SAFETY: as above.
        unsafe {
            Quads(each(
                #[inline(always)]
                |idx| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pairs[idx])),
            ))
        }
    }

    #[inline(always)]
    unsafe fn odd(pairs: [uint32x4_t; 4]) -> Quads {
        // SAFETY: as above.
        unsafe {
            let mask = vdupq_n_u32(0xffff_0000);
            Quads(each(
                #[inline(always)]
                |idx| vreinterpretq_f32_u32(vandq_u32(pairs[idx], mask)),
            ))
        }
    }

    #[inline(always)]
    unsafe fn load_bytes(from: *const u8) -> [uint8x16_t; 4] {
        // SAFETY: 64 bytes.
        unsafe {
            each(
                #[inline(always)]
                |idx| vld1q_u8(from.add(16 * idx)),
            )
        }
    }

    #[inline(always)]
    unsafe fn shift_right<const N_BITS: u32>(bytes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: as above. A shift to the left by a negative number of bits.
        unsafe {
            let n_bits = vdupq_n_s8(-(N_BITS as i8));
            each(
                #[inline(always)]
                |idx| vshlq_u8(bytes[idx], n_bits),
            )
        }
    }

    #[inline(always)]
    unsafe fn join_code(top: [uint8x16_t; 4], low: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe {
            each(
                #[inline(always)]
                |idx| vbslq_u8(vdupq_n_u8(4), top[idx], low[idx]),
            )
        }
    }

    #[inline(always)]
    unsafe fn unpack(low: [uint8x16_t; 4], high: [uint8x16_t; 4]) -> [[uint32x4_t; 4]; 2] {
        // SAFETY: as above.
        unsafe {
            [
                each(
                    #[inline(always)]
                    |idx| vreinterpretq_u32_u8(vzip1q_u8(low[idx], high[idx])),
                ),
                each(
                    #[inline(always)]
                    |idx| vreinterpretq_u32_u8(vzip2q_u8(low[idx], high[idx])),
                ),
            ]
        }
    }

    /// Escapes look up 0.
    #[inline(always)]
    unsafe fn palette(tile: &Tile<'_>) -> uint8x16_t {
        let n_palette = tile.layout.n_palette();
        let palette: [u8; 16] = std::array::from_fn(|idx| if idx < n_palette { tile.palette[idx] } else { 0 });
        // SAFETY: 16 bytes.
        unsafe { vld1q_u8(palette.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn highs_of_3(codes: [uint8x16_t; 4], palette: &uint8x16_t, escapes: &mut *const u8) -> [uint8x16_t; 4] {
        // SAFETY: as the caller says.
        unsafe {
            each(
                #[inline(always)]
                |idx| {
                    let codes = vandq_u8(codes[idx], vdupq_n_u8(7));
                    vorrq_u8(vqtbl1q_u8(*palette, codes), spread::<7>(codes, escapes))
                },
            )
        }
    }

    #[inline(always)]
    unsafe fn bytes_of_4(codes: [uint8x16_t; 4], palette: &uint8x16_t, escapes: &mut *const u8) -> [uint8x16_t; 4] {
        // SAFETY: as the caller says.
        unsafe {
            each(
                #[inline(always)]
                |idx| {
                    let codes = vandq_u8(codes[idx], vdupq_n_u8(15));
                    vorrq_u8(vqtbl1q_u8(*palette, codes), spread::<15>(codes, escapes))
                },
            )
        }
    }

    #[inline(always)]
    unsafe fn indices_of_nibbles(codes: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe {
            each(
                #[inline(always)]
                |idx| vsubq_u8(vandq_u8(codes[idx], vdupq_n_u8(15)), vdupq_n_u8(8)),
            )
        }
    }

    /// In 32 bits: even index << 8 | odd index << 24, each taken out with its sign, and made a float.
    #[inline(always)]
    unsafe fn pairs_of_indices(indices: [uint8x16_t; 4]) -> [[uint32x4_t; 4]; 2] {
        // SAFETY: as above.
        unsafe {
            let to_pairs = |both: uint32x4_t| {
                let even = vshrq_n_s32::<24>(vreinterpretq_s32_u32(vshlq_n_u32::<16>(both)));
                let odd = vshrq_n_s32::<24>(vreinterpretq_s32_u32(both));
                let even = vshrq_n_u32::<16>(vreinterpretq_u32_f32(vcvtq_f32_s32(even)));
                vorrq_u32(even, vreinterpretq_u32_f32(vcvtq_f32_s32(odd)))
            };
            let [first, second] = Self::unpack([vdupq_n_u8(0); 4], indices);
            [
                each(
                    #[inline(always)]
                    |idx| to_pairs(first[idx]),
                ),
                each(
                    #[inline(always)]
                    |idx| to_pairs(second[idx]),
                ),
            ]
        }
    }

    #[inline(always)]
    unsafe fn highs_of_4(codes: [uint8x16_t; 4], palette: &uint8x16_t, raw: &mut Raw) -> [uint8x16_t; 4] {
        // SAFETY: as above.
        unsafe {
            let codes = each(
                #[inline(always)]
                |idx| vandq_u8(codes[idx], vdupq_n_u8(15)),
            );
            let high = each(
                #[inline(always)]
                |idx| vqtbl1q_u8(*palette, codes[idx]),
            );
            let greatest = vmaxq_u8(vmaxq_u8(codes[0], codes[1]), vmaxq_u8(codes[2], codes[3]));
            if vmaxvq_u8(greatest) < 15 {
                return high;
            }
            fill(high, codes, raw)
        }
    }

    #[inline(always)]
    fn prefetch(at: *const u8) {
        // SAFETY: a prefetch reads nothing, at any address.
        unsafe { asm!("prfm pldl1strm, [{}]", in(reg) at, options(nostack, readonly, preserves_flags)) }
    }
}

/// Escapes in the places of code `ESCAPE`, 0 in all others.
///
/// # Safety
/// The CPU has the instruction set; 16 bytes can be read at `escapes`.
#[inline(always)]
unsafe fn spread<const ESCAPE: u8>(codes: uint8x16_t, escapes: &mut *const u8) -> uint8x16_t {
    // SAFETY: eight bytes at `escapes`, and eight after at most eight of them were passed by.
    unsafe {
        let is_escape = vceqq_u8(codes, vdupq_n_u8(ESCAPE));
        let bits = vandq_u8(is_escape, vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201)));
        let mut eight = |mask: u8| {
            let shuffle = vcreate_u8(SPREAD[usize::from(mask)]);
            let next = vld1_u8(*escapes);
            *escapes = escapes.wrapping_add(mask.count_ones() as usize);
            vtbl1_u8(next, shuffle)
        };
        let low = eight(vaddv_u8(vget_low_u8(bits)));
        let high = eight(vaddv_u8(vget_high_u8(bits)));
        vcombine_u8(low, high)
    }
}

/// Raw bytes in the places of code 15.
///
/// # Safety
/// The CPU has the instruction set.
#[cold]
#[target_feature(enable = "neon")]
unsafe fn fill(high: [uint8x16_t; 4], codes: [uint8x16_t; 4], raw: &mut Raw) -> [uint8x16_t; 4] {
    let (mut bytes, mut flat) = ([0u8; 64], [0u8; 64]);
    // SAFETY: 64 bytes are four times 16; where a raw byte is taken there is one, or slack.
    unsafe {
        for idx in 0..4 {
            vst1q_u8(bytes.as_mut_ptr().add(16 * idx), high[idx]);
            vst1q_u8(flat.as_mut_ptr().add(16 * idx), codes[idx]);
        }
        for (byte, _) in bytes.iter_mut().zip(flat).filter(|(_, code)| *code == 15) {
            *byte = *raw.take(1);
        }
        Neon::load_bytes(bytes.as_ptr())
    }
}
