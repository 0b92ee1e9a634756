//! Broken groups: whatever their bytes, reading them ends in values or in an error.

use super::{Random, normal_weights, random_weights};
use crate::header::cells_offset;
use crate::{AlignedBytes, Error, GroupView, Layout, Matrix, decode_group, encode_group};
use std::sync::Arc;

const N_ROWS: usize = 40;
const COLS: usize = 70;

/// A group of each layout with escapes of each kind.
fn groups() -> Vec<(Layout, Vec<u8>)> {
    let group = |layout: Layout| {
        let mut random = Random(5);
        let mut src = normal_weights(layout, N_ROWS * COLS, &mut random);
        let odd = random_weights(layout, 300, &mut random);
        src[1000..1000 + odd.len()].copy_from_slice(&odd);
        let mut group = Vec::new();
        encode_group(layout, COLS, N_ROWS, &src, &mut group).unwrap();
        (layout, group)
    };
    Layout::all().map(group).collect()
}

/// Every slice of a group that a multiplication may read.
fn touch(layout: Layout, group: &[u8]) -> Result<usize, Error> {
    let view = GroupView::parse(layout, COLS, group)?;
    let len = |tile_idx| {
        let tile = view.tile(tile_idx);
        tile.cells.len() + tile.nibbles.len() + tile.raw.len()
    };
    Ok((0..view.n_tiles()).map(len).sum())
}

#[test]
fn no_byte_can_panic() {
    for (layout, group) in groups() {
        let mut back = vec![0; N_ROWS * COLS * layout.element_bytes()];
        let mut changed = group.clone();
        for at in 0..group.len() {
            let values = (0..8).map(|bit| group[at] ^ 1 << bit).chain([0x00, 0xff, group[at].wrapping_add(1)]);
            for value in values {
                changed[at] = value;
                let _ = touch(layout, &changed);
                let _ = decode_group(layout, COLS, N_ROWS, &changed, &mut back);
            }
            changed[at] = group[at];
        }
    }
}

/// Of the head, only palettes and the flag can change without being noticed.
#[test]
fn a_changed_head_is_corrupt() {
    for (layout, group) in groups() {
        let table = if layout.has_palette() { 64..64 + 4 * 8 } else { 64..64 };
        let unused = if layout.has_palette() { vec![] } else { (0..24).chain(28..36).collect() };
        let second_palette = if layout == Layout::Index4 { 45..60 } else { 0..0 };
        let checked = (24..28).chain(28..36).chain(36..40).chain(41..64).chain(table).chain(unused);
        let checked = checked.filter(|at| !second_palette.contains(at));
        for at in checked {
            for bit in 0..8 {
                let mut changed = group.clone();
                changed[at] ^= 1 << bit;
                let mut back = vec![0; N_ROWS * COLS * layout.element_bytes()];
                let found = decode_group(layout, COLS, N_ROWS, &changed, &mut back);
                let is_error = matches!(found, Err(Error::Corrupt(_) | Error::Truncated { .. }));
                assert!(is_error, "{layout:?} byte {at} bit {bit}: {found:?}");
            }
        }
    }
}

#[test]
fn every_truncation_is_truncated() {
    for (layout, group) in groups() {
        for len in 0..group.len() {
            let found = GroupView::parse(layout, COLS, &group[..len]).map(|_| ());
            let is_right =
                matches!(found, Err(Error::Truncated { expected, actual }) if expected > len && actual == len);
            assert!(is_right, "{layout:?} {len}: {found:?}");
        }
        let longer = [&group[..], &[0; 64]].concat();
        assert!(matches!(touch(layout, &longer), Err(Error::Corrupt(_))), "{layout:?}");
    }
}

#[test]
fn groups_of_other_shapes() {
    for (layout, group) in groups() {
        for (cols, n_rows) in [(COLS - 38, N_ROWS), (COLS + 27, N_ROWS), (COLS, N_ROWS - 8), (COLS, N_ROWS + 9)] {
            let mut back = vec![0; n_rows * cols * layout.element_bytes()];
            let found = decode_group(layout, cols, n_rows, &group, &mut back);
            assert!(matches!(found, Err(Error::Corrupt(_) | Error::Truncated { .. })), "{layout:?} {cols} {n_rows}");
        }
        for other in Layout::all().filter(|&other| other != layout) {
            let found = touch(other, &group);
            assert!(matches!(found, Err(Error::Corrupt(_) | Error::Truncated { .. })), "{layout:?} as {other:?}");
        }
    }
}

/// Codes that ask for more escapes than there are, and escapes that no code asks for.
#[test]
fn escapes_that_do_not_fit() {
    for (layout, group) in groups().into_iter().filter(|(layout, _)| layout.has_palette()) {
        let cells_at = cells_offset(layout, N_ROWS.div_ceil(16));
        let len = COLS.div_ceil(32) * layout.cell_bytes();
        for value in [0x00, 0xff] {
            let mut changed = group.clone();
            changed[cells_at..cells_at + len].fill(value);
            let mut back = vec![0; N_ROWS * COLS * layout.element_bytes()];
            let found = decode_group(layout, COLS, N_ROWS, &changed, &mut back);
            assert!(matches!(found, Err(Error::Corrupt(_))), "{layout:?} {value:x}: {found:?}");
        }
    }
}

#[test]
fn matrices_are_checked() {
    let (layout, group) = groups().pop().unwrap();
    let len = group.len();
    let mut memory = AlignedBytes::zeroed(2 * len + 64).unwrap();
    memory[64..64 + len].copy_from_slice(&group);
    memory[64 + len + 1..][..len - 1].copy_from_slice(&group[..len - 1]);
    let memory = Arc::new(memory);
    let all = |rows, groups| Matrix::new(layout, rows, COLS, memory.clone(), groups).map(|_| ());
    let new = |rows, begin, end| all(rows, std::iter::once(begin..end).collect());
    let good = 64..64 + len;
    assert_eq!(new(N_ROWS, 64, 64 + len), Ok(()));
    let is_argument = |found| matches!(found, Err(Error::InvalidArgument(_)));
    assert!(is_argument(all(N_ROWS, vec![])));
    assert!(is_argument(all(N_ROWS, vec![good.clone(), good])));
    assert!(is_argument(new(N_ROWS, 64 + len, 65 + 2 * len)));
    assert!(is_argument(new(N_ROWS, 65 + len, 64 + 2 * len)));
    assert!(is_argument(new(N_ROWS, 128, 64)));
    assert!(matches!(new(N_ROWS, 64, len), Err(Error::Truncated { .. })));
    assert!(matches!(new(N_ROWS, 0, len), Err(Error::Corrupt(_))));
    assert!(matches!(new(N_ROWS + 20, 64, 64 + len), Err(Error::Corrupt(_))));
}
