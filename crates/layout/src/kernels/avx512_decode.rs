//! Decoding of exact cells with AVX-512 (VBMI and VBMI2), the reverse of avx512.rs.
//!
//! ```text
//! for each strip of 8 columns, two blocks:
//!     high = palette[code], and where the code is the escape, the next escapes, by expansion
//!     weights = bytes of low and high unpacked: four registers, each a pair of columns of 16 rows
//!     rows of the strip = those, transposed by 32-bit elements: lane l of register r is 16 bytes of row 4l + r
//! rows of the cell = four strips, transposed by lanes; each row is one store of 64 bytes
//! ```

use super::avx512::{available, columns_of, load, store};
use crate::cell::{BLOCK_WEIGHTS, CELL_WEIGHTS, TILE_ROWS};
use crate::exact::ESCAPE_ROOM;
use crate::header::READ_SLACK;
use crate::{exact11, exact12};
use std::arch::x86_64::*;

/// Bytes of a cell's row.
const ROW: usize = 64;

/// As [`exact11::decode`].
pub(super) fn decode_exact11(
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
) -> usize {
    let n_cells = check::<704>(cells, escapes, row_bytes, dst);
    // SAFETY: the CPU has the features, all rows and escapes are there, checked on the line above.
    unsafe { decode_exact::<{ exact11::ESCAPE }, 704>(n_cells, cells, palette, escapes, row_bytes, dst) }
}

/// As [`exact12::decode`].
pub(super) fn decode_exact12(
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
) -> usize {
    let n_cells = check::<768>(cells, escapes, row_bytes, dst);
    // SAFETY: the CPU has the features, all rows and escapes are there, checked on the line above.
    unsafe { decode_exact::<{ exact12::ESCAPE }, 768>(n_cells, cells, palette, escapes, row_bytes, dst) }
}

/// Number of cells, for which there is room in rows, and with all weights in the escapes.
fn check<const CELL_BYTES: usize>(cells: &[u8], escapes: &[u8], row_bytes: usize, dst: &[u8]) -> usize {
    let n_cells = cells.len() / CELL_BYTES;
    assert!(available() && cells.len().is_multiple_of(CELL_BYTES));
    assert!(n_cells == 0 || (dst.len() / TILE_ROWS >= row_bytes && row_bytes / ROW >= n_cells));
    assert!(escapes.len() >= n_cells * CELL_WEIGHTS + ESCAPE_ROOM);
    n_cells
}

/// # Safety
/// `dst` has 16 rows of `row_bytes`, which hold `n_cells` cells; `escapes` has a byte for each weight, and 64 more.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt")]
unsafe fn decode_exact<const N: u8, const CELL_BYTES: usize>(
    n_cells: usize,
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
) -> usize {
    // SAFETY: 16 bytes.
    let palette = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(palette.as_ptr().cast()) });
    let mut n_escapes = 0;
    for (cell_idx, cell) in cells.as_chunks::<CELL_BYTES>().0.iter().take(n_cells).enumerate() {
        let (packed, lows) = cell.split_at(CELL_BYTES - CELL_WEIGHTS);
        let lows = lows.as_chunks::<BLOCK_WEIGHTS>().0;
        let codes = if N == exact11::ESCAPE { unpack3(packed) } else { unpack4(packed) };
        let mut strips = [[_mm512_setzero_si512(); 4]; 4];
        for (strip_idx, strip) in strips.iter_mut().enumerate() {
            let mut pairs = [_mm512_setzero_si512(); 4];
            for half in 0..2 {
                let (code, low) = (codes[2 * strip_idx + half], load(&lows[2 * strip_idx + half]));
                let is_escape = _mm512_cmpeq_epi8_mask(code, _mm512_set1_epi8(N as i8));
                // SAFETY: at most as many escapes as weights so far, and 64 bytes more are there.
                let next = unsafe { _mm512_loadu_si512(escapes.as_ptr().add(n_escapes).cast()) };
                let high = _mm512_mask_expand_epi8(_mm512_shuffle_epi8(palette, code), is_escape, next);
                n_escapes += is_escape.count_ones() as usize;
                pairs[2 * half] = _mm512_unpacklo_epi8(low, high);
                pairs[2 * half + 1] = _mm512_unpackhi_epi8(low, high);
            }
            *strip = columns_of(pairs);
        }
        let [s0, s1, s2, s3] = strips;
        let by_register = s0.into_iter().zip(s1).zip(s2.into_iter().zip(s3));
        for (r, ((a, b), (c, d))) in by_register.enumerate() {
            let rows = lanes_of([a, b, c, d]);
            for (lane, row) in rows.into_iter().enumerate() {
                // SAFETY: a cell of 64 bytes in one of 16 rows, as the caller promises.
                unsafe {
                    let to = dst.as_mut_ptr().add((4 * lane + r) * row_bytes + cell_idx * ROW);
                    _mm512_storeu_si512(to.cast(), row);
                }
            }
        }
    }
    n_escapes
}

