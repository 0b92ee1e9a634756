//! rans8 with AVX-512 (VBMI, VBMI2): a group of 32 lanes is one register, the tables are registers too.
//!
//! ```text
//! for each step, for each group:
//!     slot   = x & 255
//!     symbol = table[slot]                    two groups share one 256-byte lookup: four registers, two permutes
//!     f, st  = freq[symbol], start[symbol]    packed as two bytes of one 16-bit entry, one permute
//!     value  = base + symbol, escapes expanded over the lanes whose symbol is 31
//!     x      = f * (x >> 8) + slot - st
//!     lanes with x < 256 take one byte each   expand, widen, or
//! ```
//!
//! What was done for speed: four independent groups hide the latency of the permutes; escapes need no branch
//! (with an escape in every other step it would be mispredicted); the last steps, where a full load would pass
//! the end of a stream, use masked loads. `join_steps` puts whole elements together while the values are in
//! registers, so that reads and writes of memory are spread evenly over the arithmetic: in two passes over a
//! block the same work ran at half the speed out of memory. Prefetches cost nothing and gain a tenth to a third
//! out of memory. What lost is in
//! `../kernels/notes.md`.

use super::{DecodeTable, EncodeTable, Join, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use std::arch::x86_64::*;

/// True if this CPU runs the functions of this file.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt")
}

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    assert!(available());
    // SAFETY: the CPU has the features, checked on the line above.
    unsafe { decode_all(table, lanes, out) }
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    assert!(available());
    let n_steps = symbols.len() / N_LANES;
    assert!(buffers.iter().all(|buffer| buffer.len() >= n_steps * LANES_PER_GROUP));
    // SAFETY: the CPU has the features; each step moves a buffer's position down by at most 32 bytes, so it
    // stays inside by the assertion above.
    unsafe { encode_all(table, symbols, state, buffers) }
}

/// The decoding tables as registers.
struct Registers {
    symbol: [__m512i; 4], // 256 bytes
    freq_start: __m512i,  // 32 x (freq | start << 8)
    base: __m512i,
    spread: __m512i, // for `put`: bytes of the low plane to 8-byte lanes,
    cut: __m512i,    // fields to bytes,
    keep: __m512i,   // and the bits of an element that they are
}

/// [`super::JoinSteps`].
pub(crate) fn join_steps(table: &DecodeTable, lanes: &mut Lanes, join: Join, low: &mut &[u8], out: &mut [u8]) -> usize {
    assert!(available());
    let past_caches = join.past_caches && out.as_ptr().addr().is_multiple_of(64);
    // SAFETY: the CPU has the features; with `past_caches`, `out` begins at a multiple of 64 bytes.
    unsafe {
        match (join.k, past_caches) {
            (6, true) => join_all::<6, true>(table, lanes, low, out),
            (6, false) => join_all::<6, false>(table, lanes, low, out),
            (4, _) => join_all::<4, false>(table, lanes, low, out),
            (7, _) => join_all::<7, false>(table, lanes, low, out),
            _ => 0,
        }
    }
}

