//! Codes of 3 bits: exact11. Eight blocks of codes go into three vectors A, B, C of 64 bytes such that no code needs
//! more than one shift to be read, except the last two blocks', which need two.

use crate::cell::{BLOCK_WEIGHTS, CELL_BLOCKS, TileRows};
use crate::exact::{CellCodes, Palette, decode_cells, encode_cells};
use crate::index::{decode_codes, encode_codes};

/// The code of escapes.
pub(crate) const ESCAPE: u8 = 7;

/// [`crate::exact::EncodeExact`].
pub(crate) fn encode(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    encode_cells::<ESCAPE>(rows, palette, cells, escapes, pack)
}

/// Byte `i` of A: bits 0-2 block 0, 3-5 block 1, 6-7 the low two bits of block 6. B: blocks 2, 3 and the low two bits
/// of block 7. C: blocks 4, 5, bit 6 is bit 2 of block 6, bit 7 is bit 2 of block 7.
pub(crate) fn pack(codes: &CellCodes, packed: &mut [u8]) {
    let [a, b, c] = packed.as_chunks_mut::<BLOCK_WEIGHTS>().0 else { panic!("three vectors") };
    for i in 0..BLOCK_WEIGHTS {
        let code = |block_idx: usize| codes[block_idx][i];
        a[i] = code(0) | code(1) << 3 | code(6) << 6;
        b[i] = code(2) | code(3) << 3 | code(7) << 6;
        c[i] = code(4) | code(5) << 3 | (code(6) >> 2) << 6 | (code(7) >> 2) << 7;
    }
}

/// [`crate::exact::DecodeExact`].
#[inline]
pub(crate) fn decode(cells: &[u8], palette: &[u8; 16], escapes: &[u8], row_bytes: usize, dst: &mut [u8]) -> usize {
    decode_cells::<ESCAPE, 704>(cells, palette, escapes, row_bytes, dst, unpack)
}

/// The same codes, of indices: index3, see [`crate::exact::EncodeExact`].
pub(crate) fn encode_indices(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    encode_codes::<ESCAPE>(rows, palette, cells, escapes, pack)
}

/// The reverse, see [`crate::exact::DecodeExact`].
pub(crate) fn decode_indices(
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
) -> usize {
    decode_codes::<ESCAPE, 192>(cells, palette, escapes, row_bytes, dst, unpack)
}

/// The reverse of [`pack`].
#[inline]
fn unpack(packed: &[u8]) -> CellCodes {
    let [a, b, c] = packed.as_chunks::<BLOCK_WEIGHTS>().0 else { panic!("three vectors") };
    let mut codes = [[0; BLOCK_WEIGHTS]; CELL_BLOCKS];
    for i in 0..BLOCK_WEIGHTS {
        codes[0][i] = a[i] & 7;
        codes[1][i] = a[i] >> 3 & 7;
        codes[2][i] = b[i] & 7;
        codes[3][i] = b[i] >> 3 & 7;
        codes[4][i] = c[i] & 7;
        codes[5][i] = c[i] >> 3 & 7;
        codes[6][i] = a[i] >> 6 | c[i] >> 4 & 4;
        codes[7][i] = b[i] >> 6 | c[i] >> 5 & 4;
    }
    codes
}
