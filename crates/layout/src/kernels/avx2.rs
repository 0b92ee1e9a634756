//! Encoding of cells with AVX2: rows 0 to 7 of a tile in one register's two lanes, rows 8 to 15 in another's.

use crate::cell::{CELL_WEIGHTS, TILE_ROWS, TileRows};
use crate::exact::{ESCAPE_ROOM, Palette};
use crate::wide;
use std::arch::x86_64::*;

/// Bytes of a block, or of a column, in the order of rows: rows 0 to 7, rows 8 to 15.
type Halves = [__m256i; 2];

/// Whether this CPU can run these kernels.
pub(super) fn available() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi1") && is_x86_feature_detected!("popcnt")
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
    // SAFETY: the CPU has the features, and rows have 64 bytes a cell, checked above.
    unsafe { encode_exact::<7, 704>(rows, palette, cells, escapes) }
}

/// As [`exact12::encode`].
pub(super) fn encode_exact12(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    assert!(available() && rows.cell_row_bytes() == 64 && cells.len() == rows.n_cells() * 768);
    assert!(escapes.len() >= rows.n_cells() * CELL_WEIGHTS + ESCAPE_ROOM);
    // SAFETY: the CPU has the features, and rows have 64 bytes a cell, checked above.
    unsafe { encode_exact::<15, 768>(rows, palette, cells, escapes) }
}

/// As [`wide::extremes`].
pub(super) fn extremes(src: &[u8]) -> (u16, u16) {
    #[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
unsafe fn transpose_f16(rows: TileRows<'_>, cells: &mut [u8]) {
    let low_half = _mm256_set1_epi32(0xffff);
    // Packing works within lanes: the middle two quarters change places.
    let pack = |a, b| _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b));
    for (cell_idx, cell) in cells.as_chunks_mut::<1024>().0.iter_mut().enumerate() {
        let src = rows.cell(cell_idx);
        for (strip_idx, columns) in cell.as_chunks_mut::<256>().0.iter_mut().enumerate() {
            // SAFETY: the cell has four strips of 16 bytes.
            let strip = unsafe { load_strip(src, rows.stride_bytes(), strip_idx) };
            for ([upper, lower], out) in columns_of(strip).into_iter().zip(columns.as_chunks_mut::<64>().0) {
                let even = pack(_mm256_and_si256(upper, low_half), _mm256_and_si256(lower, low_half));
                let odd = pack(_mm256_srli_epi32::<16>(upper), _mm256_srli_epi32::<16>(lower));
                store(out, [even, odd]);
            }
        }
    }
}

/// Cells of the exact layout of `CELL_BYTES` bytes and a palette of `N`, whose escape is `N`.
///
/// Two blocks at a time: a strip of 8 columns, its low and its high bytes in block order by packs and unpacks, codes by
/// comparison with each entry of the palette, escapes one by one: there are two or three in a block.
///
/// # Safety
/// `rows.cell_row_bytes()` is 64.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
unsafe fn encode_exact<const N: usize, const CELL_BYTES: usize>(
    rows: TileRows<'_>,
    palette: &Palette,
    cells: &mut [u8],
    escapes: &mut [u8],
) -> usize {
    let low_byte = _mm256_set1_epi16(0xff);
    let entries: [__m256i; N] = std::array::from_fn(|code| _mm256_set1_epi8(palette.highs[code] as i8));
    let mut n_escapes = 0;
    for (cell_idx, cell) in cells.as_chunks_mut::<CELL_BYTES>().0.iter_mut().enumerate() {
        let (packed, lows) = cell.split_at_mut(CELL_BYTES - CELL_WEIGHTS);
        let src = rows.cell(cell_idx);
        let mut codes = [[_mm256_setzero_si256(); 2]; 8];
        for (strip_idx, lows) in lows.as_chunks_mut::<128>().0.iter_mut().enumerate() {
            // SAFETY: the cell has four strips of 16 bytes.
            let strip = unsafe { load_strip(src, rows.stride_bytes(), strip_idx) };
            let low = blocks_of(strip.map(|row| row.map(|half| _mm256_and_si256(half, low_byte))));
            store(lows.first_chunk_mut().expect("128 bytes"), low[0]);
            store(lows.last_chunk_mut().expect("128 bytes"), low[1]);
            let highs = blocks_of(strip.map(|row| row.map(|half| _mm256_srli_epi16::<8>(half))));
            for (half, high) in highs.into_iter().enumerate() {
                let code = high.map(|high| look_up(&entries, high));
                codes[2 * strip_idx + half] = code;
                n_escapes += append_escapes::<N>(code, high, &mut escapes[n_escapes..]);
            }
        }
        match N {
            7 => pack3(codes, packed),
            _ => pack4(codes, packed),
        }
    }
    n_escapes
}

/// Appends the high bytes whose code is `N`; returns how many there are.
#[inline]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn append_escapes<const N: usize>(code: Halves, high: Halves, escapes: &mut [u8]) -> usize {
    let [upper, lower] =
        code.map(|code| _mm256_movemask_epi8(_mm256_cmpeq_epi8(code, _mm256_set1_epi8(N as i8))) as u32);
    let mut is_escape = u64::from(lower) << 32 | u64::from(upper);
    if is_escape == 0 {
        return 0;
    }
    let mut highs = [0; 64];
    store(&mut highs, high);
    let n_escapes = is_escape.count_ones() as usize;
    for escape in &mut escapes[..n_escapes] {
        *escape = highs[is_escape.trailing_zeros() as usize & 63];
        is_escape &= is_escape - 1;
    }
    n_escapes
}

