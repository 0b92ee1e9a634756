//! Cells of the exact layouts, in scalar code that defines them: what exact11 and exact12 have in common. A bf16
//! weight is a low byte, kept as it is, and a high byte, which becomes a code. Goes in: whole cells of a tile. Comes
//! out: cells and escapes; and back. Next in the flow: exact11.rs, exact12.rs, escapes.rs.

use crate::cell::{BLOCK_WEIGHTS, CELL_BLOCKS, PaddedCell, TileRows, block_position};

/// Codes of a cell, (block, weight).
pub(crate) type CellCodes = [[u8; BLOCK_WEIGHTS]; CELL_BLOCKS];

/// `(rows, palette, cells, escapes)`: lays out every cell of `rows`; `cells` is (n_cells, cell_bytes). High bytes
/// outside the palette are appended, in order of cell, block and weight, to `escapes`, which has room for all weights
/// and [`ESCAPE_ROOM`] bytes more. Returns how many there were.
pub(crate) type EncodeExact = fn(TileRows<'_>, &Palette, &mut [u8], &mut [u8]) -> usize;

/// `(cells, palette, escapes, row_bytes, dst)`: the reverse, for the first cells of a tile of 16 rows of `row_bytes`
/// bytes; `cells` is (n_cells, cell_bytes). `escapes` has room for all weights of the cells and [`ESCAPE_ROOM`] bytes
/// more, whatever is there. Returns how many escapes the codes asked for.
pub(crate) type DecodeExact = fn(&[u8], &[u8; 16], &[u8], usize, &mut [u8]) -> usize;

/// Room after the last escape, for stores of whole registers.
pub(crate) const ESCAPE_ROOM: usize = 64;
/// Low bytes of a cell; they end it.
const LOW_BYTES: usize = CELL_BLOCKS * BLOCK_WEIGHTS;

/// A palette both ways round.
pub(crate) struct Palette {
    /// High bytes by code, (n,) of them and then anything.
    pub(crate) highs: [u8; 16],
    /// Codes by high byte; `n`, the escape, for those outside the palette.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub(crate) codes: [u8; 256],
}

impl Palette {
    /// Of 7 or 15 high bytes.
    pub(crate) fn new(highs: &[u8]) -> Palette {
        let by_code = std::array::from_fn(|code| highs.get(code).copied().unwrap_or_default());
        Palette { highs: by_code, codes: crate::palette::code_table(highs) }
    }

    /// Codes of high bytes, or indices, in a palette of `N`. Entry by entry, for all weights at once: compilers make vector code of
    /// that, not of a look-up.
    pub(crate) fn look_up<const N: u8>(&self, highs: &[u8; BLOCK_WEIGHTS]) -> [u8; BLOCK_WEIGHTS] {
        let mut codes = [N; BLOCK_WEIGHTS];
        for (entry, &high_of_code) in (0..N).zip(&self.highs) {
            for (code, &high) in codes.iter_mut().zip(highs) {
                *code = if high == high_of_code { entry } else { *code };
            }
        }
        codes
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
    assert_eq!(rows.cell_row_bytes(), 64);
    let (mut n_escapes, mut codes) = (0, [[0; BLOCK_WEIGHTS]; CELL_BLOCKS]);
    let cell_bytes = cells.len() / rows.n_cells().max(1);
    for (cell_idx, cell) in cells.chunks_exact_mut(cell_bytes.max(1)).enumerate() {
        let (packed, lows) = cell.split_at_mut(cell_bytes - LOW_BYTES);
        let src = rows.cell(cell_idx);
        let blocks = codes.iter_mut().zip(lows.as_chunks_mut::<BLOCK_WEIGHTS>().0);
        for (block_idx, (codes, lows)) in blocks.enumerate() {
            let weights = load_block(src, rows.stride_bytes(), block_idx);
            *lows = weights.map(|weight| weight as u8);
            let highs = weights.map(|weight| (weight >> 8) as u8);
            *codes = palette.look_up::<N>(&highs);
            n_escapes += list_escapes::<N>(codes, &highs, &mut escapes[n_escapes..]);
        }
        pack(&codes, packed);
    }
    n_escapes
}

/// Writes the values whose code is `N`, in their order; gives how many.
pub(crate) fn list_escapes<const N: u8>(
    codes: &[u8; BLOCK_WEIGHTS],
    values: &[u8; BLOCK_WEIGHTS],
    escapes: &mut [u8],
) -> usize {
    let (mut n_escapes, mut is_escape) = (0, mask_of(codes, N));
    while is_escape != 0 {
        escapes[n_escapes] = values[is_escape.trailing_zeros() as usize];
        n_escapes += 1;
        is_escape &= is_escape - 1;
    }
    n_escapes
}

/// [`DecodeExact`] with `unpack` for the cell's codes and `N` as the escape, for cells of `CELL_BYTES`.
pub(crate) fn decode_cells<const N: u8, const CELL_BYTES: usize>(
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
    unpack: fn(&[u8]) -> CellCodes,
) -> usize {
    let (mut n_escapes, mut padded) = (0, PaddedCell::new(64));
    for (cell_idx, cell) in cells.as_chunks::<CELL_BYTES>().0.iter().enumerate() {
        let (packed, lows) = split_cell(cell);
        let rows = padded.bytes_mut().try_into().expect("16 rows of 64 bytes");
        n_escapes += decode_cell(&unpack(packed), lows, &palette[..usize::from(N)], &escapes[n_escapes..], rows);
        padded.store(dst, row_bytes, cell_idx);
    }
    n_escapes
}

/// One cell back into `rows`, (16, 32) elements: its `codes`, unpacked, its low bytes, and the high bytes of the tile's
/// escapes, whose code is the palette's length. `escapes` has room for all weights of the cell, whatever is there.
/// Returns how many escapes the codes asked for.
#[inline]
fn decode_cell(
    codes: &CellCodes,
    lows: &[u8; LOW_BYTES],
    palette: &[u8],
    escapes: &[u8],
    rows: &mut [u8; 1024],
) -> usize {
    let mut n_escapes = 0;
    for (block_idx, (codes, lows)) in codes.iter().zip(lows.as_chunks::<BLOCK_WEIGHTS>().0).enumerate() {
        // Entry by entry, for all weights at once: compilers make vector code of that, not of a look-up.
        let mut highs = [0; BLOCK_WEIGHTS];
        for (entry, &high_of_code) in (0u8..).zip(palette) {
            for (high, &code) in highs.iter_mut().zip(codes) {
                *high = if code == entry { high_of_code } else { *high };
            }
        }
        let mut is_escape = mask_of(codes, palette.len() as u8);
        while is_escape != 0 {
            highs[is_escape.trailing_zeros() as usize] = escapes[n_escapes];
            n_escapes += 1;
            is_escape &= is_escape - 1;
        }
        let mut weights = [0; BLOCK_WEIGHTS];
        for ((weight, low), high) in weights.iter_mut().zip(lows).zip(highs) {
            *weight = u16::from_le_bytes([*low, high]);
        }
        store_block(&weights, block_idx, rows);
    }
    n_escapes
}

/// Bit `i` is set where code `i` is the escape.
pub(crate) fn mask_of(codes: &[u8; BLOCK_WEIGHTS], escape: u8) -> u64 {
    let is_escape = codes.map(|code| u8::from(code == escape));
    // Eight bytes of 0 or 1 become eight bits in the top byte of a product.
    let eights = is_escape.as_chunks::<8>().0.iter().map(|&eight| u64::from_le_bytes(eight));
    eights
        .enumerate()
        .fold(0, |mask, (idx, eight)| mask | (eight.wrapping_mul(0x0102_0408_1020_4080) >> 56) << (8 * idx))
}

/// Weights of a block, in its order, of a cell whose rows are `stride_bytes` apart.
fn load_block(src: &[u8], stride_bytes: usize, block_idx: usize) -> [u16; BLOCK_WEIGHTS] {
    let mut weights = [0; BLOCK_WEIGHTS];
    for (idx, pair) in weights.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        let (row, col) = block_position(block_idx, 2 * idx);
        let [a, b, c, d] = *src[row * stride_bytes + 2 * col..].first_chunk().expect("inside the cell");
        *pair = [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])];
    }
    weights
}

/// The reverse of [`load_block`]; rows are 64 bytes apart.
fn store_block(weights: &[u16; BLOCK_WEIGHTS], block_idx: usize, rows: &mut [u8; 1024]) {
    for (idx, pair) in weights.as_chunks::<2>().0.iter().enumerate() {
        let (row, col) = block_position(block_idx, 2 * idx);
        let ([a, b], [c, d]) = (pair[0].to_le_bytes(), pair[1].to_le_bytes());
        rows[row * 64 + 2 * col..][..4].copy_from_slice(&[a, b, c, d]);
    }
}

/// Codes and low bytes of a cell.
fn split_cell(cell: &[u8]) -> (&[u8], &[u8; LOW_BYTES]) {
    let (codes, lows) = cell.split_last_chunk().expect("a cell has low bytes");
    (codes, lows)
}