/// The transpose of 4 x 4 lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn lanes_of([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    let (ab01, ab23) = (_mm512_shuffle_i32x4::<0x44>(a, b), _mm512_shuffle_i32x4::<0xee>(a, b));
    let (cd01, cd23) = (_mm512_shuffle_i32x4::<0x44>(c, d), _mm512_shuffle_i32x4::<0xee>(c, d));
    [
        _mm512_shuffle_i32x4::<0x88>(ab01, cd01),
        _mm512_shuffle_i32x4::<0xdd>(ab01, cd01),
        _mm512_shuffle_i32x4::<0x88>(ab23, cd23),
        _mm512_shuffle_i32x4::<0xdd>(ab23, cd23),
    ]
}

/// Codes of 3 bits, by block: the reverse of `exact11::pack`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack3(packed: &[u8]) -> [__m512i; 8] {
    let [a, b, c] = packed.as_chunks::<64>().0 else { unreachable!("three vectors") };
    let [a, b, c] = [load(a), load(b), load(c)];
    let (three, two, bit) = (_mm512_set1_epi8(7), _mm512_set1_epi8(3), _mm512_set1_epi8(4));
    let low = |vector| _mm512_and_si512(vector, three);
    let next = |vector| _mm512_and_si512(_mm512_srli_epi16::<3>(vector), three);
    let top = |vector| _mm512_and_si512(_mm512_srli_epi16::<6>(vector), two);
    let sixth = _mm512_or_si512(top(a), _mm512_and_si512(_mm512_srli_epi16::<4>(c), bit));
    let seventh = _mm512_or_si512(top(b), _mm512_and_si512(_mm512_srli_epi16::<5>(c), bit));
    [low(a), next(a), low(b), next(b), low(c), next(c), sixth, seventh]
}

/// Codes of 4 bits, by block: the reverse of `exact12::pack`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack4(packed: &[u8]) -> [__m512i; 8] {
    let nibble = _mm512_set1_epi8(15);
    std::array::from_fn(|block_idx| {
        let vector = load(&packed.as_chunks::<64>().0[block_idx / 2]);
        match block_idx % 2 {
            0 => _mm512_and_si512(vector, nibble),
            _ => _mm512_and_si512(_mm512_srli_epi16::<4>(vector), nibble),
        }
    })
}

/// As [`crate::escapes::read_nibbles`].
pub(super) fn read_nibbles(nibbles: &[u8], raw: &[u8], second: &[u8], highs: &mut [u8]) -> Option<usize> {
    assert!(available() && nibbles.len() >= READ_SLACK && raw.len() >= READ_SLACK);
    let mut palette = [0; 16];
    palette[..15].copy_from_slice(&second[..15]);
    assert!(highs.len() >= 2 * nibbles.len());
    // SAFETY: the CPU has the features, checked above.
    unsafe { expand_nibbles(nibbles, raw, &palette, highs) }
}

/// 64 nibbles at a time. `nibbles` and `raw` end with 64 bytes of slack.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx512vbmi2,popcnt")]
fn expand_nibbles(nibbles: &[u8], raw: &[u8], palette: &[u8; 16], highs: &mut [u8]) -> Option<usize> {
    let (n_bytes, n_raw) = (nibbles.len() - READ_SLACK, raw.len() - READ_SLACK);
    // SAFETY: 16 bytes.
    let palette = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(palette.as_ptr().cast()) });
    let mut taken = 0;
    for (step, highs) in highs.as_chunks_mut::<64>().0.iter_mut().take(n_bytes.div_ceil(32)).enumerate() {
        let bytes: &[u8; 32] = nibbles[32 * step..].first_chunk()?;
        // SAFETY: 32 bytes.
        let pairs = _mm512_cvtepu8_epi16(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) });
        // A byte becomes two: its low nibble and its high one.
        let both = _mm512_or_si512(pairs, _mm512_slli_epi16::<4>(pairs));
        let codes = _mm512_and_si512(both, _mm512_set1_epi8(15));
        let n_left = 2 * (n_bytes - 32 * step);
        let valid = if n_left >= 64 { u64::MAX } else { (1 << n_left) - 1 };
        let is_raw = _mm512_cmpeq_epi8_mask(codes, _mm512_set1_epi8(15)) & valid;
        let next = load(raw.get(taken..)?.first_chunk()?);
        store(highs, _mm512_mask_expand_epi8(_mm512_shuffle_epi8(palette, codes), is_raw, next));
        taken += is_raw.count_ones() as usize;
        if taken > n_raw {
            return None;
        }
    }
    (taken == n_raw).then_some(2 * n_bytes)
}
