//! Encoding of cells with AVX-512 (VBMI and VBMI2): 16 rows in the four lanes of a register.

use crate::cell::{CELL_WEIGHTS, TILE_ROWS, TileRows};
use crate::exact::{ESCAPE_ROOM, Palette};
use crate::{exact11, exact12, wide};
use std::arch::x86_64::*;

/// Whether this CPU can run these kernels.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt")
}

/// As [`crate::plain::encode_bf16`].
pub(super) fn encode_bf16(rows: TileRows<'_>, cells: &mut [u8]) {
    assert!(available() && rows.cell_row_bytes() == 64 && cells.len() == rows.n_cells() * 1024);
    // SAFETY: the CPU has the features, and rows have 64 bytes a cell, checked on the line above.
    unsafe { transpose(rows, cells) }
}

/// As [`crate::plain::encode_f32`].
pub(super) fn encode_f32(rows: TileRows<'_>, cells: &mut [u8]) {
    assert!(available() && rows.cell_row_bytes() == 128 && cells.len() == rows.n_cells() * 2048);
    // SAFETY: the CPU has the features, and rows have 128 bytes a cell, checked on the line above.
    unsafe { transpose(rows, cells) }
}

/// As [`crate::plain::encode_f16`].
pub(super) fn encode_f16(rows: TileRows<'_>, cells: &mut [u8]) {
    assert!(available() && rows.cell_row_bytes() == 64 && cells.len() == rows.n_cells() * 1024);
    // SAFETY: the CPU has the features, and rows have 64 bytes a cell, checked on the line above.
    unsafe { transpose_f16(rows, cells) }
}

/// As [`exact11::encode`].
pub(super) fn encode_exact11(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    assert!(available() && rows.cell_row_bytes() == 64 && cells.len() == rows.n_cells() * 704);
    assert!(escapes.len() >= rows.n_cells() * CELL_WEIGHTS + ESCAPE_ROOM);
    // SAFETY: the CPU has the features, rows have 64 bytes a cell and all escapes have room, checked above.
    unsafe { encode_exact::<{ exact11::ESCAPE }, 704>(rows, palette, cells, escapes) }
}

/// As [`exact12::encode`].
pub(super) fn encode_exact12(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    assert!(available() && rows.cell_row_bytes() == 64 && cells.len() == rows.n_cells() * 768);
    assert!(escapes.len() >= rows.n_cells() * CELL_WEIGHTS + ESCAPE_ROOM);
    // SAFETY: the CPU has the features, rows have 64 bytes a cell and all escapes have room, checked above.
    unsafe { encode_exact::<{ exact12::ESCAPE }, 768>(rows, palette, cells, escapes) }
}

/// As [`wide::extremes`].
pub(super) fn extremes(src: &[u8]) -> (u16, u16) {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn compiled(src: &[u8]) -> (u16, u16) {
        wide::extremes(src)
    }
    assert!(available());
    // SAFETY: the CPU has the features, checked on the line above.
    unsafe { compiled(src) }
}

/// 32-bit elements of 16 rows to columns of 16 elements: pairs of bf16, or f32.
///
/// # Safety
/// `rows.cell_row_bytes()` is a multiple of 16.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose(rows: TileRows<'_>, cells: &mut [u8]) {
    let n_strips = rows.cell_row_bytes() / 16;
    for (cell_idx, cell) in cells.chunks_exact_mut(n_strips * 256).enumerate() {
        let src = rows.cell(cell_idx);
        for (strip_idx, columns) in cell.as_chunks_mut::<256>().0.iter_mut().enumerate() {
            // SAFETY: the cell has that many strips of 16 bytes.
            let strip = unsafe { load_strip(src, rows.stride_bytes(), strip_idx) };
            for (column, out) in columns_of(strip).into_iter().zip(columns.as_chunks_mut::<64>().0) {
                store(out, column);
            }
        }
    }
}

/// 16-bit elements of 16 rows to columns of 16 elements.
///
/// # Safety
/// `rows.cell_row_bytes()` is 64.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn transpose_f16(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<1024>().0.iter_mut().enumerate() {
        let src = rows.cell(cell_idx);
        for (strip_idx, columns) in cell.as_chunks_mut::<256>().0.iter_mut().enumerate() {
            // SAFETY: the cell has four strips of 16 bytes.
            let strip = unsafe { load_strip(src, rows.stride_bytes(), strip_idx) };
            for (pair, out) in columns_of(strip).into_iter().zip(columns.as_chunks_mut::<64>().0) {
                let even = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(pair));
                let odd = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(pair));
                store(out, _mm512_inserti64x4::<1>(even, odd));
            }
        }
    }
}

