//! rans8 with AVX2: a group of 32 lanes is two registers of states and one register of symbols.
//!
//! AVX2 has no 256-byte lookup, so the symbol is found by counting the ranges that begin at or below the slot:
//! one compare and one subtract for each symbol in use (about eighteen) and 32 lanes. A gather took longer
//! (`notes.md`). Frequencies and starts come from two 16-entry byte shuffles each. `pack` and `unpack` work
//! within 128-bit halves, so that values leave in the order in which they came.

use super::{DecodeTable, ESCAPE, EncodeTable, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use std::arch::x86_64::*;

/// True if this CPU runs the functions of this file.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("popcnt")
}

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    assert!(available());
    let n_steps = out.len() / N_LANES;
    let mut n_done = 0;
    // SAFETY: the CPU has the features, checked above.
    let tables = unsafe { Tables::new(table) };
    loop {
        let shortest = lanes.streams.iter().map(|stream| stream.len()).min().unwrap_or(0);
        let n_safe = (shortest / LANES_PER_GROUP).min(n_steps - n_done);
        if n_safe == 0 {
            return n_done;
        }
        let batch = &mut out[n_done * N_LANES..][..n_safe * N_LANES];
        // SAFETY: the CPU has the features; every stream has 32 bytes for each of these steps.
        unsafe { decode_batch(&tables, lanes, batch) };
        n_done += n_safe;
    }
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    assert!(available());
    let room = symbols.len() / N_GROUPS + 8;
    assert!(buffers.iter().all(|buffer| buffer.len() >= room) && symbols.iter().all(|&symbol| symbol < 32));
    // SAFETY: the CPU has the features; positions sink by at most 32 bytes a step and stores begin at most 8
    // bytes below a position, so they stay inside by the assertion above.
    unsafe { encode_all(table, symbols, state, buffers) }
}

/// A table of 32 bytes, each half in both halves of a register.
#[derive(Clone, Copy)]
struct Bytes32 {
    lower: __m256i,
    upper: __m256i,
}

impl Bytes32 {
    #[target_feature(enable = "avx2")]
    fn new(bytes: &[u8; 32]) -> Bytes32 {
        let halves: &[[u8; 16]] = bytes.as_chunks().0;
        let both = |half: &[u8; 16]| _mm256_broadcastsi128_si256(load(half));
        Bytes32 { lower: both(&halves[0]), upper: both(&halves[1]) }
    }

    /// `bytes[idx]` for 32 indices below 32; `is_upper` says which are above 15.
    #[target_feature(enable = "avx2")]
    fn get(self, idx: __m256i, is_upper: __m256i) -> __m256i {
        _mm256_blendv_epi8(_mm256_shuffle_epi8(self.lower, idx), _mm256_shuffle_epi8(self.upper, idx), is_upper)
    }
}

/// The decoding tables over the symbols in use, numbered densely.
struct Tables {
    /// Where each symbol but the first begins, flipped for signed compares.
    bounds: [__m256i; 31],
    n_bounds: usize,
    freq: Bytes32,
    start: Bytes32,
    symbol: Bytes32,
    base: __m256i,
}

impl Tables {
    #[target_feature(enable = "avx2")]
    fn new(table: &DecodeTable) -> Tables {
        let (mut freq, mut start, mut symbol) = ([0; 32], [0; 32], [0; 32]);
        let mut bounds = [_mm256_setzero_si256(); 31];
        let mut n_used = 0;
        for s in (0..32).filter(|&s| table.freq[s] > 0) {
            (freq[n_used], start[n_used], symbol[n_used]) = (table.freq[s] as u8, table.start[s] as u8, s as u8);
            if n_used > 0 {
                bounds[n_used - 1] = _mm256_set1_epi8((start[n_used] ^ 0x80) as i8);
            }
            n_used += 1;
        }
        Tables {
            bounds,
            n_bounds: n_used - 1,
            freq: Bytes32::new(&freq),
            start: Bytes32::new(&start),
            symbol: Bytes32::new(&symbol),
            base: _mm256_set1_epi16(table.base as i16),
        }
    }

