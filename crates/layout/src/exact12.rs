//! Codes of 4 bits: exact12. Vector `q` of 64 bytes has block 2q in its low and block 2q + 1 in its high nibbles.

use crate::cell::{BLOCK_WEIGHTS, CELL_BLOCKS, TileRows};
use crate::exact::{CellCodes, Palette, decode_cells, encode_cells};
use crate::index::{decode_codes, encode_codes};

/// The code of escapes.
pub(crate) const ESCAPE: u8 = 15;

/// [`crate::exact::EncodeExact`].
pub(crate) fn encode(rows: TileRows<'_>, palette: &Palette, cells: &mut [u8], escapes: &mut [u8]) -> usize {
    encode_cells::<ESCAPE>(rows, palette, cells, escapes, pack)
}

/// Vector `q`: low nibbles block 2q, high nibbles block 2q + 1.
pub(crate) fn pack(codes: &CellCodes, packed: &mut [u8]) {
    for (vector, pair) in packed.as_chunks_mut::<BLOCK_WEIGHTS>().0.iter_mut().zip(codes.as_chunks::<2>().0) {
        for i in 0..BLOCK_WEIGHTS {
            vector[i] = pair[0][i] | pair[1][i] << 4;
        }
    }
}

/// [`crate::exact::DecodeExact`].
#[inline]
pub(crate) fn decode(cells: &[u8], palette: &[u8; 16], escapes: &[u8], row_bytes: usize, dst: &mut [u8]) -> usize {
    decode_cells::<ESCAPE, 768>(cells, palette, escapes, row_bytes, dst, unpack)
}

/// The same codes, of indices: index4, see [`crate::exact::EncodeExact`].
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
    decode_codes::<ESCAPE, 256>(cells, palette, escapes, row_bytes, dst, unpack)
}

/// The reverse of [`pack`].
#[inline]
pub(crate) fn unpack(packed: &[u8]) -> CellCodes {
    let mut codes = [[0; BLOCK_WEIGHTS]; CELL_BLOCKS];
    for (vector, pair) in packed.as_chunks::<BLOCK_WEIGHTS>().0.iter().zip(codes.as_chunks_mut::<2>().0) {
        for i in 0..BLOCK_WEIGHTS {
            pair[0][i] = vector[i] & 15;
            pair[1][i] = vector[i] >> 4;
        }
    }
    codes
}
