//! Splits, joins and bit packing in plain Rust: the definition, and loops that a compiler turns into vector
//! code by itself where `wide.rs` lets it.

use super::Range;
use crate::split::low_bits;

/// [`super::Pack`].
#[inline(always)]
pub(crate) fn pack(bits: u32, values: &[u8], packed: &mut [u8]) {
    for (eight, bytes) in values.chunks_exact(8).zip(packed.chunks_exact_mut(bits as usize)) {
        let word = eight.iter().rev().fold(0u64, |word, &value| word << bits | u64::from(value));
        bytes.copy_from_slice(&word.to_le_bytes()[..bits as usize]);
    }
}

/// [`super::Unpack`].
#[inline(always)]
pub(crate) fn unpack(bits: u32, packed: &[u8], values: &mut [u8]) {
    let mask = ((1u32 << bits) - 1) as u8;
    for (eight, bytes) in values.chunks_exact_mut(8).zip(packed.chunks_exact(bits as usize)) {
        let mut word = [0; 8];
        word[..bits as usize].copy_from_slice(bytes);
        let word = u64::from_le_bytes(word);
        for (idx, value) in eight.iter_mut().enumerate() {
            *value = (word >> (idx as u32 * bits)) as u8 & mask;
        }
    }
}

/// [`super::Window`].
#[inline(always)]
pub(crate) fn window(values: &[u16], range: Range, symbols: &mut [u8], escapes: &mut [u16]) -> usize {
    let mut n_escapes = 0;
    for (values, symbols) in values.chunks(64).zip(symbols.chunks_mut(64)) {
        let mut has_escape = false;
        for (&value, symbol) in values.iter().zip(symbols) {
            let offset = value.wrapping_sub(range.base);
            let is_escape = offset >= range.n_symbols;
            *symbol = if is_escape { range.escape } else { offset as u8 };
            has_escape |= is_escape;
        }
        if has_escape {
            for &value in values.iter().filter(|value| value.wrapping_sub(range.base) >= range.n_symbols) {
                escapes[n_escapes] = value;
                n_escapes += 1;
            }
        }
    }
    n_escapes
}

/// [`super::Widen`].
#[inline(always)]
pub(crate) fn widen(symbols: &[u8], base: u16, escape: Option<u8>, escapes: &[u16], values: &mut [u16]) -> usize {
    let mut n_used = 0;
    for (symbols, values) in symbols.chunks(64).zip(values.chunks_mut(64)) {
        let mut has_escape = false;
        for (&symbol, value) in symbols.iter().zip(&mut *values) {
            *value = base.wrapping_add(u16::from(symbol));
            has_escape |= Some(symbol) == escape;
        }
        if has_escape {
            for (_, value) in symbols.iter().zip(values).filter(|(symbol, _)| Some(**symbol) == escape) {
                *value = escapes.get(n_used).copied().unwrap_or(0);
                n_used += 1;
            }
        }
    }
    n_used
}

/// [`super::SplitHalf`].
#[inline(always)]
pub(crate) fn split_half(element_bytes: usize, k: u32, raw: &[u8], low: &mut [u8], field: &mut [u16]) {
    match element_bytes {
        2 => split_half_of::<2>(k, raw, low, field),
        4 => split_half_of::<4>(k, raw, low, field),
        _ => split_half_of::<8>(k, raw, low, field),
    }
}

#[inline(always)]
fn split_half_of<const W: usize>(k: u32, raw: &[u8], low: &mut [u8], field: &mut [u16]) {
    let sign_at = low_bits(k) - 1;
    let (low_mask, field_mask) = ((1u16 << sign_at) - 1, (1u16 << (15 - k)) - 1);
    for ((element, low), field) in raw.as_chunks::<W>().0.iter().zip(low).zip(field) {
        let top = u16::from_le_bytes([element[W - 2], element[W - 1]]);
        *low = (top >> 15 << sign_at | top >> (k - sign_at) & low_mask) as u8;
        *field = top >> k & field_mask;
    }
}