impl Registers {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2")]
    fn new(table: &DecodeTable, k: u32) -> Registers {
        let mut freq_start = [0u16; 32];
        for (entry, (freq, start)) in freq_start.iter_mut().zip(table.freq.iter().zip(&table.start)) {
            *entry = freq | start << 8;
        }
        let symbol: &[[u8; 64]] = table.symbol.as_chunks().0;
        // Four weights of k + 1 bits to each 8-byte lane, from the byte where the first of them begins.
        let first_bit = |lane: usize| lane * 4 * (k as usize + 1);
        let spread = std::array::from_fn(|idx| (first_bit(idx / 8) / 8 + idx % 8) as u8 & 31);
        // To each weight's low byte its own bits, to its high byte those that bring the sign to the top.
        let cut = std::array::from_fn(|idx| {
            let bit = first_bit(idx / 8) % 8 + idx % 8 / 2 * (k as usize + 1);
            (if idx % 2 == 0 { bit } else { bit + k as usize + 64 - 7 }) as u8 & 63
        });
        Registers {
            symbol: [load(&symbol[0]), load(&symbol[1]), load(&symbol[2]), load(&symbol[3])],
            freq_start: load16(&freq_start),
            base: _mm512_set1_epi16(table.base as i16),
            spread: load(&spread),
            cut: load(&cut),
            keep: _mm512_set1_epi16((0x8000 | ((1u32 << k) - 1)) as i16),
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn decode_all(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    let registers = Registers::new(table, 0);
    let n_steps = out.len() / N_LANES;
    let mut n_done = 0;
    while n_done < n_steps {
        let n_safe = lanes.n_safe_steps().min(n_steps - n_done);
        if n_safe == 0 {
            break;
        }
        let to = Target { low: std::ptr::null(), out: out[n_done * N_LANES..].as_mut_ptr().cast() };
        // SAFETY: a step takes at most 32 bytes of a stream and every stream has 32 for each of these steps;
        // `out` has 256 bytes for each.
        n_done += unsafe { decode_batch::<false, 0, false>(&registers, lanes, n_safe, to) };
    }
    let to = Target { low: std::ptr::null(), out: out[n_done * N_LANES..].as_mut_ptr().cast() };
    // SAFETY: masked loads read only what is left of each stream; `out` has 256 bytes for each step.
    n_done + unsafe { decode_batch::<true, 0, false>(&registers, lanes, n_steps - n_done, to) }
}

/// # Safety
/// With `PAST_CACHES`, `out` begins at a multiple of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn join_all<const K: u32, const PAST_CACHES: bool>(
    table: &DecodeTable,
    lanes: &mut Lanes,
    low: &mut &[u8],
    out: &mut [u8],
) -> usize {
    let registers = Registers::new(table, K);
    let low_bytes = N_LANES / 8 * (K as usize + 1); // a step's
    let n_steps = (out.len() / (2 * N_LANES)).min(low.len().saturating_sub(32) / low_bytes);
    let mut n_done = 0;
    while n_done < n_steps {
        let is_near_end = lanes.n_safe_steps() == 0;
        let to = Target { low: low.as_ptr(), out: out[n_done * 2 * N_LANES..].as_mut_ptr() };
        // SAFETY: as in `decode_all`; `low` has a step's bytes for each step and 32 more, so that a load of 32
        // bytes stays inside.
        let n = unsafe {
            if is_near_end {
                decode_batch::<true, K, PAST_CACHES>(&registers, lanes, n_steps - n_done, to)
            } else {
                decode_batch::<false, K, PAST_CACHES>(&registers, lanes, lanes.n_safe_steps().min(n_steps - n_done), to)
            }
        };
        *low = &low[n * low_bytes..];
        n_done += n;
        if is_near_end {
            break;
        }
    }
    if PAST_CACHES {
        _mm_sfence(); // streaming stores are not ordered with later ones by themselves
    }
    n_done
}

/// How far ahead of its use memory is asked for, in bytes of a stream; twice that in the low plane.
const AHEAD: usize = 1024;

/// Where a batch reads the low plane (packed) and writes its values.
struct Target {
    low: *const u8,
    out: *mut u8,
}

/// Decodes up to `n_steps` steps. With `NEAR_END` loads stop at the end of a stream, and the loop stops before
/// a step that would need more. With `K` = 0 the values themselves are written, else whole elements of 16 bits
/// put together with their `K + 1` low bits; `PAST_CACHES` says how.
///
/// # Safety
/// Without `NEAR_END` each stream must hold 32 bytes for every step. `to.out` is writable for 256 bytes a step;
/// with `K` > 0, `to.low` is readable for `16 * (K + 1)` bytes a step and 32 more.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn decode_batch<const NEAR_END: bool, const K: u32, const PAST_CACHES: bool>(
    registers: &Registers,
    lanes: &mut Lanes,
    n_steps: usize,
    mut to: Target,
) -> usize {
    let (byte, escape) = (_mm512_set1_epi16(255), _mm512_set1_epi16(31));
    let states: &mut [[u16; 32]] = lanes.state.as_chunks_mut().0;
    let mut x = [load16(&states[0]), load16(&states[1]), load16(&states[2]), load16(&states[3])];
    let mut next = lanes.streams.map(|stream| stream.as_ptr());
    let ends = lanes.streams.map(|stream| stream.as_ptr_range().end);
    let n_escapes = lanes.escapes.len() - crate::escapes::SLACK;
    let mut n_used = lanes.n_escapes_used;
    let mut n_done = 0;
    'steps: while n_done < n_steps {
        let before = (x, next, n_used);
        let pairs = [symbols(registers, x[0], x[1]), symbols(registers, x[2], x[3])];
        for group in 0..N_GROUPS {
            let pair = pairs[group / 2];
            let symbol = if group % 2 == 0 { _mm512_and_si512(pair, byte) } else { _mm512_srli_epi16::<8>(pair) };

            let is_escape = _mm512_cmpeq_epi16_mask(symbol, escape);
            // SAFETY: at most `n_escapes`, after which lie SLACK = 64 readable values.
            let waiting = unsafe { _mm512_loadu_si512(lanes.escapes.as_ptr().add(n_used.min(n_escapes)).cast()) };
            let value = _mm512_add_epi16(symbol, registers.base);
            let value = _mm512_mask_expand_epi16(value, is_escape, waiting);
            n_used += is_escape.count_ones() as usize;
            // SAFETY: a quarter of a step, by the caller.
            unsafe { put::<K, PAST_CACHES>(registers, value, &mut to) };

            let freq_start = _mm512_permutexvar_epi16(symbol, registers.freq_start);
            let freq = _mm512_and_si512(freq_start, byte);
            let offset = _mm512_sub_epi16(_mm512_and_si512(x[group], byte), _mm512_srli_epi16::<8>(freq_start));
            let grown = _mm512_mullo_epi16(freq, _mm512_srli_epi16::<8>(x[group]));
            let shrunk = _mm512_add_epi16(grown, offset);
            let is_low = _mm512_cmple_epu16_mask(shrunk, byte);
            let n_taken = is_low.count_ones() as usize;
            // SAFETY: 32 bytes are there, or the mask ends where the stream does.
            let bytes = unsafe {
                if NEAR_END {
                    let n_left = ends[group].offset_from(next[group]) as usize;
                    if n_taken > n_left {
                        (x, next, n_used) = before;
                        break 'steps;
                    }
                    let mask = if n_left >= 32 { u32::MAX } else { (1 << n_left) - 1 };
                    _mm256_maskz_loadu_epi8(mask, next[group].cast())
                } else {
                    _mm256_loadu_si256(next[group].cast())
                }
            };
            _mm_prefetch::<_MM_HINT_T0>(next[group].wrapping_add(AHEAD).cast());
            let refill = _mm512_cvtepu8_epi16(_mm256_maskz_expand_epi8(is_low, bytes));
            x[group] = _mm512_or_si512(_mm512_mask_slli_epi16::<8>(shrunk, is_low, shrunk), refill);
            // SAFETY: `n_taken` bytes were there.
            next[group] = unsafe { next[group].add(n_taken) };
        }
        n_done += 1;
    }
    for group in 0..N_GROUPS {
        store16(&mut states[group], x[group]);
        let stream = &mut lanes.streams[group];
        // SAFETY: both pointers are into the same stream.
        *stream = &stream[unsafe { next[group].offset_from(stream.as_ptr()) } as usize..];
    }
    lanes.n_escapes_used = n_used;
    n_done
}