/// [`exact11::pack`].
#[inline]
#[target_feature(enable = "avx2")]
fn pack3(codes: [Halves; 8], packed: &mut [u8]) {
    let (top_bits, bit_6, bit_7) = (_mm256_set1_epi8(0xc0u8 as i8), _mm256_set1_epi8(0x40), _mm256_set1_epi8(-0x80));
    // Codes are below 8: shifted by 3 they stay in their byte, further they are cut.
    let two = |low, next| _mm256_or_si256(low, _mm256_slli_epi16::<3>(next));
    let vectors: [[__m256i; 3]; 2] = std::array::from_fn(|half| {
        let [c0, c1, c2, c3, c4, c5, c6, c7] = codes.map(|code| code[half]);
        let a = _mm256_or_si256(two(c0, c1), _mm256_and_si256(_mm256_slli_epi16::<6>(c6), top_bits));
        let b = _mm256_or_si256(two(c2, c3), _mm256_and_si256(_mm256_slli_epi16::<6>(c7), top_bits));
        let sixth = _mm256_and_si256(_mm256_slli_epi16::<4>(c6), bit_6);
        let seventh = _mm256_and_si256(_mm256_slli_epi16::<5>(c7), bit_7);
        [a, b, _mm256_or_si256(two(c4, c5), _mm256_or_si256(sixth, seventh))]
    });
    for (idx, out) in packed.as_chunks_mut::<64>().0.iter_mut().enumerate() {
        store(out, [vectors[0][idx], vectors[1][idx]]);
    }
}

/// [`exact12::pack`].
#[inline]
#[target_feature(enable = "avx2")]
fn pack4(codes: [Halves; 8], packed: &mut [u8]) {
    for (out, pair) in packed.as_chunks_mut::<64>().0.iter_mut().zip(codes.as_chunks::<2>().0) {
        let join = |half: usize| _mm256_or_si256(pair[0][half], _mm256_slli_epi16::<4>(pair[1][half]));
        store(out, [join(0), join(1)]);
    }
}

/// Bytes `16 * strip_idx..` of 16 rows: lane `l` of half `h` of element `r` is 16 bytes of row `8h + 4l + r`.
///
/// # Safety
/// `src` has at least `16 * (strip_idx + 1)` bytes in each of 16 rows of `stride_bytes`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_strip(src: &[u8], stride_bytes: usize, strip_idx: usize) -> [Halves; 4] {
    debug_assert!((TILE_ROWS - 1) * stride_bytes + 16 * (strip_idx + 1) <= src.len());
    // SAFETY: as the caller promises.
    let row = |row: usize| unsafe { _mm_loadu_si128(src.as_ptr().add(row * stride_bytes + 16 * strip_idx).cast()) };
    std::array::from_fn(|r| {
        let half = |first: usize| _mm256_set_m128i(row(first + 4), row(first));
        [half(r), half(8 + r)]
    })
}

/// A strip's four columns of 32-bit elements.
#[inline]
#[target_feature(enable = "avx2")]
fn columns_of(strip: [Halves; 4]) -> [Halves; 4] {
    let halves: [[__m256i; 4]; 2] = std::array::from_fn(|half| {
        let [r0, r1, r2, r3] = strip.map(|row| row[half]);
        let (low01, low23) = (_mm256_unpacklo_epi32(r0, r1), _mm256_unpacklo_epi32(r2, r3));
        let (high01, high23) = (_mm256_unpackhi_epi32(r0, r1), _mm256_unpackhi_epi32(r2, r3));
        [
            _mm256_unpacklo_epi64(low01, low23),
            _mm256_unpackhi_epi64(low01, low23),
            _mm256_unpacklo_epi64(high01, high23),
            _mm256_unpackhi_epi64(high01, high23),
        ]
    });
    std::array::from_fn(|column| [halves[0][column], halves[1][column]])
}

/// A strip's two blocks of bytes, each byte in a 16-bit element before.
#[inline]
#[target_feature(enable = "avx2")]
fn blocks_of(strip: [Halves; 4]) -> [Halves; 2] {
    let halves: [[__m256i; 2]; 2] = std::array::from_fn(|half| {
        let [r0, r1, r2, r3] = strip.map(|row| row[half]);
        // 16-bit elements are now pairs of columns: four of row 0 and four of row 1; the same of rows 2 and 3.
        let (rows01, rows23) = (_mm256_packus_epi16(r0, r1), _mm256_packus_epi16(r2, r3));
        let (rows02, rows13) = (_mm256_unpacklo_epi16(rows01, rows23), _mm256_unpackhi_epi16(rows01, rows23));
        [_mm256_unpacklo_epi16(rows02, rows13), _mm256_unpackhi_epi16(rows02, rows13)]
    });
    std::array::from_fn(|block| [halves[0][block], halves[1][block]])
}

/// Codes of 32 high bytes: `N`, less what brings it to the code of the entry that is equal.
#[inline]
#[target_feature(enable = "avx2")]
fn look_up<const N: usize>(entries: &[__m256i; N], high: __m256i) -> __m256i {
    let mut code = _mm256_set1_epi8(N as i8);
    for (idx, &entry) in entries.iter().enumerate() {
        let difference = _mm256_set1_epi8(idx as i8 - N as i8);
        code = _mm256_add_epi8(code, _mm256_and_si256(_mm256_cmpeq_epi8(high, entry), difference));
    }
    code
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; 64], [upper, lower]: Halves) {
    // SAFETY: 64 bytes are two registers.
    unsafe {
        _mm256_storeu_si256(bytes.as_mut_ptr().cast(), upper);
        _mm256_storeu_si256(bytes.as_mut_ptr().add(32).cast(), lower);
    }
}