#[inline(always)]
fn top_bits(k: u32, low: u8, field: u16) -> u16 {
    let low = u16::from(low);
    low >> k << 15 | field << k | low & ((1 << k) - 1)
}

/// [`super::JoinHalf`].
#[inline(always)]
pub(crate) fn join_half(k: u32, planes: &[&[u8]], low: &[u8], field: &[u16], raw: &mut [u8]) {
    match planes {
        [first] => {
            // k = 9: a byte plane below the low plane.
            let rest = low.iter().zip(field);
            for ((element, &first), (&low, &field)) in raw.as_chunks_mut::<2>().0.iter_mut().zip(*first).zip(rest) {
                let low = u16::from(low);
                *element = (low >> 1 << 15 | field << 9 | (low & 1) << 8 | u16::from(first)).to_le_bytes();
            }
        }
        [] => {
            for ((element, &low), &field) in raw.as_chunks_mut::<2>().0.iter_mut().zip(low).zip(field) {
                *element = top_bits(k, low, field).to_le_bytes();
            }
        }
        [first, second] => {
            let rest = first.iter().zip(*second).zip(low.iter().zip(field));
            for (element, ((&first, &second), (&low, &field))) in raw.as_chunks_mut::<4>().0.iter_mut().zip(rest) {
                let top = u32::from(top_bits(k, low, field));
                *element = (top << 16 | u32::from(second) << 8 | u32::from(first)).to_le_bytes();
            }
        }
        _ => {
            for (idx, element) in raw.chunks_exact_mut(planes.len() + 2).enumerate() {
                let (rest, top) = element.split_at_mut(planes.len());
                rest.iter_mut().zip(planes).for_each(|(byte, plane)| *byte = plane[idx]);
                top.copy_from_slice(&top_bits(k, low[idx], field[idx]).to_le_bytes());
            }
        }
    }
}

/// [`super::SplitBytes`].
#[inline(always)]
pub(crate) fn split_bytes(element_bytes: usize, idx: usize, raw: &[u8], plane: &mut [u8]) {
    match element_bytes {
        1 => plane.copy_from_slice(raw),
        2 => split_bytes_of::<2>(idx, raw, plane),
        4 => split_bytes_of::<4>(idx, raw, plane),
        _ => split_bytes_of::<8>(idx, raw, plane),
    }
}

#[inline(always)]
fn split_bytes_of<const W: usize>(idx: usize, raw: &[u8], plane: &mut [u8]) {
    for (element, byte) in raw.as_chunks::<W>().0.iter().zip(plane) {
        *byte = element[idx];
    }
}

/// [`super::JoinBytes`].
#[inline(always)]
pub(crate) fn join_bytes(planes: &[&[u8]], raw: &mut [u8]) {
    match planes {
        [only] => raw.copy_from_slice(only),
        [first, second] => {
            for (element, (&first, &second)) in raw.as_chunks_mut::<2>().0.iter_mut().zip(first.iter().zip(*second)) {
                *element = [first, second];
            }
        }
        _ => {
            for (idx, element) in raw.chunks_exact_mut(planes.len()).enumerate() {
                element.iter_mut().zip(planes).for_each(|(byte, plane)| *byte = plane[idx]);
            }
        }
    }
}

/// [`super::SplitSign`].
#[inline(always)]
pub(crate) fn split_sign(raw: &[u8], sign: &mut [u8], rest: &mut [u8]) {
    for ((&byte, sign), rest) in raw.iter().zip(sign).zip(rest) {
        (*sign, *rest) = (byte >> 7, byte & 127);
    }
}

/// [`super::JoinSign`].
#[inline(always)]
pub(crate) fn join_sign(sign: &[u8], rest: &[u8], raw: &mut [u8]) {
    for ((byte, &sign), &rest) in raw.iter_mut().zip(sign).zip(rest) {
        *byte = sign << 7 | rest;
    }
}
