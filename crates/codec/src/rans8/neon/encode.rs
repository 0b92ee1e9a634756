//! rans8 encoding with NEON, on states split into bytes as in `../neon.rs`.
//!
//! A lane is full if its high byte is at least its frequency; its low byte then goes to the stream, closed up
//! with those of seven neighbours by a table of shuffles, and the high byte takes its place. With that, quotient
//! and remainder both fit a byte: the next state is the one over the other.

use super::{HALF, available, load_states, load32, store_states};
use crate::rans8::{EncodeTable, LANES_PER_GROUP, N_GROUPS, N_LANES};
use std::arch::aarch64::*;

/// [`crate::rans8::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    assert!(available());
    assert!(buffers.iter().all(|buffer| buffer.len() >= symbols.len() / N_GROUPS));
    // SAFETY: the CPU has the feature; each step moves a buffer's position down by at most 32 bytes and writes
    // no further down, so it stays inside by the assertion above.
    unsafe { encode_all(table, symbols, state, buffers) }
}

/// The encoding tables as registers, by symbol.
struct EncodeRegisters {
    freq: uint8x16x2_t,
    start: uint8x16x2_t,
    reciprocal_low: uint8x16x2_t,
    reciprocal_high: uint8x16x2_t,
}

/// # Safety
/// Every buffer holds 32 bytes a step.
#[target_feature(enable = "neon")]
unsafe fn encode_all(
    table: &EncodeTable,
    all_symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let low_bytes = |words: &[u16; 32]| load32(&words.map(|word| word as u8));
    let tables = EncodeRegisters {
        freq: low_bytes(&table.freq),
        start: low_bytes(&table.start),
        reciprocal_low: low_bytes(&table.reciprocal),
        reciprocal_high: low_bytes(&table.reciprocal.map(|word| word >> 8)),
    };
    let states = state.as_chunks_mut::<HALF>().0;
    let mut x: [uint8x16x2_t; N_LANES / HALF] = std::array::from_fn(|idx| load_states(&states[idx]));
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in all_symbols.as_chunks::<N_LANES>().0.iter().rev() {
        for group in 0..N_GROUPS {
            let uint8x16x2_t(symbol_0, symbol_1) = load32(&step.as_chunks::<LANES_PER_GROUP>().0[group]);
            let (x_0, x_1) = (x[2 * group], x[2 * group + 1]);
            let (freq_0, freq_1) = (vqtbl2q_u8(tables.freq, symbol_0), vqtbl2q_u8(tables.freq, symbol_1));
            let (is_full_0, is_full_1) = (vcgeq_u8(x_0.1, freq_0), vcgeq_u8(x_1.1, freq_1));
            // SAFETY: a step's 32 bytes lie below `begins`.
            unsafe {
                let end = buffers[group].as_mut_ptr().add(begins[group]);
                begins[group] -= emit(end, [x_0.0, x_1.0], [is_full_0, is_full_1]);
            }
            x[2 * group] = push(&tables, x_0, symbol_0, freq_0, is_full_0);
            x[2 * group + 1] = push(&tables, x_1, symbol_1, freq_1, is_full_1);
        }
    }
    for (states, x) in states.iter_mut().zip(x) {
        store_states(states, x);
    }
    begins
}

/// Writes those of 32 bytes that `is_full` marks so that they end at `end`; returns how many.
///
/// # Safety
/// 32 bytes below `end` are writable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn emit(end: *mut u8, bytes: [uint8x16_t; 2], is_full: [uint8x16_t; 2]) -> usize {
    let bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
    // A byte of the mask for every eight lanes, in order.
    let mask = vpaddq_u8(vandq_u8(is_full[0], bit), vandq_u8(is_full[1], bit));
    let mask = vpaddq_u8(mask, mask);
    let mask = vpaddq_u8(mask, mask);
    let n_put = vgetq_lane_u32::<0>(vreinterpretq_u32_u8(vcntq_u8(mask))).to_le_bytes();
    let mask = vgetq_lane_u32::<0>(vreinterpretq_u32_u8(mask)).to_le_bytes();
    let eights = [vget_low_u8(bytes[0]), vget_high_u8(bytes[0]), vget_low_u8(bytes[1]), vget_high_u8(bytes[1])];
    let mut n_done = 0;
    for idx in (0..4).rev() {
        let closed_up = vtbl1_u8(eights[idx], load8(&COMPRESS[usize::from(mask[idx])]));
        // SAFETY: eight bytes for each eight lanes, the lowest 32 below `end`.
        unsafe { vst1_u8(end.sub(n_done + 8), closed_up) };
        n_done += usize::from(n_put[idx]);
    }
    n_done
}

/// Encodes a symbol in each of 16 lanes; those in `is_full` have given their low bytes away.
#[inline]
#[target_feature(enable = "neon")]
fn push(
    tables: &EncodeRegisters,
    x: uint8x16x2_t,
    symbol: uint8x16_t,
    freq: uint8x16_t,
    is_full: uint8x16_t,
) -> uint8x16x2_t {
    let (low, high) = (vbslq_u8(is_full, x.1, x.0), vbicq_u8(x.1, is_full));
    let x_0 = vreinterpretq_u16_u8(vzip1q_u8(low, high));
    let x_1 = vreinterpretq_u16_u8(vzip2q_u8(low, high));
    let (low_byte, high_byte) = (vqtbl2q_u8(tables.reciprocal_low, symbol), vqtbl2q_u8(tables.reciprocal_high, symbol));
    let reciprocal_0 = vreinterpretq_u16_u8(vzip1q_u8(low_byte, high_byte));
    let reciprocal_1 = vreinterpretq_u16_u8(vzip2q_u8(low_byte, high_byte));
    let quotient_0 = divide(x_0, vmovl_u8(vget_low_u8(freq)), reciprocal_0);
    let quotient_1 = divide(x_1, vmovl_high_u8(freq), reciprocal_1);
    // Below 256, because `x < freq << 8` by now; so is what is left, and `start` on top of it.
    let quotient = vuzp1q_u8(vreinterpretq_u8_u16(quotient_0), vreinterpretq_u8_u16(quotient_1));
    let rest = vmlsq_u8(low, quotient, freq);
    uint8x16x2_t(vaddq_u8(rest, vqtbl2q_u8(tables.start, symbol)), quotient)
}

/// `x / freq`, by the reciprocal of [`EncodeTable`].
#[inline]
#[target_feature(enable = "neon")]
fn divide(x: uint16x8_t, freq: uint16x8_t, reciprocal: uint16x8_t) -> uint16x8_t {
    let product_0 = vreinterpretq_u16_u32(vmull_u16(vget_low_u16(x), vget_low_u16(reciprocal)));
    let product_1 = vreinterpretq_u16_u32(vmull_high_u16(x, reciprocal));
    let quotient = vuzp2q_u16(product_0, product_1);
    let is_short = vcgeq_u16(vmlsq_u16(x, quotient, freq), freq);
    vsubq_u16(quotient, is_short)
}

/// For each set of eight bytes: those in it, closed up at the end of eight.
static COMPRESS: [[u8; 8]; 256] = {
    let mut table = [[0x80; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut at) = (8, 8);
        while lane > 0 {
            lane -= 1;
            if (mask >> lane) & 1 == 1 {
                at -= 1;
                table[mask][at] = lane as u8;
            }
        }
        mask += 1;
    }
    table
};

#[inline]
#[target_feature(enable = "neon")]
fn load8(bytes: &[u8; 8]) -> uint8x8_t {
    // SAFETY: 8 bytes.
    unsafe { vld1_u8(bytes.as_ptr()) }
}