/// Writes 32 values, or the elements that they and 32 values of the low plane make, and moves on.
///
/// # Safety
/// 64 bytes are writable at `to.out`, at a multiple of 64 with `PAST_CACHES`; with `K` > 0, 32 bytes are readable at `to.low`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn put<const K: u32, const PAST_CACHES: bool>(registers: &Registers, value: __m512i, to: &mut Target) {
    let element = if K == 0 {
        value
    } else {
        // SAFETY: by the caller.
        let packed = unsafe { _mm256_loadu_si256(to.low.cast()) };
        _mm_prefetch::<_MM_HINT_T0>(to.low.wrapping_add(2 * AHEAD).cast());
        let lanes = _mm512_permutexvar_epi8(registers.spread, _mm512_castsi256_si512(packed));
        let low = _mm512_multishift_epi64_epi8(registers.cut, lanes);
        let field = _mm512_sll_epi16(value, _mm_cvtsi32_si128(K as i32));
        _mm512_ternarylogic_epi64::<0xea>(low, registers.keep, field) // low & keep | field
    };
    // SAFETY: by the caller; `K + 1` times four bytes hold 32 low values.
    unsafe {
        if PAST_CACHES {
            _mm512_stream_si512(to.out.cast(), element);
        } else {
            _mm512_storeu_si512(to.out.cast(), element);
        }
        to.out = to.out.add(64);
        to.low = to.low.wrapping_add(if K == 0 { 0 } else { 4 * (K as usize + 1) });
    }
}

