//! How a matrix is cut into groups, tiles and cells. Goes in: a shape. Next in the flow: group.rs.

use crate::cell::{CELL_COLS, TILE_ROWS};
use crate::{Error, Layout, Result};
use std::ops::Range;

/// Weights of a group, about: a group is what one thread transcodes or claims at a time.
const GROUP_WEIGHTS: usize = 1 << 19;
/// Most columns of a matrix, so that a tile's bytes stay below 2^30.
pub const MAX_COLS: usize = 1 << 24;

/// The cuts of a matrix of (rows, cols) weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    layout: Layout,
    rows: usize,
    cols: usize,
}

impl Geometry {
    /// Checks the shape.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where a dimension is 0, `cols` is above [`MAX_COLS`], or the bytes of the padded
    /// matrix overflow an `isize`.
    pub fn new(layout: Layout, rows: usize, cols: usize) -> Result<Geometry> {
        if rows == 0 || cols == 0 {
            return Err(Error::InvalidArgument("a matrix without weights"));
        }
        if cols > MAX_COLS {
            return Err(Error::InvalidArgument("more columns than a tile can have"));
        }
        let geometry = Geometry { layout, rows, cols };
        // A tile with its table entry, palettes and an escape of 12 bits for each weight takes less than four times
        // its source.
        let bound = geometry.n_tiles().checked_mul(16 * TILE_ROWS * CELL_COLS * geometry.n_cells() + 1024);
        match bound {
            Some(bound) if isize::try_from(bound).is_ok() => Ok(geometry),
            _ => Err(Error::InvalidArgument("more weights than memory can have")),
        }
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows: outputs of the linear layer.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of the linear layer.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Tiles of 16 rows; the last may hold rows of padding.
    pub fn n_tiles(&self) -> usize {
        self.rows.div_ceil(TILE_ROWS)
    }

    /// Cells of 32 columns in each tile; the last may hold columns of padding.
    pub fn n_cells(&self) -> usize {
        self.cols.div_ceil(CELL_COLS)
    }

    /// Columns with padding, a multiple of 32.
    pub fn cols_padded(&self) -> usize {
        self.n_cells() * CELL_COLS
    }

    /// Tiles of every group but the last.
    pub fn tiles_per_group(&self) -> usize {
        tiles_per_group(self.cols)
    }

    /// Number of groups.
    pub fn n_groups(&self) -> usize {
        self.n_tiles().div_ceil(self.tiles_per_group())
    }

    /// Rows of group `group_idx`, padding left out.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group_rows(&self, group_idx: usize) -> Range<usize> {
        assert!(group_idx < self.n_groups(), "group {group_idx} of {}", self.n_groups());
        let rows_per_group = self.tiles_per_group() * TILE_ROWS;
        let begin = group_idx * rows_per_group;
        begin..self.rows.min(begin + rows_per_group)
    }

    /// Tiles of group `group_idx`.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group_tiles(&self, group_idx: usize) -> Range<usize> {
        let rows = self.group_rows(group_idx);
        rows.start / TILE_ROWS..rows.end.div_ceil(TILE_ROWS)
    }

    /// Bytes of the source weights of group `group_idx` within those of the matrix.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group_source(&self, group_idx: usize) -> Range<usize> {
        let (rows, row_bytes) = (self.group_rows(group_idx), self.cols * self.layout.element_bytes());
        rows.start * row_bytes..rows.end * row_bytes
    }
}

/// Tiles of a full group of that many columns.
pub(crate) fn tiles_per_group(cols: usize) -> usize {
    (GROUP_WEIGHTS / (TILE_ROWS * cols.next_multiple_of(CELL_COLS))).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts() {
        let check = |rows, cols, (n_tiles, n_cells, per_group, n_groups): (usize, usize, usize, usize)| {
            let geometry = Geometry::new(Layout::Bf16, rows, cols).unwrap();
            let found = (geometry.n_tiles(), geometry.n_cells(), geometry.tiles_per_group(), geometry.n_groups());
            assert_eq!(found, (n_tiles, n_cells, per_group, n_groups), "({rows}, {cols})");
            let mut next = (0, 0, 0);
            for group_idx in 0..n_groups {
                let (group_rows, tiles) = (geometry.group_rows(group_idx), geometry.group_tiles(group_idx));
                let source = geometry.group_source(group_idx);
                assert_eq!((group_rows.start, tiles.start, source.start), next);
                next = (group_rows.end, tiles.end, source.end);
            }
            assert_eq!(next, (rows, n_tiles, rows * cols * 2));
        };
        check(1, 1, (1, 1, 1024, 1));
        check(17, 33, (2, 2, 512, 1));
        check(4096, 4096, (256, 128, 8, 32));
        check(4096, 14336, (256, 448, 2, 128));
        check(1000, 4096, (63, 128, 8, 8));
        check(100, 100_000, (7, 3125, 1, 7));
        check(16 * 1024 + 1, 32, (1025, 1, 1024, 2));
    }

    #[test]
    fn impossible_shapes() {
        for (rows, cols) in [(0, 1), (1, 0), (1, MAX_COLS + 1), (usize::MAX, 1), (usize::MAX / 16, MAX_COLS)] {
            assert!(matches!(Geometry::new(Layout::F32, rows, cols), Err(Error::InvalidArgument(_))));
        }
    }
}
