//! rans8 with NEON: a group of 32 lanes is four registers, two of low and two of high bytes of the states.
//!
//! ```text
//! for each step, for each group, for each half of 16 lanes:
//!     pair   = table[low >> 1]                        128 bytes: eight registers, two lookups
//!     symbol = (pair + (low & 1)) >> 1                numbered densely; see `Registers::pairs`
//!     f, st  = freq[symbol], start[symbol]            two registers each, one lookup
//!     value  = base + symbol, low and high byte       the same; escapes are put right afterwards
//!     x      = f * high + low - st                    8 by 8 bits into 16, then split into bytes again
//!     lanes with high = 0: high = low, low = a byte of the stream
//! ```
//!
//! What was done for speed: states stay split into bytes, so that the slot is the low register as it is, the
//! product takes bytes, and a refill moves whole registers. Which byte of the stream goes to which lane is a
//! prefix sum over the lanes, and a multiplication by `0x0101..01` in a general register is a prefix sum of
//! eight bytes; the count of bytes taken falls out of the same product. Low plane and value meet in byte shifts
//! that insert, and two registers of bytes leave as one of elements. Loops go by index: iterator adapters and
//! `map` over arrays are not inlined into functions with a target feature. Counts and what lost: `notes.md`.

mod encode;

use super::{DecodeTable, ESCAPE, Join, Lanes, N_GROUPS, N_LANES};
pub(crate) use encode::encode_steps;
use std::arch::aarch64::*;

/// Lanes in a register of bytes.
const HALF: usize = 16;
/// Times eight bytes: their sums from the lowest up.
const PREFIX_SUM: u64 = 0x0101_0101_0101_0101;

/// True if this CPU runs the functions of this file.
pub(crate) fn available() -> bool {
    std::arch::is_aarch64_feature_detected!("neon")
}

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    assert!(available());
    let n_steps = out.len() / N_LANES;
    let to = Target { low: std::ptr::null(), out: out.as_mut_ptr().cast() };
    // SAFETY: the CPU has the feature; `out` has 256 bytes for each step, and `K` = 0 reads no low plane.
    unsafe { decode_all::<0>(table, lanes, n_steps, to) }
}

/// [`super::JoinSteps`].
pub(crate) fn join_steps(table: &DecodeTable, lanes: &mut Lanes, join: Join, low: &mut &[u8], out: &mut [u8]) -> usize {
    assert!(available());
    let low_bytes = N_LANES / 8 * (join.k as usize + 1); // a step's
    let n_steps = (out.len() / (2 * N_LANES)).min(low.len().saturating_sub(HALF) / low_bytes);
    let to = Target { low: low.as_ptr(), out: out.as_mut_ptr() };
    // SAFETY: the CPU has the feature; `out` has 256 bytes for each step, and `low` has `low_bytes` for each and
    // 16 more.
    let n_done = unsafe {
        match join.k {
            4 => decode_all::<4>(table, lanes, n_steps, to),
            6 => decode_all::<6>(table, lanes, n_steps, to),
            7 => decode_all::<7>(table, lanes, n_steps, to),
            _ => 0,
        }
    };
    *low = &low[n_done * low_bytes..];
    n_done
}

/// The decoding tables as registers, over the symbols in use, numbered densely.
struct Registers {
    /// For slots `2 * i` and `2 * i + 1`: twice the symbol of the first, one more if the second has the next
    /// symbol. Ranges are not empty, so it has the same or the next.
    pairs: [uint8x16x4_t; 2],
    freq: uint8x16x2_t,
    start: uint8x16x2_t,
    value_low: uint8x16x2_t,
    /// With `K` = 0 the value's high byte, else the bits of the field that fall into the element's high byte.
    value_high: uint8x16x2_t,
    /// The dense number of the escape, 255 if no slot means it.
    escape: u8,
    spread: [uint8x16_t; 2], // bytes of the low plane with the first and the last bit of each lane,
    shift: [int8x16_t; 2],   // and how far those lie off
}

impl Registers {
    #[target_feature(enable = "neon")]
    fn new<const K: i32>(table: &DecodeTable) -> Registers {
        let [mut freq, mut start, mut low, mut high] = [[0; 32]; 4];
        let (mut dense, mut n_used) = ([255; 32], 0);
        for s in (0..32).filter(|&s| table.freq[s] > 0) {
            let value = table.base.wrapping_add(s as u16);
            (freq[n_used], start[n_used]) = (table.freq[s] as u8, table.start[s] as u8);
            let above = if K == 0 { value >> 8 } else { (value >> (8 - K)) << 1 };
            (low[n_used], high[n_used]) = (value as u8, above as u8);
            dense[s] = n_used as u8;
            n_used += 1;
        }
        let dense_of = |slot: usize| dense[usize::from(table.symbol[slot])];
        let pairs: [u8; 128] = std::array::from_fn(|idx| dense_of(2 * idx) + dense_of(2 * idx + 1));
        let width = K as usize + 1;
        let first = std::array::from_fn(|lane| (lane * width / 8) as u8);
        let last = std::array::from_fn(|lane| ((lane * width + width - 1) / 8) as u8);
        let right = std::array::from_fn(|lane| (lane * width % 8).wrapping_neg() as u8);
        // Bits that come along above the lane's own are dropped by the shifts in `put`.
        let left = std::array::from_fn(|lane| (8 * (1 + lane * width / 8) - lane * width) as u8);
        let pairs = pairs.as_chunks::<64>().0;
        Registers {
            pairs: [load64(&pairs[0]), load64(&pairs[1])],
            freq: load32(&freq),
            start: load32(&start),
            value_low: load32(&low),
            value_high: load32(&high),
            escape: dense[ESCAPE],
            spread: [load(&first), load(&last)],
            shift: [vreinterpretq_s8_u8(load(&right)), vreinterpretq_s8_u8(load(&left))],
        }
    }
}

