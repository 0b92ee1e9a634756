//! Cells of bf16, f16 and f32 layouts, in scalar code that defines them. Goes in: whole cells of a tile. Comes out:
//! their bytes; and back. Next in the flow: group.rs.

use crate::cell::{CELL_COLS, TILE_ROWS, TileRows};

/// `(rows, cells)`: lays out every cell of `rows`; `cells` is (n_cells, cell_bytes).
pub(crate) type EncodePlain = fn(TileRows<'_>, &mut [u8]);

/// bf16: pair `p` (columns 2p, 2p + 1) is 64 bytes, two elements for each row: a 32-bit lane is even | odd << 16.
pub(crate) fn encode_bf16(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<1024>().0.iter_mut().enumerate() {
        for row in 0..TILE_ROWS {
            for (pair_idx, pair) in rows.row::<64>(cell_idx, row).as_chunks::<4>().0.iter().enumerate() {
                cell[pair_idx * 64 + row * 4..][..4].copy_from_slice(pair);
            }
        }
    }
}

/// The reverse of [`encode_bf16`] for one cell: `rows` is (16, 32) elements.
pub(crate) fn decode_bf16(cell: &[u8; 1024], rows: &mut [u8; 1024]) {
    for row in 0..TILE_ROWS {
        for pair_idx in 0..CELL_COLS / 2 {
            rows[row * 64 + pair_idx * 4..][..4].copy_from_slice(&cell[pair_idx * 64 + row * 4..][..4]);
        }
    }
}

/// f16: column `k` is 16 elements, one for each row.
pub(crate) fn encode_f16(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<1024>().0.iter_mut().enumerate() {
        for row in 0..TILE_ROWS {
            for (col, element) in rows.row::<64>(cell_idx, row).as_chunks::<2>().0.iter().enumerate() {
                cell[col * 32 + row * 2..][..2].copy_from_slice(element);
            }
        }
    }
}

/// The reverse of [`encode_f16`] for one cell.
pub(crate) fn decode_f16(cell: &[u8; 1024], rows: &mut [u8; 1024]) {
    for row in 0..TILE_ROWS {
        for col in 0..CELL_COLS {
            rows[row * 64 + col * 2..][..2].copy_from_slice(&cell[col * 32 + row * 2..][..2]);
        }
    }
}

/// f32: column `k` is 16 elements, one for each row.
pub(crate) fn encode_f32(rows: TileRows<'_>, cells: &mut [u8]) {
    for (cell_idx, cell) in cells.as_chunks_mut::<2048>().0.iter_mut().enumerate() {
        for row in 0..TILE_ROWS {
            for (col, element) in rows.row::<128>(cell_idx, row).as_chunks::<4>().0.iter().enumerate() {
                cell[col * 64 + row * 4..][..4].copy_from_slice(element);
            }
        }
    }
}

/// The reverse of [`encode_f32`] for one cell.
pub(crate) fn decode_f32(cell: &[u8; 2048], rows: &mut [u8; 2048]) {
    for row in 0..TILE_ROWS {
        for col in 0..CELL_COLS {
            rows[row * 128 + col * 4..][..4].copy_from_slice(&cell[col * 64 + row * 4..][..4]);
        }
    }
}