    /// Dense symbol numbers of 32 slots.
    #[target_feature(enable = "avx2")]
    fn find(&self, slots: __m256i) -> __m256i {
        let flipped = _mm256_xor_si256(slots, _mm256_set1_epi8(i8::MIN));
        let mut n_below = _mm256_set1_epi8(self.n_bounds as i8);
        for &bound in &self.bounds[..self.n_bounds] {
            n_below = _mm256_add_epi8(n_below, _mm256_cmpgt_epi8(bound, flipped));
        }
        n_below
    }
}

/// # Safety
/// Each stream holds 32 bytes for every step.
#[target_feature(enable = "avx2,bmi2,popcnt")]
unsafe fn decode_batch(tables: &Tables, lanes: &mut Lanes, out: &mut [u16]) {
    let (zero, byte) = (_mm256_setzero_si256(), _mm256_set1_epi16(255));
    let escape = _mm256_set1_epi8(ESCAPE as i8);
    for step in out.as_chunks_mut::<N_LANES>().0 {
        for group in 0..N_GROUPS {
            let states = &mut lanes.state.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let values = &mut step.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let (x0, x1) = load_pair(states);
            let slots = _mm256_packus_epi16(_mm256_and_si256(x0, byte), _mm256_and_si256(x1, byte));
            let found = tables.find(slots);
            let is_upper = _mm256_cmpgt_epi8(found, _mm256_set1_epi8(15));
            let freq = tables.freq.get(found, is_upper);
            let offset = _mm256_sub_epi8(slots, tables.start.get(found, is_upper));
            let symbol = tables.symbol.get(found, is_upper);

            let low_value = _mm256_add_epi16(_mm256_unpacklo_epi8(symbol, zero), tables.base);
            let high_value = _mm256_add_epi16(_mm256_unpackhi_epi8(symbol, zero), tables.base);
            store_pair(values, low_value, high_value);
            let is_escape = _mm256_movemask_epi8(_mm256_cmpeq_epi8(symbol, escape)) as u32;
            if is_escape != 0 {
                patch_escapes(is_escape, lanes.escapes, &mut lanes.n_escapes_used, values);
            }

            let grown0 = _mm256_mullo_epi16(_mm256_unpacklo_epi8(freq, zero), _mm256_srli_epi16::<8>(x0));
            let grown1 = _mm256_mullo_epi16(_mm256_unpackhi_epi8(freq, zero), _mm256_srli_epi16::<8>(x1));
            let shrunk0 = _mm256_add_epi16(grown0, _mm256_unpacklo_epi8(offset, zero));
            let shrunk1 = _mm256_add_epi16(grown1, _mm256_unpackhi_epi8(offset, zero));
            let is_low0 = _mm256_cmpeq_epi16(_mm256_srli_epi16::<8>(shrunk0), zero);
            let is_low1 = _mm256_cmpeq_epi16(_mm256_srli_epi16::<8>(shrunk1), zero);
            // A byte of the mask for every eight lanes, in the order 0..8, 16..24, 8..16, 24..32.
            let mask = (_mm256_movemask_epi8(_mm256_packs_epi16(is_low0, is_low1)) as u32).to_le_bytes();
            let mut next = lanes.streams[group].as_ptr();
            // SAFETY: 32 bytes are there; each refill takes at most 8 of them.
            let (refill0, refill1) = unsafe {
                let first = refill(&mut next, mask[0]);
                let second = refill(&mut next, mask[2]);
                let third = refill(&mut next, mask[1]);
                let fourth = refill(&mut next, mask[3]);
                (_mm256_set_m128i(second, first), _mm256_set_m128i(fourth, third))
            };
            // SAFETY: both pointers are into the same stream.
            let n_taken = unsafe { next.offset_from(lanes.streams[group].as_ptr()) } as usize;
            lanes.streams[group] = &lanes.streams[group][n_taken..];
            let shifted0 = _mm256_blendv_epi8(shrunk0, _mm256_slli_epi16::<8>(shrunk0), is_low0);
            let shifted1 = _mm256_blendv_epi8(shrunk1, _mm256_slli_epi16::<8>(shrunk1), is_low1);
            store_pair(states, _mm256_or_si256(shifted0, refill0), _mm256_or_si256(shifted1, refill1));
        }
    }
}