/// Where the low plane (packed) is read and elements are written.
struct Target {
    low: *const u8,
    out: *mut u8,
}

/// Decodes up to `n_steps` steps: all for which the streams have bytes enough.
///
/// # Safety
/// `to.out` is writable for 256 bytes a step; with `K` > 0, `to.low` is readable for `16 * (K + 1)` bytes a
/// step and 16 more.
#[target_feature(enable = "neon")]
unsafe fn decode_all<const K: i32>(table: &DecodeTable, lanes: &mut Lanes, n_steps: usize, mut to: Target) -> usize {
    let registers = Registers::new::<K>(table);
    let mut n_done = 0;
    loop {
        let n_safe = lanes.n_safe_steps().min(n_steps - n_done);
        if n_safe == 0 {
            return n_done;
        }
        // SAFETY: every stream has 32 bytes for each of these steps; the rest is the caller's promise.
        unsafe { decode_batch::<K>(&registers, lanes, n_safe, &mut to) };
        n_done += n_safe;
    }
}

/// # Safety
/// As for [`decode_all`], and each stream holds 32 bytes for every step.
#[target_feature(enable = "neon")]
unsafe fn decode_batch<const K: i32>(registers: &Registers, lanes: &mut Lanes, n_steps: usize, to: &mut Target) {
    let escape = vdupq_n_u8(registers.escape);
    let states = lanes.state.as_chunks_mut::<HALF>().0;
    let mut x: [uint8x16x2_t; N_LANES / HALF] = std::array::from_fn(|idx| load_states(&states[idx]));
    let mut next = lanes.streams.map(|stream| stream.as_ptr());
    for _ in 0..n_steps {
        for group in 0..N_GROUPS {
            let next = &mut next[group];
            // SAFETY: a quarter of a step, by the caller; each half takes at most 16 of the 32 bytes.
            let (symbol_0, symbol_1) = unsafe {
                let symbol_0 = advance::<K>(registers, &mut x[2 * group], next, to);
                (symbol_0, advance::<K>(registers, &mut x[2 * group + 1], next, to))
            };
            if vmaxvq_u8(vmaxq_u8(symbol_0, symbol_1)) == registers.escape {
                let is_escape = [lane_bits(vceqq_u8(symbol_0, escape)), lane_bits(vceqq_u8(symbol_1, escape))];
                // SAFETY: the 32 elements that were written last.
                let elements = unsafe { std::slice::from_raw_parts_mut(to.out.sub(64), 64) };
                patch_escapes::<K>(is_escape, lanes.escapes, &mut lanes.n_escapes_used, elements);
            }
        }
    }
    for (states, x) in states.iter_mut().zip(x) {
        store_states(states, x);
    }
    for (stream, next) in lanes.streams.iter_mut().zip(next) {
        // SAFETY: both pointers are into the same stream.
        *stream = &stream[unsafe { next.offset_from(stream.as_ptr()) } as usize..];
    }
}

