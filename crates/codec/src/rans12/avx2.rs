//! rans12 with AVX2: a group of 16 lanes is two registers; as `avx512.rs`, with a permutation by table where
//! AVX2 has no expand or compress.

use super::{DecodeTable, EncodeTable, LANES_PER_GROUP, Lanes, N_GROUPS, N_LANES};
use crate::rans8::avx2::available;
use std::arch::x86_64::*;

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

/// # Safety
/// Each stream holds 32 bytes for every step.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn decode_batch(table: &DecodeTable, lanes: &mut Lanes, out: &mut [u8]) {
    for step in out.as_chunks_mut::<N_LANES>().0 {
        for group in 0..N_GROUPS {
            let states = &mut lanes.state.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let begin = lanes.streams[group].as_ptr();
            let (first, second) = states.split_at_mut(8);
            let mut next = begin;
            // SAFETY: 32 bytes are there, of which each half takes at most 16.
            let symbols = unsafe { [advance(table, first, &mut next), advance(table, second, &mut next)] };
            let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(symbols[0], symbols[1]));
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words));
            let symbols = &mut step.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            // SAFETY: 16 bytes; both pointers are into the same stream.
            let n_taken = unsafe {
                _mm_storeu_si128(symbols.as_mut_ptr().cast(), bytes);
                next.offset_from(begin) as usize
            };
            lanes.streams[group] = &lanes.streams[group][n_taken..];
        }
    }
}

/// Decodes one symbol in each of eight lanes; returns the symbols as 32-bit numbers.
///
/// # Safety
/// `states` has eight lanes and 16 bytes are readable at `next`.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn advance(table: &DecodeTable, states: &mut [u32], next: &mut *const u8) -> __m256i {
    let low12 = _mm256_set1_epi32(4095);
    // SAFETY: eight lanes; slots are below 4096, the table's length.
    let (x, entry) = unsafe {
        let x = _mm256_loadu_si256(states.as_ptr().cast());
        (x, _mm256_i32gather_epi32::<4>(table.entries.as_ptr().cast(), _mm256_and_si256(x, low12)))
    };
    let grown = _mm256_mullo_epi32(_mm256_and_si256(entry, low12), _mm256_srli_epi32::<12>(x));
    let shrunk = _mm256_add_epi32(grown, _mm256_and_si256(_mm256_srli_epi32::<12>(entry), low12));
    let is_low = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(shrunk), _mm256_setzero_si256());
    let mask = _mm256_movemask_ps(_mm256_castsi256_ps(is_low)) as usize;
    // SAFETY: 16 bytes of stream, by the caller; the table's rows have 8 bytes.
    let (words, order) = unsafe {
        let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(next.cast()));
        *next = next.add(2 * mask.count_ones() as usize);
        (words, _mm256_cvtepu8_epi32(_mm_loadl_epi64(EXPAND[mask].as_ptr().cast())))
    };
    let refill = _mm256_and_si256(_mm256_permutevar8x32_epi32(words, order), is_low);
    let shifted = _mm256_blendv_epi8(shrunk, _mm256_slli_epi32::<16>(shrunk), is_low);
    // SAFETY: eight lanes.
    unsafe { _mm256_storeu_si256(states.as_mut_ptr().cast(), _mm256_or_si256(shifted, refill)) };
    _mm256_srli_epi32::<24>(entry)
}

/// [`super::EncodeSteps`].
pub(crate) fn encode_steps(
    table: &EncodeTable,
    symbols: &[u8],
    state: &mut [u32; N_LANES],
    buffers: [&mut [u8]; N_GROUPS],
) -> [usize; N_GROUPS] {
    assert!(available());
    let room = symbols.len() / N_LANES * BYTES_PER_STEP + BYTES_PER_STEP;
    assert!(buffers.iter().all(|buffer| buffer.len() >= room));
    let mut begins = buffers.each_ref().map(|buffer| buffer.len());
    for step in symbols.as_chunks::<N_LANES>().0.iter().rev() {
        for group in 0..N_GROUPS {
            let states = &mut state.as_chunks_mut::<LANES_PER_GROUP>().0[group];
            let symbols = &step.as_chunks::<LANES_PER_GROUP>().0[group];
            for half in (0..2).rev() {
                let symbols: &[u8; 8] = &symbols.as_chunks().0[half];
                let states: &mut [u32; 8] = &mut states.as_chunks_mut().0[half];
                // SAFETY: the CPU has the features; positions sink by at most 32 bytes a step and stores begin
                // 16 bytes below a position, so they stay inside by the assertion above.
                unsafe { push(table, symbols, states, buffers[group].as_mut_ptr(), &mut begins[group]) };
            }
        }
    }
    begins
}

