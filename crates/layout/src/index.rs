//! Cells of the index layouts, in scalar code that defines them: i8 indices of a grid, whole (index8), in 4 bits (int4), or
//! as codes of 3 or 4 bits (index3, index4) whose palette has the group's commonest indices. Goes in: whole cells of a tile. Comes out:
//! cells and escapes; and back. Codes are packed as those of exact11 and exact12; there are no low bytes. Next in the
//! flow: escapes.rs.

use crate::cell::{BLOCK_WEIGHTS, CELL_BLOCKS, CELL_COLS, PaddedCell, TileRows, block_position};
use crate::exact::{CellCodes, Palette, list_escapes, mask_of};
use crate::exact12;

/// Indices of a cell, in the order of blocks.
type Blocks = [[u8; BLOCK_WEIGHTS]; CELL_BLOCKS];

/// index8, see [`crate::plain::EncodePlain`]: blocks one after the other.
pub(crate) fn encode8(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<512>().0.iter_mut().enumerate() {
        cell.copy_from_slice(load(rows, cell_idx).as_flattened());
    }
}

/// The reverse of [`encode8`] for one cell: `rows` is (16, 32) indices.
pub(crate) fn decode8(cell: &[u8; 512], rows: &mut [u8; 512]) {
    let (blocks, _) = cell.as_chunks();
    store(blocks.try_into().expect("eight blocks"), rows);
}

/// int4, see [`crate::plain::EncodePlain`]: indices, which are from -8 to 7, plus 8, packed as codes of exact12.
pub(crate) fn encode4(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<256>().0.iter_mut().enumerate() {
        let codes = load(rows, cell_idx).map(|indices| indices.map(|index| index.wrapping_add(8) & 15));
        exact12::pack(&codes, cell);
    }
}

/// The reverse of [`encode4`] for one cell.
pub(crate) fn decode4(cell: &[u8; 256], rows: &mut [u8; 512]) {
    let blocks = exact12::unpack(cell).map(|codes| codes.map(|code| code.wrapping_sub(8)));
    store(&blocks, rows);
}

/// index3 and index4, see [`crate::exact::EncodeExact`]: `pack` for the cell's codes and `N` as the escape.
pub(crate) fn encode_codes<const N: u8>(
    rows: TileRows<'_>,
    palette: &Palette,
    cells: &mut [u8],
    escapes: &mut [u8],
    pack: fn(&CellCodes, &mut [u8]),
) -> usize {
    let mut n_escapes = 0;
    let cell_bytes = cells.len() / rows.n_cells().max(1);
    for (cell_idx, cell) in cells.chunks_exact_mut(cell_bytes.max(1)).enumerate() {
        let blocks = load(rows, cell_idx);
        let codes = blocks.map(|indices| palette.look_up::<N>(&indices));
        for (indices, codes) in blocks.iter().zip(&codes) {
            n_escapes += list_escapes::<N>(codes, indices, &mut escapes[n_escapes..]);
        }
        pack(&codes, cell);
    }
    n_escapes
}

/// The reverse of [`encode_codes`], see [`crate::exact::DecodeExact`], for cells of `CELL_BYTES`.
pub(crate) fn decode_codes<const N: u8, const CELL_BYTES: usize>(
    cells: &[u8],
    palette: &[u8; 16],
    escapes: &[u8],
    row_bytes: usize,
    dst: &mut [u8],
    unpack: fn(&[u8]) -> CellCodes,
) -> usize {
    let (mut n_escapes, mut padded) = (0, PaddedCell::new(CELL_COLS));
    for (cell_idx, cell) in cells.as_chunks::<CELL_BYTES>().0.iter().enumerate() {
        let mut blocks = unpack(cell);
        for codes in &mut blocks {
            let mut is_escape = mask_of(codes, N);
            *codes = codes.map(|code| palette[usize::from(code & 15)]);
            while is_escape != 0 {
                codes[is_escape.trailing_zeros() as usize] = escapes[n_escapes];
                n_escapes += 1;
                is_escape &= is_escape - 1;
            }
        }
        store(&blocks, padded.bytes_mut().try_into().expect("16 rows of 32 bytes"));
        padded.store(dst, row_bytes, cell_idx);
    }
    n_escapes
}

fn load(rows: TileRows<'_>, cell_idx: usize) -> Blocks {
    let (src, stride_bytes) = (rows.cell(cell_idx), rows.stride_bytes());
    let mut blocks = [[0; BLOCK_WEIGHTS]; CELL_BLOCKS];
    for (block_idx, block) in blocks.iter_mut().enumerate() {
        for (idx, pair) in block.as_chunks_mut::<2>().0.iter_mut().enumerate() {
            let (row, col) = block_position(block_idx, 2 * idx);
            *pair = *src[row * stride_bytes + col..].first_chunk().expect("inside the cell");
        }
    }
    blocks
}

/// The reverse of [`load`]; rows are 32 bytes apart.
fn store(blocks: &Blocks, rows: &mut [u8; 512]) {
    for (block_idx, block) in blocks.iter().enumerate() {
        for (idx, pair) in block.as_chunks::<2>().0.iter().enumerate() {
            let (row, col) = block_position(block_idx, 2 * idx);
            rows[row * CELL_COLS + col..][..2].copy_from_slice(pair);
        }
    }
}