/// Symbols of two groups: those of `first` in the low bytes, those of `second` in the high bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2")]
fn symbols(registers: &Registers, first: __m512i, second: __m512i) -> __m512i {
    let low_bytes = _mm512_set1_epi16(255);
    let slots = _mm512_or_si512(_mm512_and_si512(first, low_bytes), _mm512_slli_epi16::<8>(second));
    let lower = _mm512_permutex2var_epi8(registers.symbol[0], slots, registers.symbol[1]);
    let upper = _mm512_permutex2var_epi8(registers.symbol[2], slots, registers.symbol[3]);
    _mm512_mask_blend_epi8(_mm512_movepi8_mask(slots), lower, upper)
}

/// # Safety
/// Every buffer holds 32 bytes a step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn encode_all(
    table: &EncodeTable,
    all_symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let (freqs, starts, reciprocals) = (load16(&table.freq), load16(&table.start), load16(&table.reciprocal));
    let one = _mm512_set1_epi16(1);
    let states: &mut [[u16; 32]] = state.as_chunks_mut().0;
    let mut x = [load16(&states[0]), load16(&states[1]), load16(&states[2]), load16(&states[3])];
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in all_symbols.as_chunks::<N_LANES>().0.iter().rev() {
        for group in 0..N_GROUPS {
            let symbol = _mm512_cvtepu8_epi16(load32(&step.as_chunks::<LANES_PER_GROUP>().0[group]));
            let freq = _mm512_permutexvar_epi16(symbol, freqs);
            let start = _mm512_permutexvar_epi16(symbol, starts);
            let reciprocal = _mm512_permutexvar_epi16(symbol, reciprocals);

            let is_full = _mm512_cmpge_epu16_mask(x[group], _mm512_slli_epi16::<8>(freq));
            let n_put = is_full.count_ones();
            let bytes = _mm256_maskz_compress_epi8(is_full, _mm512_cvtepi16_epi8(x[group]));
            begins[group] -= n_put as usize;
            // SAFETY: `begins` sank by at most 32 a step from the buffer's length, and the mask has `n_put` bits.
            unsafe {
                let to = buffers[group].as_mut_ptr().add(begins[group]);
                _mm256_mask_storeu_epi8(to.cast(), ((1u64 << n_put) - 1) as u32, bytes);
            }
            let x_small = _mm512_mask_srli_epi16::<8>(x[group], is_full, x[group]);
            let quotient = _mm512_mulhi_epu16(x_small, reciprocal);
            let remainder = _mm512_sub_epi16(x_small, _mm512_mullo_epi16(quotient, freq));
            let is_short = _mm512_cmpge_epu16_mask(remainder, freq);
            let quotient = _mm512_mask_add_epi16(quotient, is_short, quotient, one);
            let remainder = _mm512_mask_sub_epi16(remainder, is_short, remainder, freq);
            x[group] = _mm512_add_epi16(_mm512_slli_epi16::<8>(quotient), _mm512_add_epi16(remainder, start));
        }
    }
    (0..N_GROUPS).for_each(|group| store16(&mut states[group], x[group]));
    begins
}

#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn load16(words: &[u16; 32]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store16(words: &mut [u16; 32], value: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "avx512f")]
fn load32(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}