/// Encodes one symbol in each of eight lanes.
///
/// # Safety
/// `buffer` is writable from 16 bytes below `begin` up to it.
#[target_feature(enable = "avx2,popcnt")]
unsafe fn push(table: &EncodeTable, symbols: &[u8; 8], states: &mut [u32; 8], buffer: *mut u8, begin: &mut usize) {
    // SAFETY: eight symbols, eight lanes; symbols are below 256, the tables' length.
    let (x, freq_start, reciprocal) = unsafe {
        let symbol = _mm256_cvtepu8_epi32(_mm_loadl_epi64(symbols.as_ptr().cast()));
        (
            _mm256_loadu_si256(states.as_ptr().cast()),
            _mm256_i32gather_epi32::<4>(table.freq_start.as_ptr().cast(), symbol),
            _mm256_i32gather_epi32::<4>(table.reciprocal.as_ptr().cast(), symbol),
        )
    };
    let freq = _mm256_and_si256(freq_start, _mm256_set1_epi32(0xffff));
    let above = _mm256_srli_epi32::<20>(x); // below 4096, so that signed compares will do
    let is_full = _mm256_cmpgt_epi32(above, _mm256_sub_epi32(freq, _mm256_set1_epi32(1)));
    let mask = _mm256_movemask_ps(_mm256_castsi256_ps(is_full)) as usize;
    // SAFETY: 16 bytes below `begin`, by the caller; the table's rows have 8 bytes.
    unsafe {
        let order = _mm256_cvtepu8_epi32(_mm_loadl_epi64(COMPRESS[mask].as_ptr().cast()));
        let words = _mm256_and_si256(_mm256_permutevar8x32_epi32(x, order), _mm256_set1_epi32(0xffff));
        let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(words, words));
        _mm_storeu_si128(buffer.add(*begin - 16).cast(), _mm256_castsi256_si128(words));
    }
    *begin -= 2 * mask.count_ones() as usize;
    let x = _mm256_blendv_epi8(x, _mm256_srli_epi32::<16>(x), is_full);
    let even = _mm256_srli_epi64::<32>(_mm256_mul_epu32(x, reciprocal));
    let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), _mm256_srli_epi64::<32>(reciprocal));
    let quotient = _mm256_blend_epi32::<0b1010_1010>(even, odd);
    let remainder = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, freq));
    let is_short = _mm256_cmpgt_epi32(remainder, _mm256_sub_epi32(freq, _mm256_set1_epi32(1)));
    let quotient = _mm256_sub_epi32(quotient, is_short);
    let remainder = _mm256_sub_epi32(remainder, _mm256_and_si256(is_short, freq));
    let start = _mm256_srli_epi32::<16>(freq_start);
    let x = _mm256_add_epi32(_mm256_slli_epi32::<12>(quotient), _mm256_add_epi32(remainder, start));
    // SAFETY: eight lanes.
    unsafe { _mm256_storeu_si256(states.as_mut_ptr().cast(), x) };
}

/// For each set of eight lanes: those lanes, closed up at the end.
static COMPRESS: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut at) = (8, 8);
        while lane > 0 {
            lane -= 1;
            if mask >> lane & 1 == 1 {
                at -= 1;
                table[mask][at] = lane as u8;
            }
        }
        mask += 1;
    }
    table
};

/// For each set of eight lanes: which word of the stream goes to which.
static EXPAND: [[u8; 8]; 256] = {
    let mut table = [[0; 8]; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut lane, mut n_taken) = (0, 0);
        while lane < 8 {
            if mask >> lane & 1 == 1 {
                table[mask][lane] = n_taken;
                n_taken += 1;
            }
            lane += 1;
        }
        mask += 1;
    }
    table
};
