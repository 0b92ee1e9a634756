//! Bit packing and windowing with AVX-512.

use super::{Range, portable};
use crate::rans8::avx512::available;
use std::arch::x86_64::*;

/// [`super::Unpack`].
pub(super) fn unpack(bits: u32, packed: &[u8], values: &mut [u8]) {
    assert!(available() && packed.len() * 8 == values.len() * bits as usize);
    // SAFETY: the CPU has the features and the lengths fit each other, checked on the line above.
    let n_done = unsafe { unpack_blocks(bits as usize, packed, values) };
    portable::unpack(bits, &packed[n_done / 8 * bits as usize..], &mut values[n_done..]);
}

/// Spread groups of `bits` bytes over 8-byte lanes, then cut each lane into eight fields. Returns how many
/// values were done: those whose 64-byte load stays inside.
///
/// # Safety
/// `packed` has `bits` bytes for every eight values.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn unpack_blocks(bits: usize, packed: &[u8], values: &mut [u8]) -> usize {
    let spread: [u8; 64] = std::array::from_fn(|idx| (idx / 8 * bits + idx % 8) as u8);
    let shift: [u8; 64] = std::array::from_fn(|idx| (idx % 8 * bits) as u8);
    let (spread, shift) = (load(&spread), load(&shift));
    let mask = _mm512_set1_epi8(((1u32 << bits) - 1) as i8);
    let mut n_done = 0;
    for (idx, block) in values.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        let Some(bytes) = packed[idx * 8 * bits..].first_chunk::<64>() else { break };
        let lanes = _mm512_permutexvar_epi8(spread, load(bytes));
        store(block, _mm512_and_si512(_mm512_multishift_epi64_epi8(shift, lanes), mask));
        n_done += 64;
    }
    n_done
}

/// [`super::Pack`].
pub(super) fn pack(bits: u32, values: &[u8], packed: &mut [u8]) {
    assert!(available() && packed.len() * 8 == values.len() * bits as usize && (1..=8).contains(&bits));
    let n_whole = values.len() / 64 * 64;
    // SAFETY: the CPU has the features and the lengths fit each other, checked above.
    unsafe { pack_blocks(bits as usize, &values[..n_whole], packed) };
    portable::pack(bits, &values[n_whole..], &mut packed[n_whole / 8 * bits as usize..]);
}

/// Join neighbours: bytes to words, words to double words, those to lanes of `8 * bits` bits; then close up.
///
/// # Safety
/// `packed` has `bits` bytes for every eight values.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
unsafe fn pack_blocks(bits: usize, values: &[u8], packed: &mut [u8]) {
    let one = |shift: usize| _mm_cvtsi32_si128(shift as i32);
    let close_up: [u8; 64] = std::array::from_fn(|idx| (idx / bits * 8 + idx % bits).min(63) as u8);
    let close_up = load(&close_up);
    let (byte, word) = (_mm512_set1_epi16(255), _mm512_set1_epi32(65535));
    let double = _mm512_set1_epi64(u32::MAX as i64);
    let mask = u64::MAX >> (64 - 8 * bits);
    let (by_byte, by_word, by_double) = (one(8 - bits), one(16 - 2 * bits), one(32 - 4 * bits));
    for (block, bytes) in values.as_chunks::<64>().0.iter().zip(packed.chunks_exact_mut(8 * bits)) {
        let x = load(block);
        let x = _mm512_or_si512(_mm512_and_si512(x, byte), _mm512_srl_epi16(_mm512_andnot_si512(byte, x), by_byte));
        let x = _mm512_or_si512(_mm512_and_si512(x, word), _mm512_srl_epi32(_mm512_andnot_si512(word, x), by_word));
        let x =
            _mm512_or_si512(_mm512_and_si512(x, double), _mm512_srl_epi64(_mm512_andnot_si512(double, x), by_double));
        // SAFETY: the mask covers `8 * bits` bytes, the length of `bytes`.
        unsafe { _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), mask, _mm512_permutexvar_epi8(close_up, x)) };
    }
}

/// [`super::Window`].
pub(super) fn window(values: &[u16], range: Range, symbols: &mut [u8], escapes: &mut [u16]) -> usize {
    assert!(available() && symbols.len() == values.len() && escapes.len() >= values.len() + 32);
    let n_whole = values.len() / 32 * 32;
    // SAFETY: the CPU has the features; there is room for an escape a value and a register more.
    let n_escapes = unsafe { window_blocks(&values[..n_whole], range, symbols, escapes) };
    n_escapes + portable::window(&values[n_whole..], range, &mut symbols[n_whole..], &mut escapes[n_escapes..])
}

/// # Safety
/// `escapes` has room for `values.len() + 32` values.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")]
unsafe fn window_blocks(values: &[u16], range: Range, symbols: &mut [u8], escapes: &mut [u16]) -> usize {
    let base = _mm512_set1_epi16(range.base as i16);
    let n_symbols = _mm512_set1_epi16(range.n_symbols as i16);
    let escape = _mm512_set1_epi16(i16::from(range.escape));
    let mut n_escapes = 0;
    for (values, symbols) in values.as_chunks::<32>().0.iter().zip(symbols.as_chunks_mut::<32>().0) {
        // SAFETY: 32 values are 64 bytes, 32 symbols 32 bytes; `n_escapes` is at most the values seen so far.
        unsafe {
            let value = _mm512_loadu_si512(values.as_ptr().cast());
            let offset = _mm512_sub_epi16(value, base);
            let is_escape = _mm512_cmpge_epu16_mask(offset, n_symbols);
            let symbol = _mm512_cvtepi16_epi8(_mm512_mask_mov_epi16(offset, is_escape, escape));
            _mm256_storeu_si256(symbols.as_mut_ptr().cast(), symbol);
            let to = escapes.as_mut_ptr().add(n_escapes);
            _mm512_storeu_si512(to.cast(), _mm512_maskz_compress_epi16(is_escape, value));
            n_escapes += is_escape.count_ones() as usize;
        }
    }
    n_escapes
}

#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}