/// Puts the next escapes where `is_escape` (a bit a lane, in the packed order 0..8, 16..24, 8..16, 24..32) says.
#[cold]
fn patch_escapes(is_escape: u32, escapes: &[u16], n_used: &mut usize, values: &mut [u16; LANES_PER_GROUP]) {
    let [a, b, c, d] = is_escape.to_le_bytes();
    let mut lanes = u32::from_le_bytes([a, c, b, d]);
    while lanes != 0 {
        values[lanes.trailing_zeros() as usize] = escapes.get(*n_used).copied().unwrap_or(0);
        *n_used += 1;
        lanes &= lanes - 1;
    }
}

/// For each set of eight lanes: which byte of the stream goes to the low byte of each 16-bit lane.
static EXPAND: [[u8; 16]; 256] = {
    let mut table = [[0x80; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut n_taken) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][2 * lane] = n_taken;
                n_taken += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
};

/// For each set of eight 16-bit lanes: their low bytes, closed up at the end of eight bytes.
static COMPRESS: [[u8; 16]; 256] = {
    let mut table = [[0x80; 16]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut at) = (8, 8);
        while lane > 0 {
            lane -= 1;
            if mask >> lane & 1 == 1 {
                at -= 1;
                table[mask][at] = 2 * lane as u8;
            }
        }
        mask += 1;
    }
    table
};

/// A stream byte for each lane of `mask`, widened to 16 bits, zero for the others; moves `next` on.
///
/// # Safety
/// Eight bytes are readable at `next`.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn refill(next: &mut *const u8, mask: u8) -> __m128i {
    // SAFETY: eight bytes, by the caller; the popcount is at most eight.
    let bytes = unsafe {
        let bytes = _mm_loadl_epi64(next.cast());
        *next = next.add(mask.count_ones() as usize);
        bytes
    };
    _mm_shuffle_epi8(bytes, load(&EXPAND[usize::from(mask)]))
}

