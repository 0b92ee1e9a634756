//! Cells of the exact layouts, in scalar code that defines them: what exact11 and exact12 have in common. A bf16 weight
//! is a low byte, kept as it is, and a high byte, which becomes a code. Goes in: whole cells of a tile. Comes out: cells
//! and escapes; and back. Next in the flow: exact11.rs, exact12.rs, escapes.rs.

use crate::cell::{BLOCK_WEIGHTS, CELL_BLOCKS, TileRows, block_position};
use crate::escapes::Escapes;
use crate::{Error, Result};

/// Codes of a cell, (block, weight).
pub(crate) type CellCodes = [[u8; BLOCK_WEIGHTS]; CELL_BLOCKS];

/// `(rows, palette, cells, escapes)`: lays out every cell of `rows`; `cells` is (n_cells, cell_bytes). High bytes
/// outside the palette are appended, in order of cell, block and weight, to `escapes`, which has room for all weights
/// and [`ESCAPE_ROOM`] bytes more. Returns how many there were.
pub(crate) type EncodeExact = fn(TileRows<'_>, &Palette, &mut [u8], &mut [u8]) -> usize;

/// Room after the last escape, for stores of whole registers.
pub(crate) const ESCAPE_ROOM: usize = 64;
/// Low bytes of a cell; they end it.
const LOW_BYTES: usize = CELL_BLOCKS * BLOCK_WEIGHTS;

/// A palette both ways round.
pub(crate) struct Palette {
    /// High bytes by code, (n,) of them and then anything.
    pub(crate) highs: [u8; 16],
    /// Codes by high byte; `n`, the escape, for those outside the palette.
    pub(crate) codes: [u8; 256],
}

impl Palette {
    /// Of 7 or 15 high bytes.
    pub(crate) fn new(highs: &[u8]) -> Palette {
        let by_code = std::array::from_fn(|code| highs.get(code).copied().unwrap_or_default());
        Palette { highs: by_code, codes: crate::palette::code_table(highs) }
    }
}

/// [`EncodeExact`] with `pack` for the cell's codes and `N` as the escape.
pub(crate) fn encode_cells<const N: u8>(
    rows: TileRows<'_>,
    palette: &Palette,
    cells: &mut [u8],
    escapes: &mut [u8],
    pack: fn(&CellCodes, &mut [u8]),
) -> usize {
    let (mut n_escapes, mut codes) = (0, [[0; BLOCK_WEIGHTS]; CELL_BLOCKS]);
    let cell_bytes = cells.len() / rows.n_cells().max(1);
    for (cell_idx, cell) in cells.chunks_exact_mut(cell_bytes.max(1)).enumerate() {
        let (packed, lows) = cell.split_at_mut(cell_bytes - LOW_BYTES);
        let src = rows.cell(cell_idx);
        for block_idx in 0..CELL_BLOCKS {
            for idx in 0..BLOCK_WEIGHTS {
                let (row, col) = block_position(block_idx, idx);
                let at = row * rows.stride_bytes() + 2 * col;
                let (low, high) = (src[at], src[at + 1]);
                let code = palette.codes[usize::from(high)];
                lows[block_idx * BLOCK_WEIGHTS + idx] = low;
                codes[block_idx][idx] = code;
                // Written always, kept where it is an escape.
                escapes[n_escapes] = high;
                n_escapes += usize::from(code == N);
            }
        }
        pack(&codes, packed);
    }
    n_escapes
}

/// One cell back into `rows`, (16, 32) elements: its `codes`, unpacked, its low bytes, and the tile's escapes, whose
/// code is the palette's length.
pub(crate) fn decode_cell(
    codes: &CellCodes,
    lows: &[u8; LOW_BYTES],
    palette: &[u8],
    escapes: &mut Escapes<'_>,
    rows: &mut [u8; 1024],
) -> Result<()> {
    let escape = palette.len() as u8;
    let mut highs_by_code = [0u8; 16];
    highs_by_code[..palette.len()].copy_from_slice(palette);
    for (block_idx, (codes, lows)) in codes.iter().zip(lows.as_chunks::<BLOCK_WEIGHTS>().0).enumerate() {
        let mut highs = codes.map(|code| highs_by_code[usize::from(code & 15)]);
        let n_escapes = codes.iter().fold(0u8, |n, &code| n + u8::from(code == escape));
        if n_escapes != 0 {
            for (high, _) in highs.iter_mut().zip(codes).filter(|&(_, &code)| code == escape) {
                *high = escapes.next().ok_or(Error::Corrupt("fewer escapes than codes for them"))?;
            }
        }
        for idx in 0..BLOCK_WEIGHTS {
            let (row, col) = block_position(block_idx, idx);
            rows[row * 64 + 2 * col] = lows[idx];
            rows[row * 64 + 2 * col + 1] = highs[idx];
        }
    }
    Ok(())
}

/// Codes and low bytes of a cell.
pub(crate) fn split_cell(cell: &[u8]) -> (&[u8], &[u8; LOW_BYTES]) {
    let (codes, lows) = cell.split_last_chunk().expect("a cell has low bytes");
    (codes, lows)
}
