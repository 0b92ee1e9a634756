//! rans12 with AVX-512: a group of 16 lanes is one register, the table is gathered from the first-level cache.
//!
//! ```text
//! for each step, for each group:
//!     entry  = table[x & 4095]                        one gather: frequency, offset and symbol together
//!     x      = freq * (x >> 12) + offset
//!     lanes with x < 65536 take one 16-bit word each  widen, expand, or
//! ```

use super::{DecodeTable, EncodeTable, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use std::arch::x86_64::*;

pub(crate) use crate::rans8::avx512::available;

/// How far ahead of its use a stream's memory is asked for, in bytes.
const AHEAD: usize = 512;
/// Bytes that a group takes from its stream in one step at most.
const BYTES_PER_STEP: usize = 2 * LANES_PER_GROUP;

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
        // SAFETY: the CPU has the features, checked above; every stream has 32 bytes for each of these steps.
        unsafe { decode_batch(table, lanes, batch) };
        n_done += n_safe;
    }
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u32; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    assert!(available());
    let n_steps = symbols.len() / N_LANES;
    assert!(buffers.iter().all(|buffer| buffer.len() >= n_steps * BYTES_PER_STEP));
    // SAFETY: the CPU has the features; each step moves a buffer's position down by at most 32 bytes, so it
    // stays inside by the assertion above.
    unsafe { encode_all(table, symbols, state, buffers) }
}

/// # Safety
/// Each stream holds 32 bytes for every step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn decode_batch(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) {
    let low12 = _mm512_set1_epi32(4095);
    let limit = _mm512_set1_epi32(65536);
    let states: &mut [[u32; 16]] = lanes.state.as_chunks_mut().0;
    let mut x = [load(&states[0]), load(&states[1]), load(&states[2]), load(&states[3])];
    let mut next = lanes.streams.map(|stream| stream.as_ptr());
    for step in out.as_chunks_mut::<N_LANES>().0 {
        let parts = step.as_chunks_mut::<LANES_PER_GROUP>().0;
        for group in 0..N_GROUPS {
            let slot = _mm512_and_si512(x[group], low12);
            // SAFETY: slots are below 4096, the table's length.
            let entry = unsafe { _mm512_i32gather_epi32::<4>(slot, table.entries.as_ptr().cast()) };
            store_bytes(&mut parts[group], _mm512_cvtepi32_epi8(_mm512_srli_epi32::<24>(entry)));
            let grown = _mm512_mullo_epi32(_mm512_and_si512(entry, low12), _mm512_srli_epi32::<12>(x[group]));
            let shrunk = _mm512_add_epi32(grown, _mm512_and_si512(_mm512_srli_epi32::<12>(entry), low12));
            let is_low = _mm512_cmplt_epu32_mask(shrunk, limit);
            // SAFETY: 32 bytes are there, by the caller.
            let words = unsafe { _mm256_loadu_si256(next[group].cast()) };
            _mm_prefetch::<_MM_HINT_T0>(next[group].wrapping_add(AHEAD).cast());
            let refill = _mm512_maskz_expand_epi32(is_low, _mm512_cvtepu16_epi32(words));
            x[group] = _mm512_or_si512(_mm512_mask_slli_epi32::<16>(shrunk, is_low, shrunk), refill);
            // SAFETY: at most 16 words of the 32 bytes.
            next[group] = unsafe { next[group].add(2 * is_low.count_ones() as usize) };
        }
    }
    for group in 0..N_GROUPS {
        store(&mut states[group], x[group]);
        let stream = &mut lanes.streams[group];
        // SAFETY: both pointers are into the same stream.
        *stream = &stream[unsafe { next[group].offset_from(stream.as_ptr()) } as usize..];
    }
}

/// # Safety
/// Every buffer holds 32 bytes a step.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,popcnt")]
unsafe fn encode_all(
    table: &EncodeTable,
    all_symbols: &[u8],
    state: &mut [u32; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    let one = _mm512_set1_epi32(1);
    let states: &mut [[u32; 16]] = state.as_chunks_mut().0;
    let mut x = [load(&states[0]), load(&states[1]), load(&states[2]), load(&states[3])];
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in all_symbols.as_chunks::<N_LANES>().0.iter().rev() {
        for group in 0..N_GROUPS {
            let symbol = _mm512_cvtepu8_epi32(load_bytes(&step.as_chunks::<LANES_PER_GROUP>().0[group]));
            // SAFETY: symbols are below 256, the tables' length.
            let (freq_start, reciprocal) = unsafe {
                (
                    _mm512_i32gather_epi32::<4>(symbol, table.freq_start.as_ptr().cast()),
                    _mm512_i32gather_epi32::<4>(symbol, table.reciprocal.as_ptr().cast()),
                )
            };
            let freq = _mm512_and_si512(freq_start, _mm512_set1_epi32(0xffff));
            let is_full = _mm512_cmpge_epu32_mask(_mm512_srli_epi32::<20>(x[group]), freq);
            let n_put = is_full.count_ones();
            let words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(is_full, x[group]));
            begins[group] -= 2 * n_put as usize;
            // SAFETY: `begins` sank by at most 32 a step from the buffer's length, and the mask has `n_put` words.
            unsafe {
                let to = buffers[group].as_mut_ptr().add(begins[group]);
                _mm256_mask_storeu_epi16(to.cast(), ((1u32 << n_put) - 1) as u16, words);
            }
            let x_small = _mm512_mask_srli_epi32::<16>(x[group], is_full, x[group]);
            let quotient = mul_high(x_small, reciprocal);
            let remainder = _mm512_sub_epi32(x_small, _mm512_mullo_epi32(quotient, freq));
            let is_short = _mm512_cmpge_epu32_mask(remainder, freq);
            let quotient = _mm512_mask_add_epi32(quotient, is_short, quotient, one);
            let remainder = _mm512_mask_sub_epi32(remainder, is_short, remainder, freq);
            let start = _mm512_srli_epi32::<16>(freq_start);
            x[group] = _mm512_add_epi32(_mm512_slli_epi32::<12>(quotient), _mm512_add_epi32(remainder, start));
        }
    }
    (0..N_GROUPS).for_each(|group| store(&mut states[group], x[group]));
    begins
}

/// Upper halves of the 64-bit products of 32-bit lanes.
#[target_feature(enable = "avx512f")]
fn mul_high(a: __m512i, b: __m512i) -> __m512i {
    let even = _mm512_srli_epi64::<32>(_mm512_mul_epu32(a, b));
    let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
    _mm512_mask_blend_epi32(0xaaaa, even, odd)
}

#[target_feature(enable = "avx512f")]
fn load(words: &[u32; 16]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(words: &mut [u32; 16], value: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), value) }
}

#[target_feature(enable = "sse2")]
fn load_bytes(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "sse2")]
fn store_bytes(bytes: &mut [u8; 16], value: __m128i) {
    // SAFETY: 16 bytes.
    unsafe { _mm_storeu_si128(bytes.as_mut_ptr().cast(), value) }
}