/// # Safety
/// Every buffer holds 32 bytes a step and 8 more; every symbol is below 32.
#[target_feature(enable = "avx2,bmi2,popcnt")]
unsafe fn encode_all(
    table: &EncodeTable,
    all_symbols: &[u8],
    state: &mut [u16; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let low_bytes = |words: &[u16; 32]| Bytes32::new(&words.map(|word| word as u8));
    let tables = [low_bytes(&table.freq), low_bytes(&table.start), low_bytes(&table.reciprocal)];
    let reciprocal_high = Bytes32::new(&table.reciprocal.map(|word| (word >> 8) as u8));
    let zero = _mm256_setzero_si256();
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in all_symbols.as_chunks::<N_LANES>().0.iter().rev() {
        for group in 0..N_GROUPS {
            let symbol = load_symbols(&step.as_chunks::<LANES_PER_GROUP>().0[group]);
            let is_upper = _mm256_cmpgt_epi8(symbol, _mm256_set1_epi8(15));
            let [freq, start, low] = tables.map(|table| table.get(symbol, is_upper));
            let high = reciprocal_high.get(symbol, is_upper);
            let states = &mut state.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let (mut x0, mut x1) = load_pair(states);
            let (freq0, freq1) = (_mm256_unpacklo_epi8(freq, zero), _mm256_unpackhi_epi8(freq, zero));
            let (is_full0, is_full1) = (is_full(x0, freq0), is_full(x1, freq1));
            let mask = (_mm256_movemask_epi8(_mm256_packs_epi16(is_full0, is_full1)) as u32).to_le_bytes();
            // SAFETY: each emit writes 8 bytes ending at `begins` and moves it down by at most 8.
            unsafe {
                let buffer = buffers[group].as_mut_ptr();
                emit(buffer, &mut begins[group], mask[3], _mm256_extracti128_si256::<1>(x1));
                emit(buffer, &mut begins[group], mask[1], _mm256_castsi256_si128(x1));
                emit(buffer, &mut begins[group], mask[2], _mm256_extracti128_si256::<1>(x0));
                emit(buffer, &mut begins[group], mask[0], _mm256_castsi256_si128(x0));
            }
            x0 = _mm256_blendv_epi8(x0, _mm256_srli_epi16::<8>(x0), is_full0);
            x1 = _mm256_blendv_epi8(x1, _mm256_srli_epi16::<8>(x1), is_full1);
            x0 = push(x0, freq0, _mm256_unpacklo_epi8(start, zero), _mm256_unpacklo_epi8(low, high));
            x1 = push(x1, freq1, _mm256_unpackhi_epi8(start, zero), _mm256_unpackhi_epi8(low, high));
            store_pair(states, x0, x1);
        }
    }
    begins
}

/// Lanes whose state must give a byte away first: `x >= freq << 8`.
#[target_feature(enable = "avx2")]
fn is_full(x: __m256i, freq: __m256i) -> __m256i {
    _mm256_cmpeq_epi16(_mm256_max_epu16(x, _mm256_slli_epi16::<8>(freq)), x)
}

/// `x / freq << 8 | x % freq + start`.
#[target_feature(enable = "avx2")]
fn push(x: __m256i, freq: __m256i, start: __m256i, reciprocal: __m256i) -> __m256i {
    let quotient = _mm256_mulhi_epu16(x, reciprocal);
    let remainder = _mm256_sub_epi16(x, _mm256_mullo_epi16(quotient, freq));
    let is_short = _mm256_cmpeq_epi16(_mm256_max_epu16(remainder, freq), remainder);
    let quotient = _mm256_sub_epi16(quotient, is_short);
    let remainder = _mm256_sub_epi16(remainder, _mm256_and_si256(is_short, freq));
    _mm256_add_epi16(_mm256_slli_epi16::<8>(quotient), _mm256_add_epi16(remainder, start))
}

/// Writes the low bytes of the lanes in `mask` so that they end at `begin`, and moves it down to the first.
///
/// # Safety
/// `begin` is at least 8 and at most the buffer's length.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn emit(buffer: *mut u8, begin: &mut usize, mask: u8, x: __m128i) {
    let bytes = _mm_shuffle_epi8(x, load(&COMPRESS[usize::from(mask)]));
    // SAFETY: eight bytes below `begin`, by the caller.
    unsafe { _mm_storel_epi64(buffer.add(*begin - 8).cast(), bytes) };
    *begin -= mask.count_ones() as usize;
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn load_symbols(bytes: &[u8; 32]) -> __m256i {
    // The order of `packus`: lanes 0..8, 16..24, 8..16, 24..32.
    // SAFETY: 32 bytes.
    _mm256_permute4x64_epi64::<0b11_01_10_00>(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}

#[target_feature(enable = "avx2")]
fn load_pair(words: &[u16; LANES_PER_GROUP]) -> (__m256i, __m256i) {
    // SAFETY: 64 bytes.
    unsafe { (_mm256_loadu_si256(words.as_ptr().cast()), _mm256_loadu_si256(words.as_ptr().add(16).cast())) }
}

#[target_feature(enable = "avx2")]
fn store_pair(words: &mut [u16; LANES_PER_GROUP], first: __m256i, second: __m256i) {
    // SAFETY: 64 bytes.
    unsafe {
        _mm256_storeu_si256(words.as_mut_ptr().cast(), first);
        _mm256_storeu_si256(words.as_mut_ptr().add(16).cast(), second);
    }
}