/// Cells of the exact layout of `CELL_BYTES` bytes and escape `N`.
///
/// Two blocks at a time: a strip of 8 columns, its low and its high bytes in block order by packs and unpacks, codes by
/// two lookups of 7 bits and a blend, escapes by compression.
///
/// # Safety
/// `rows.cell_row_bytes()` is 64, and `escapes` has room for all weights and 64 bytes more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn encode_exact<const N: u8, const CELL_BYTES: usize>(
    rows: TileRows<'_>,
    palette: &Palette,
    cells: &mut [u8],
    escapes: &mut [u8],
) -> usize {
    let tables: [__m512i; 4] = std::array::from_fn(|idx| load(&palette.codes.as_chunks::<64>().0[idx]));
    let low_byte = _mm512_set1_epi16(0xff);
    let mut n_escapes = 0;
    for (cell_idx, cell) in cells.as_chunks_mut::<CELL_BYTES>().0.iter_mut().enumerate() {
        let (packed, lows) = cell.split_at_mut(CELL_BYTES - CELL_WEIGHTS);
        let src = rows.cell(cell_idx);
        let mut codes = [_mm512_setzero_si512(); 8];
        for (strip_idx, lows) in lows.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            // SAFETY: the cell has four strips of 16 bytes.
            let strip = unsafe { load_strip(src, rows.stride_bytes(), strip_idx) };
            let [low0, low1] = blocks_of(strip.map(|row| _mm512_and_si512(row, low_byte)));
            store(lows.first_chunk_mut().expect("128 bytes"), low0);
            store(lows.last_chunk_mut().expect("128 bytes"), low1);
            let highs = blocks_of(strip.map(|row| _mm512_srli_epi16::<8>(row)));
            for (half, high) in highs.into_iter().enumerate() {
                let code = look_up(&tables, high);
                let is_escape = _mm512_cmpeq_epi8_mask(code, _mm512_set1_epi8(N as i8));
                codes[2 * strip_idx + half] = code;
                // SAFETY: at most as many escapes as weights so far, and 64 bytes more have room.
                unsafe {
                    let to = escapes.as_mut_ptr().add(n_escapes);
                    _mm512_storeu_si512(to.cast(), _mm512_maskz_compress_epi8(is_escape, high));
                }
                n_escapes += is_escape.count_ones() as usize;
            }
        }
        match N {
            exact11::ESCAPE => pack3(codes, packed),
            _ => pack4(codes, packed),
        }
    }
    n_escapes
}

/// [`exact11::pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack3(codes: [__m512i; 8], packed: &mut [u8]) {
    let [c0, c1, c2, c3, c4, c5, c6, c7] = codes;
    let (top_bits, bit_6, bit_7) = (_mm512_set1_epi8(0xc0u8 as i8), _mm512_set1_epi8(0x40), _mm512_set1_epi8(-0x80));
    // Codes are below 8: shifted by 3 they stay in their byte, further they are cut.
    let two = |low, next| _mm512_or_si512(low, _mm512_slli_epi16::<3>(next));
    let a = _mm512_or_si512(two(c0, c1), _mm512_and_si512(_mm512_slli_epi16::<6>(c6), top_bits));
    let b = _mm512_or_si512(two(c2, c3), _mm512_and_si512(_mm512_slli_epi16::<6>(c7), top_bits));
    let sixth = _mm512_and_si512(_mm512_slli_epi16::<4>(c6), bit_6);
    let seventh = _mm512_and_si512(_mm512_slli_epi16::<5>(c7), bit_7);
    let c = _mm512_or_si512(two(c4, c5), _mm512_or_si512(sixth, seventh));
    for (out, vector) in packed.as_chunks_mut::<64>().0.iter_mut().zip([a, b, c]) {
        store(out, vector);
    }
}

/// [`exact12::pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pack4(codes: [__m512i; 8], packed: &mut [u8]) {
    for (out, pair) in packed.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<2>().0) {
        store(out, _mm512_or_si512(pair[0], _mm512_slli_epi16::<4>(pair[1])));
    }
}

/// Bytes `16 * strip_idx..` of 16 rows: lane `l` of register `r` is 16 bytes of row `4l + r`.
///
/// # Safety
/// `src` has at least `16 * (strip_idx + 1)` bytes in each of 16 rows of `stride_bytes`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_strip(src: &[u8], stride_bytes: usize, strip_idx: usize) -> [__m512i; 4] {
    debug_assert!((TILE_ROWS - 1) * stride_bytes + 16 * (strip_idx + 1) <= src.len());
    // SAFETY: as the caller promises.
    let row = |row: usize| unsafe { _mm_loadu_si128(src.as_ptr().add(row * stride_bytes + 16 * strip_idx).cast()) };
    std::array::from_fn(|r| {
        let lanes = _mm512_castsi128_si512(row(r));
        let lanes = _mm512_inserti32x4::<1>(lanes, row(4 + r));
        let lanes = _mm512_inserti32x4::<2>(lanes, row(8 + r));
        _mm512_inserti32x4::<3>(lanes, row(12 + r))
    })
}

/// A strip's four columns of 32-bit elements.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn columns_of([r0, r1, r2, r3]: [__m512i; 4]) -> [__m512i; 4] {
    let (low01, low23) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpacklo_epi32(r2, r3));
    let (high01, high23) = (_mm512_unpackhi_epi32(r0, r1), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(low01, low23),
        _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23),
        _mm512_unpackhi_epi64(high01, high23),
    ]
}

/// A strip's two blocks of bytes, each byte in a 16-bit element before.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn blocks_of([r0, r1, r2, r3]: [__m512i; 4]) -> [__m512i; 2] {
    // 16-bit elements are now pairs of columns: four of row 0 and four of row 1; the same of rows 2 and 3.
    let (rows01, rows23) = (_mm512_packus_epi16(r0, r1), _mm512_packus_epi16(r2, r3));
    let (rows02, rows13) = (_mm512_unpacklo_epi16(rows01, rows23), _mm512_unpackhi_epi16(rows01, rows23));
    [_mm512_unpacklo_epi16(rows02, rows13), _mm512_unpackhi_epi16(rows02, rows13)]
}

/// Codes of 64 high bytes in a table of 256.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn look_up(tables: &[__m512i; 4], high: __m512i) -> __m512i {
    let lower = _mm512_permutex2var_epi8(tables[0], high, tables[1]);
    let upper = _mm512_permutex2var_epi8(tables[2], high, tables[3]);
    _mm512_mask_mov_epi8(lower, _mm512_movepi8_mask(high), upper)
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(bytes: &mut [u8; 64], value: __m512i) {
    // SAFETY: 64 bytes.
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), value) }
}
