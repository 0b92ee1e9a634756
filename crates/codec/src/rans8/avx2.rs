//! rans8 with AVX2: a group of 32 lanes is two registers of states and one register of symbols.
//!
//! AVX2 has no 256-byte lookup, so the symbol is found in two steps: a shuffle by the slot's upper four bits
//! gives the symbol at the first of those sixteen slots, then the ranges that begin further on among them are
//! counted (`../kernels/notes.md` has what was tried). Frequencies and starts come from two 16-entry byte shuffles
//! each. `pack` and `unpack` work within 128-bit halves, so that values leave in the order in which they came.

use super::{DecodeTable, ESCAPE, EncodeTable, Join, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use std::arch::x86_64::*;

/// True if this CPU runs the functions of this file.
pub(crate) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("popcnt")
}

/// [`super::DecodeSteps`].
pub(crate) fn decode_steps(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u16]) -> usize {
    assert!(available());
    // SAFETY: the CPU has the features, checked on the line above.
    let tables = table.avx2.get_or_init(|| unsafe { Tables::new(table) });
    let n_steps = out.len() / N_LANES;
    let mut n_done = 0;
    loop {
        let n_safe = lanes.n_safe_steps().min(n_steps - n_done).min(STEPS_PER_BATCH);
        if n_safe == 0 {
            return n_done;
        }
        let batch = &mut out[n_done * N_LANES..][..n_safe * N_LANES];
        // SAFETY: values are plain bytes; the CPU has the features; every stream has 32 bytes for each of these
        // steps.
        unsafe {
            let batch = std::slice::from_raw_parts_mut(batch.as_mut_ptr().cast(), 2 * batch.len());
            match tables.is_dense {
                true => decode_batch::<true, 0>(tables, lanes, &[], batch),
                false => decode_batch::<false, 0>(tables, lanes, &[], batch),
            }
        }
        n_done += n_safe;
    }
}