/// Decodes one value in each of 16 lanes; returns the symbols, dense.
///
/// # Safety
/// 16 bytes are readable at `next`; for `to` see [`put`].
#[inline]
#[target_feature(enable = "neon")]
unsafe fn advance<const K: i32>(
    registers: &Registers,
    x: &mut uint8x16x2_t,
    next: &mut *const u8,
    to: &mut Target,
) -> uint8x16_t {
    let one = vdupq_n_u8(1);
    let uint8x16x2_t(low, high) = *x;
    let idx = vshrq_n_u8::<1>(low);
    let pair = vqtbl4q_u8(registers.pairs[0], idx);
    let pair = vqtbx4q_u8(pair, registers.pairs[1], veorq_u8(idx, vdupq_n_u8(64)));
    let symbol = vhaddq_u8(pair, vandq_u8(low, one));
    // SAFETY: by the caller.
    unsafe { put::<K>(registers, symbol, to) };

    let freq = vqtbl2q_u8(registers.freq, symbol);
    let offset = vsubq_u8(low, vqtbl2q_u8(registers.start, symbol));
    let shrunk_0 = vmlal_u8(vmovl_u8(vget_low_u8(offset)), vget_low_u8(freq), vget_low_u8(high));
    let shrunk_1 = vmlal_high_u8(vmovl_high_u8(offset), freq, high);
    let (shrunk_0, shrunk_1) = (vreinterpretq_u8_u16(shrunk_0), vreinterpretq_u8_u16(shrunk_1));
    let (low, high) = (vuzp1q_u8(shrunk_0, shrunk_1), vuzp2q_u8(shrunk_0, shrunk_1));

    let is_low = vceqzq_u8(high);
    let ones = vreinterpretq_u64_u8(vqsubq_u8(one, high)); // 1 where the high byte is 0
    let sum_0 = vgetq_lane_u64::<0>(ones).wrapping_mul(PREFIX_SUM);
    let sum_1 = (vgetq_lane_u64::<1>(ones) + (sum_0 >> 56)).wrapping_mul(PREFIX_SUM);
    let sums = vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(sum_0), vcreate_u64(sum_1)));
    // SAFETY: 16 bytes are there, by the caller; the sum over all lanes is at most that.
    let bytes = unsafe {
        let bytes = vld1q_u8(*next);
        *next = next.add((sum_1 >> 56) as usize);
        bytes
    };
    let refill = vqtbl1q_u8(bytes, vsubq_u8(sums, one));
    *x = uint8x16x2_t(vbslq_u8(is_low, refill, low), vbslq_u8(is_low, low, high));
    symbol
}

/// One bit of four for each lane of a mask.
#[inline]
#[target_feature(enable = "neon")]
fn lane_bits(mask: uint8x16_t) -> u64 {
    let nibbles = vshrn_n_u16::<4>(vreinterpretq_u16_u8(mask));
    vget_lane_u64::<0>(vreinterpret_u64_u8(nibbles)) & 0x1111_1111_1111_1111
}

/// Writes 16 values, or the elements that they and 16 values of the low plane make, and moves on.
///
/// # Safety
/// 32 bytes are writable at `to.out`; with `K` > 0, 16 bytes are readable at `to.low`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn put<const K: i32>(registers: &Registers, symbol: uint8x16_t, to: &mut Target) {
    let mut low_byte = vqtbl2q_u8(registers.value_low, symbol);
    let mut high_byte = if K == 7 { low_byte } else { vqtbl2q_u8(registers.value_high, symbol) };
    if K > 0 {
        // SAFETY: by the caller.
        let packed = unsafe { vld1q_u8(to.low) };
        let low = if K == 7 {
            packed
        } else {
            let first = vshlq_u8(vqtbl1q_u8(packed, registers.spread[0]), registers.shift[0]);
            vorrq_u8(first, vshlq_u8(vqtbl1q_u8(packed, registers.spread[1]), registers.shift[1]))
        };
        let sign_on_top = match K {
            4 => vshlq_n_u8::<3>(low),
            6 => vshlq_n_u8::<1>(low),
            _ => low,
        };
        low_byte = vsliq_n_u8::<K>(low, low_byte);
        high_byte = vsriq_n_u8::<1>(sign_on_top, high_byte);
        to.low = to.low.wrapping_add(2 * (K as usize + 1));
    }
    // SAFETY: by the caller.
    unsafe {
        vst2q_u8(to.out, uint8x16x2_t(low_byte, high_byte));
        to.out = to.out.add(32);
    }
}

/// Puts the next escapes in the place of the fields of those `elements` (2 bytes each) that `is_escape` (from
/// [`lane_bits`]) marks. Not `cold`: for a call the tables would be stored and loaded again.
#[inline]
fn patch_escapes<const K: i32>(is_escape: [u64; 2], escapes: &[u16], n_used: &mut usize, elements: &mut [u8]) {
    let keep = if K == 0 { 0 } else { 0x8000 | ((1 << K) - 1) };
    for (mut left, elements) in is_escape.into_iter().zip(elements.chunks_exact_mut(2 * HALF)) {
        while left != 0 {
            let element = &mut elements.as_chunks_mut::<2>().0[left.trailing_zeros() as usize / 4];
            let value = escapes.get(*n_used).copied().unwrap_or(0);
            *element = ((u16::from_le_bytes(*element) & keep) | (value << K)).to_le_bytes();
            *n_used += 1;
            left &= left - 1;
        }
    }
}

/// Low bytes, high bytes.
#[inline]
#[target_feature(enable = "neon")]
fn load_states(states: &[u16; HALF]) -> uint8x16x2_t {
    // SAFETY: 32 bytes.
    unsafe { vld2q_u8(states.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn store_states(states: &mut [u16; HALF], x: uint8x16x2_t) {
    // SAFETY: 32 bytes.
    unsafe { vst2q_u8(states.as_mut_ptr().cast(), x) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: 16 bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load32(bytes: &[u8; 32]) -> uint8x16x2_t {
    // SAFETY: 32 bytes.
    unsafe { vld1q_u8_x2(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load64(bytes: &[u8; 64]) -> uint8x16x4_t {
    // SAFETY: 64 bytes.
    unsafe { vld1q_u8_x4(bytes.as_ptr()) }
}
