//! A group that was checked, and its tiles: what a multiplication reads. Next in the flow: matrix.rs.

use crate::cell::CELL_COLS;
use crate::header::{self, Header, READ_SLACK};
use crate::{Error, Layout, Result};

/// A group whose head and table were checked. The codes and escapes within were not: they may ask for more escapes
/// than a tile has, and whoever decodes them must stay inside the slices all the same.
#[derive(Clone, Copy, Debug)]
pub struct GroupView<'a> {
    header: Header,
    bytes: &'a [u8],
}

/// One tile: 16 rows of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TileView<'a> {
    /// (n_cells, `layout.cell_bytes()`), cells from left to right.
    pub cells: &'a [u8],
    /// Escapes of exact11, low nibble first, and then [`READ_SLACK`] bytes that mean nothing. At most half as many
    /// bytes, without slack, as the padded tile has weights. Empty in other layouts, slack included.
    pub nibbles: &'a [u8],
    /// High bytes that no palette has, in order, and then [`READ_SLACK`] bytes that mean nothing. At most as many,
    /// without slack, as the padded tile has weights. Empty in layouts without a palette, slack included.
    pub raw: &'a [u8],
}

impl<'a> GroupView<'a> {
    /// Checks a group of a matrix of `cols` columns.
    ///
    /// # Errors
    /// [`Error::Truncated`] and [`Error::Corrupt`] where the bytes are not a group; [`Error::InvalidArgument`] where no
    /// matrix has `cols` columns.
    pub fn parse(layout: Layout, cols: usize, group: &'a [u8]) -> Result<GroupView<'a>> {
        if cols == 0 || cols > crate::geometry::MAX_COLS {
            return Err(Error::InvalidArgument("columns"));
        }
        let header = Header::parse(layout, cols.div_ceil(CELL_COLS), group)?;
        Ok(GroupView { header, bytes: group })
    }

    /// A group that was parsed before.
    pub(crate) fn with(header: Header, bytes: &'a [u8]) -> GroupView<'a> {
        GroupView { header, bytes }
    }

    pub(crate) fn header(&self) -> Header {
        self.header
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.header.layout
    }

    /// Number of tiles.
    pub fn n_tiles(&self) -> usize {
        self.header.n_tiles
    }

    /// Cells of each tile.
    pub fn n_cells(&self) -> usize {
        self.header.n_cells
    }

    /// Whether some weight is Inf, NaN, or not 0 but below 2^-62 in magnitude: hardware that flushes subnormals must
    /// not be used for this group.
    pub fn is_wide(&self) -> bool {
        self.header.is_wide
    }

    /// High bytes by code, (`layout.n_palette()`,).
    pub fn palette(&self) -> &[u8] {
        &self.header.palette[..self.header.layout.n_palette()]
    }

    /// High bytes by escape nibble, (`layout.n_second_palette()`,).
    pub fn second_palette(&self) -> &[u8] {
        &self.header.second[..self.header.layout.n_second_palette()]
    }

    /// Tile `tile_idx` of the group.
    ///
    /// # Panics
    /// Where there is no such tile, and, without harm, where the bytes have changed since they were parsed.
    pub fn tile(&self, tile_idx: usize) -> TileView<'a> {
        let Header { layout, n_tiles, n_cells, nibbles_offset, raw_offset, .. } = self.header;
        assert!(tile_idx < n_tiles, "tile {tile_idx} of {n_tiles}");
        let cells_len = n_cells * layout.cell_bytes();
        let cells_at = header::cells_offset(layout, n_tiles) + tile_idx * cells_len;
        let cells = &self.bytes[cells_at..cells_at + cells_len];
        if !layout.has_palette() {
            return TileView { cells, nibbles: &[], raw: &[] };
        }
        let (begin, end) = (header::entry(self.bytes, tile_idx), header::entry(self.bytes, tile_idx + 1));
        let slice = |offset: usize, begin: u32, end: u32| {
            &self.bytes[offset + begin as usize..offset + end as usize + READ_SLACK]
        };
        let nibbles: &[u8] = match layout.n_second_palette() {
            0 => &[],
            _ => slice(nibbles_offset, begin.nibble_start, end.nibble_start),
        };
        TileView { cells, nibbles, raw: slice(raw_offset, begin.raw_start, end.raw_start) }
    }
}