/// [`super::JoinSteps`].
pub(crate) fn join_steps(table: &DecodeTable, lanes: &mut Lanes, join: Join, low: &mut &[u8], out: &mut [u8]) -> usize {
    assert!(available());
    // SAFETY: the CPU has the features, checked on the line above.
    let tables = table.avx2.get_or_init(|| unsafe { Tables::new(table) });
    let low_bytes = N_LANES / 8 * (join.k as usize + 1); // a step's
    let n_steps = (out.len() / (2 * N_LANES)).min(low.len().saturating_sub(16) / low_bytes);
    let mut n_done = 0;
    loop {
        let n_safe = lanes.n_safe_steps().min(n_steps - n_done).min(STEPS_PER_BATCH);
        if n_safe == 0 || join.k != 6 || !tables.is_dense {
            return n_done;
        }
        let batch = &mut out[n_done * 2 * N_LANES..][..n_safe * 2 * N_LANES];
        // SAFETY: the CPU has the features; every stream has 32 bytes for each of these steps, and `low` has a
        // step's bytes for each and 16 more.
        unsafe { decode_batch::<true, 6>(tables, lanes, low, batch) };
        *low = &low[n_safe * low_bytes..];
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
    assert!(
        buffers.iter().all(|buffer| buffer.len() >= room) && symbols.iter().fold(0, |all, symbol| all | symbol) < 32
    );
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
pub(crate) struct Tables {
    /// By the slot's upper four bits: number of the symbol at the first of those sixteen slots.
    first: __m256i,
    /// By the same: where the next symbol, the one after it, ... begins, less one and flipped for signed
    /// compares; 127, which no slot is above, where there is none among the sixteen.
    bounds: [__m256i; 16],
    n_bounds: usize,
    freq: Bytes32,
    start: Bytes32,
    symbol: Bytes32,
    /// Number of the escape; 255 if there is none.
    escape: u8,
    /// Whether every number but the escape's is the symbol itself.
    is_dense: bool,
    base: __m256i,
}

impl Tables {
    #[target_feature(enable = "avx2")]
    fn new(table: &DecodeTable) -> Tables {
        let (mut freq, mut start, mut symbol) = ([0; 32], [0; 32], [0; 32]);
        let (mut first, mut bounds) = ([0; 16], [[127; 16]; 16]);
        let mut n_bounds = 0;
        for (dense, s) in (0..32).filter(|&s| table.freq[s] > 0).enumerate() {
            (freq[dense], start[dense], symbol[dense]) = (table.freq[s] as u8, table.start[s] as u8, s as u8);
            let begin = usize::from(table.start[s]);
            first[begin.div_ceil(16)..].fill(dense as u8);
            if begin % 16 > 0 {
                let level = (0..16).position(|level| bounds[level][begin / 16] == 127).unwrap_or(15);
                bounds[level][begin / 16] = (begin - 1) as u8 ^ 0x80;
                n_bounds = n_bounds.max(level + 1);
            }
        }
        let both = |half: &[u8; 16]| _mm256_broadcastsi128_si256(load(half));
        Tables {
            first: both(&first),
            bounds: bounds.each_ref().map(both),
            n_bounds,
            freq: Bytes32::new(&freq),
            start: Bytes32::new(&start),
            symbol: Bytes32::new(&symbol),
            escape: symbol.iter().position(|&s| usize::from(s) == ESCAPE).map_or(255, |dense| dense as u8),
            is_dense: symbol.iter().enumerate().all(|(dense, &s)| [0, dense, ESCAPE].contains(&usize::from(s))),
            base: _mm256_set1_epi16(table.base as i16),
        }
    }

    /// Dense symbol numbers of 32 slots.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn find(&self, slots: __m256i) -> __m256i {
        let upper = _mm256_and_si256(_mm256_srli_epi16::<4>(slots), _mm256_set1_epi8(15));
        let flipped = _mm256_xor_si256(slots, _mm256_set1_epi8(i8::MIN));
        let mut found = _mm256_shuffle_epi8(self.first, upper);
        for &bound in &self.bounds[..self.n_bounds] {
            found = _mm256_sub_epi8(found, _mm256_cmpgt_epi8(flipped, _mm256_shuffle_epi8(bound, upper)));
        }
        found
    }
}

/// How far ahead of its use memory is asked for, in bytes of a stream; twice that in the low plane.
const AHEAD: usize = 1024;

/// Steps whose escapes are put in together.
const STEPS_PER_BATCH: usize = 32;

/// Fills `out` (256 bytes a step, at most [`STEPS_PER_BATCH`]) with values of 16 bits, or, with `K` > 0, with elements that have
/// their `K + 1` low bits from `low`, packed.
///
/// # Safety
/// Each stream holds 32 bytes for every step; with `K` > 0, `low` holds `16 * (K + 1)` bytes a step and 16 more.
#[target_feature(enable = "avx2,bmi2,popcnt")]
unsafe fn decode_batch<const IS_DENSE: bool, const K: usize>(
    tables: &Tables,
    lanes: &mut Lanes,
    low: &[u8],
    out: &mut [u8],
) {
    let (zero, byte) = (_mm256_setzero_si256(), _mm256_set1_epi16(255));
    let escape = _mm256_set1_epi8(tables.escape as i8);
    let aligner = Aligner::new(K);
    let mut escapes = [[0u32; N_GROUPS]; STEPS_PER_BATCH];
    let mut next = lanes.streams.map(|stream| stream.as_ptr());
    let mut low = low.as_ptr();
    for (step, escapes) in out.as_chunks_mut::<{ 2 * N_LANES }>().0.iter_mut().zip(&mut escapes) {
        for group in 0..N_GROUPS {
            let states = &mut lanes.state.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let (x0, x1) = load_pair(states);
            let slots = _mm256_packus_epi16(_mm256_and_si256(x0, byte), _mm256_and_si256(x1, byte));
            let found = tables.find(slots);
            let is_upper = _mm256_cmpgt_epi8(found, _mm256_set1_epi8(15));
            let freq = tables.freq.get(found, is_upper);
            let offset = _mm256_sub_epi8(slots, tables.start.get(found, is_upper));
            let symbol = if IS_DENSE { found } else { tables.symbol.get(found, is_upper) };

            let mut value0 = _mm256_add_epi16(_mm256_unpacklo_epi8(symbol, zero), tables.base);
            let mut value1 = _mm256_add_epi16(_mm256_unpackhi_epi8(symbol, zero), tables.base);
            if K > 0 {
                // SAFETY: 16 bytes are there at each load, by the caller.
                unsafe {
                    value0 = aligner.join::<K>(value0, low);
                    value1 = aligner.join::<K>(value1, low.add(2 * (K + 1)));
                    low = low.add(4 * (K + 1));
                    _mm_prefetch::<_MM_HINT_T0>(low.wrapping_add(2 * AHEAD).cast());
                }
            }
            store_values(&mut step.as_chunks_mut::<{ 2 * LANES_PER_GROUP }>().0[group], value0, value1);
            escapes[group] = _mm256_movemask_epi8(_mm256_cmpeq_epi8(found, escape)) as u32;

            let grown0 = _mm256_mullo_epi16(_mm256_unpacklo_epi8(freq, zero), _mm256_srli_epi16::<8>(x0));
            let grown1 = _mm256_mullo_epi16(_mm256_unpackhi_epi8(freq, zero), _mm256_srli_epi16::<8>(x1));
            let shrunk0 = _mm256_add_epi16(grown0, _mm256_unpacklo_epi8(offset, zero));
            let shrunk1 = _mm256_add_epi16(grown1, _mm256_unpackhi_epi8(offset, zero));
            let is_low0 = _mm256_cmpeq_epi16(_mm256_srli_epi16::<8>(shrunk0), zero);
            let is_low1 = _mm256_cmpeq_epi16(_mm256_srli_epi16::<8>(shrunk1), zero);
            // A byte of the mask for every eight lanes, in the order 0..8, 16..24, 8..16, 24..32.
            let mask = (_mm256_movemask_epi8(_mm256_packs_epi16(is_low0, is_low1)) as u32).to_le_bytes();
            _mm_prefetch::<_MM_HINT_T0>(next[group].wrapping_add(AHEAD).cast());
            // SAFETY: 32 bytes are there; each refill takes at most 8 of them.
            let (refill0, refill1) = unsafe {
                let first = refill(&mut next[group], mask[0]);
                let second = refill(&mut next[group], mask[2]);
                let third = refill(&mut next[group], mask[1]);
                let fourth = refill(&mut next[group], mask[3]);
                (_mm256_set_m128i(second, first), _mm256_set_m128i(fourth, third))
            };
            let shifted0 = _mm256_blendv_epi8(shrunk0, _mm256_slli_epi16::<8>(shrunk0), is_low0);
            let shifted1 = _mm256_blendv_epi8(shrunk1, _mm256_slli_epi16::<8>(shrunk1), is_low1);
            store_pair(states, _mm256_or_si256(shifted0, refill0), _mm256_or_si256(shifted1, refill1));
        }
    }
    for (stream, next) in lanes.streams.iter_mut().zip(next) {
        // SAFETY: both pointers are into the same stream.
        *stream = &stream[unsafe { next.offset_from(stream.as_ptr()) } as usize..];
    }
    for (group, &is_escape) in escapes.as_flattened().iter().enumerate().filter(|(_, mask)| **mask != 0) {
        let values = &mut out[group * 2 * LANES_PER_GROUP..][..2 * LANES_PER_GROUP];
        patch_escapes::<K>(is_escape, lanes.escapes, &mut lanes.n_escapes_used, values);
    }
}

/// Puts 16 packed low values at the top of 16-bit lanes.
struct Aligner {
    window: __m256i, // the two bytes that hold each value
    factor: __m256i, // a shift to the left, as a multiplication
}

impl Aligner {
    #[target_feature(enable = "avx2")]
    fn new(k: usize) -> Aligner {
        let window: [u8; 32] = std::array::from_fn(|idx| (idx / 2 * (k + 1) / 8 + idx % 2).min(15) as u8);
        let factor: [u16; 16] = std::array::from_fn(|idx| 1 << ((15 - k) - idx * (k + 1) % 8));
        // SAFETY: 32 bytes each.
        unsafe {
            Aligner {
                window: _mm256_loadu_si256(window.as_ptr().cast()),
                factor: _mm256_loadu_si256(factor.as_ptr().cast()),
            }
        }
    }

    /// Elements of 16 fields and the 16 low values of `K + 1` bits at `low`.
    ///
    /// # Safety
    /// 16 bytes are readable at `low`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn join<const K: usize>(&self, field: __m256i, low: *const u8) -> __m256i {
        // SAFETY: by the caller.
        let bytes = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(low.cast()) });
        let aligned = _mm256_mullo_epi16(_mm256_shuffle_epi8(bytes, self.window), self.factor);
        let sign = _mm256_and_si256(aligned, _mm256_set1_epi16(i16::MIN));
        let tail = _mm256_and_si256(
            _mm256_srl_epi16(aligned, _mm_cvtsi32_si128(15 - K as i32)),
            _mm256_set1_epi16((1 << K) - 1),
        );
        let field = _mm256_sll_epi16(field, _mm_cvtsi32_si128(K as i32));
        _mm256_or_si256(_mm256_or_si256(sign, tail), field)
    }
}

/// Puts the next escapes where `is_escape` (a bit a lane, in the packed order 0..8, 16..24, 8..16, 24..32) says.
fn patch_escapes<const K: usize>(is_escape: u32, escapes: &[u16], n_used: &mut usize, values: &mut [u8]) {
    let [a, b, c, d] = is_escape.to_le_bytes();
    let mut lanes = u32::from_le_bytes([a, c, b, d]);
    while lanes != 0 {
        let value = &mut values.as_chunks_mut::<2>().0[lanes.trailing_zeros() as usize];
        let below_and_sign = if K == 0 { 0 } else { 0x8000 | ((1 << K) - 1) };
        let escape = escapes.get(*n_used).copied().unwrap_or(0) << K;
        *value = (u16::from_le_bytes(*value) & below_and_sign | escape).to_le_bytes();
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

#[target_feature(enable = "avx2")]
fn store_values(bytes: &mut [u8; 2 * LANES_PER_GROUP], first: __m256i, second: __m256i) {
    // SAFETY: 64 bytes.
    unsafe {
        _mm256_storeu_si256(bytes.as_mut_ptr().cast(), first);
        _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), second);
    }
}
