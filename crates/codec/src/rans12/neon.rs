//! rans12 with NEON: a group of 16 lanes is four registers.
//!
//! NEON has no gather: slots leave for general registers two at a time, table entries are loaded one by one.
//! The rest goes by register and without branches. Which word of the stream goes to which lane is a prefix sum,
//! by multiplication as in `rans8/neon.rs`. Counts are in `rans8/notes.md`.

use super::{DecodeTable, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use crate::rans8::neon::available;
use std::arch::aarch64::*;

/// Lanes in a register.
const QUARTER: usize = 4;
/// One in each of eight bytes; times eight bytes: their sums from the lowest up.
const ONES: u64 = 0x0101_0101_0101_0101;

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) -> usize {
    assert!(available());
    let n_steps = out.len() / N_LANES;
    let mut n_done = 0;
    loop {
        let n_safe = lanes.n_safe_steps().min(n_steps - n_done);
        if n_safe == 0 {
            return n_done;
        }
        let batch = &mut out[n_done * N_LANES..][..n_safe * N_LANES];
        // SAFETY: the CPU has the feature, checked above; every stream has 32 bytes for each of these steps.
        unsafe { decode_batch(table, lanes, batch) };
        n_done += n_safe;
    }
}

/// # Safety
/// Each stream holds 32 bytes for every step.
#[target_feature(enable = "neon")]
unsafe fn decode_batch(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) {
    let states = lanes.state.as_chunks_mut::<QUARTER>().0;
    let mut x: [uint32x4_t; N_LANES / QUARTER] = std::array::from_fn(|idx| load(&states[idx]));
    let mut next = lanes.streams.map(|stream| stream.as_ptr());
    for step in out.as_chunks_mut::<N_LANES>().0 {
        for group in 0..N_GROUPS {
            let at = N_LANES / QUARTER / N_GROUPS * group;
            let next = &mut next[group];
            // SAFETY: 32 bytes are there, of which each half takes at most 16.
            let halves = unsafe {
                let (x_0, x_1, half) = advance(table, x[at], x[at + 1], next);
                (x[at], x[at + 1]) = (x_0, x_1);
                let (x_2, x_3, other_half) = advance(table, x[at + 2], x[at + 3], next);
                (x[at + 2], x[at + 3]) = (x_2, x_3);
                (vreinterpretq_u8_u16(half), vreinterpretq_u8_u16(other_half))
            };
            let symbols = &mut step.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            // SAFETY: 16 bytes.
            unsafe { vst1q_u8(symbols.as_mut_ptr(), vuzp2q_u8(halves.0, halves.1)) };
        }
    }
    for (states, x) in states.iter_mut().zip(x) {
        // SAFETY: four lanes.
        unsafe { vst1q_u32(states.as_mut_ptr(), x) };
    }
    for (stream, next) in lanes.streams.iter_mut().zip(next) {
        // SAFETY: both pointers are into the same stream.
        *stream = &stream[unsafe { next.offset_from(stream.as_ptr()) } as usize..];
    }
}

/// Decodes one symbol in each of eight lanes: the states after that, and eight words with the symbols on top.
///
/// # Safety
/// 16 bytes are readable at `next`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn advance(
    table: &DecodeTable,
    x_0: uint32x4_t,
    x_1: uint32x4_t,
    next: &mut *const u8,
) -> (uint32x4_t, uint32x4_t, uint16x8_t) {
    let (entry_0, entry_1) = (gather(table, x_0), gather(table, x_1));
    let symbols = vuzp2q_u16(vreinterpretq_u16_u32(entry_0), vreinterpretq_u16_u32(entry_1));
    let (shrunk_0, shrunk_1) = (shrink(x_0, entry_0), shrink(x_1, entry_1));
    let high = vuzp2q_u16(vreinterpretq_u16_u32(shrunk_0), vreinterpretq_u16_u32(shrunk_1));
    let is_low = vceqzq_u16(high);

    let mask = vget_lane_u64::<0>(vreinterpret_u64_u8(vmovn_u16(is_low)));
    let sums = (mask & ONES).wrapping_mul(ONES);
    // The word after the first `sum - 1` has the bytes `2 * sum - 2` and `2 * sum - 1`.
    let sums_wide = vmovl_u8(vcreate_u8(sums));
    let order = vmlaq_n_u16(vdupq_n_u16(0x0100_u16.wrapping_sub(0x0202)), sums_wide, 0x0202);
    // SAFETY: 16 bytes, by the caller; the sum over all lanes is at most eight words.
    let words = unsafe {
        let words = vld1q_u8(*next);
        *next = next.add(2 * (sums >> 56) as usize);
        words
    };
    let refill = vreinterpretq_u16_u8(vqtbl1q_u8(words, vreinterpretq_u8_u16(order)));
    // In words: the low one moves up, the refill goes in below.
    let low = vuzp1q_u16(vreinterpretq_u16_u32(shrunk_0), vreinterpretq_u16_u32(shrunk_1));
    let (high, low) = (vbslq_u16(is_low, low, high), vbslq_u16(is_low, refill, low));
    let x_0 = vreinterpretq_u32_u16(vzip1q_u16(low, high));
    let x_1 = vreinterpretq_u32_u16(vzip2q_u16(low, high));
    (x_0, x_1, symbols)
}

/// `freq * (x >> 12) + offset`.
#[inline]
#[target_feature(enable = "neon")]
fn shrink(x: uint32x4_t, entry: uint32x4_t) -> uint32x4_t {
    let low12 = vdupq_n_u32(4095);
    let offset = vandq_u32(vshrq_n_u32::<12>(entry), low12);
    vmlaq_u32(offset, vandq_u32(entry, low12), vshrq_n_u32::<12>(x))
}

/// `table[x & 4095]` for four lanes.
#[inline]
#[target_feature(enable = "neon")]
fn gather(table: &DecodeTable, x: uint32x4_t) -> uint32x4_t {
    let pairs = vreinterpretq_u64_u32(x);
    let (first, second) = (vgetq_lane_u64::<0>(pairs), vgetq_lane_u64::<1>(pairs));
    let entry = |slot: u64| table.entries[(slot & 4095) as usize];
    load(&[entry(first), entry(first >> 32), entry(second), entry(second >> 32)])
}

#[inline]
#[target_feature(enable = "neon")]
fn load(words: &[u32; QUARTER]) -> uint32x4_t {
    // SAFETY: 16 bytes.
    unsafe { vld1q_u32(words.as_ptr()) }
}
