//! A resident matrix: groups somewhere in memory, each checked once. Goes in: memory and where the groups are. Comes
//! out: tiles, for a multiplication to read; see crate `netweight-kernels-cpu`.

use crate::geometry::Geometry;
use crate::header::{ALIGNMENT, Header};
use crate::{AlignedBytes, Error, GroupView, Layout, Result, TileView, decode_group, encode_group};
use std::ops::Range;
use std::sync::Arc;

/// Memory that groups lie in; several matrices may share it.
pub type Memory = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A weight matrix of (rows, cols) in a layout, all of whose groups were checked.
#[derive(Clone)]
pub struct Matrix {
    geometry: Geometry,
    memory: Memory,
    groups: Vec<(Range<usize>, Header)>, // (n_groups,)
}

impl Matrix {
    /// Takes `groups`, (n_groups,) ranges of bytes of `memory`, for the groups of a matrix.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the shape is impossible, the number of groups is not the shape's, or a range is
    /// not inside `memory` or does not begin at an address that is a multiple of 64; [`Error::Truncated`] and
    /// [`Error::Corrupt`] where a range is not a group of that place in the matrix.
    pub fn new(layout: Layout, rows: usize, cols: usize, memory: Memory, groups: Vec<Range<usize>>) -> Result<Matrix> {
        let geometry = Geometry::new(layout, rows, cols)?;
        if groups.len() != geometry.n_groups() {
            return Err(Error::InvalidArgument("another number of groups than the shape has"));
        }
        let bytes = (*memory).as_ref();
        let check = |(group_idx, range): (usize, Range<usize>)| {
            let group = bytes.get(range.clone()).ok_or(Error::InvalidArgument("a group outside of its memory"))?;
            if !group.as_ptr().addr().is_multiple_of(ALIGNMENT) {
                return Err(Error::InvalidArgument("a group at an address that is no multiple of 64"));
            }
            let view = GroupView::parse(layout, cols, group)?;
            if view.n_tiles() != geometry.group_tiles(group_idx).len() {
                return Err(Error::Corrupt("a group of another number of tiles"));
            }
            Ok((range, view.header()))
        };
        let groups = groups.into_iter().enumerate().map(check).collect::<Result<_>>()?;
        Ok(Matrix { geometry, memory, groups })
    }

    /// A matrix of groups as [`encode_group`] made them, (n_groups,), copied into memory of its own.
    ///
    /// # Errors
    /// As [`Matrix::new`]; [`Error::InvalidArgument`] also where there is not enough memory.
    pub fn from_groups(layout: Layout, rows: usize, cols: usize, groups: &[impl AsRef<[u8]>]) -> Result<Matrix> {
        let len = groups.iter().map(|group| group.as_ref().len().next_multiple_of(ALIGNMENT)).sum();
        let memory = AlignedBytes::zeroed(len);
        let mut memory = memory.map_err(|_| Error::InvalidArgument("more bytes than there is memory"))?;
        let (mut ranges, mut begin) = (Vec::with_capacity(groups.len()), 0);
        for group in groups.iter().map(AsRef::as_ref) {
            memory[begin..begin + group.len()].copy_from_slice(group);
            ranges.push(begin..begin + group.len());
            begin += group.len().next_multiple_of(ALIGNMENT);
        }
        Matrix::new(layout, rows, cols, Arc::new(memory), ranges)
    }

    /// Encodes `src`, (rows, cols) little-endian elements of [`Layout::source_dtype`].
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where the shape is impossible, `src` has another length, or there is not enough
    /// memory.
    pub fn encode(layout: Layout, rows: usize, cols: usize, src: &[u8]) -> Result<Matrix> {
        let geometry = Geometry::new(layout, rows, cols)?;
        if src.len() != rows * cols * layout.element_bytes() {
            return Err(Error::InvalidArgument("weights do not fill the rows"));
        }
        let encode = |group_idx: usize| {
            let mut group = Vec::new();
            let n_rows = geometry.group_rows(group_idx).len();
            encode_group(layout, cols, n_rows, &src[geometry.group_source(group_idx)], &mut group)?;
            Ok(group)
        };
        let groups = (0..geometry.n_groups()).map(encode).collect::<Result<Vec<_>>>()?;
        Matrix::from_groups(layout, rows, cols, &groups)
    }

    /// Decodes into `dst`, (rows, cols) little-endian elements of [`Layout::source_dtype`].
    ///
    /// # Errors
    /// As [`decode_group`].
    pub fn decode(&self, dst: &mut [u8]) -> Result<()> {
        if dst.len() != self.rows() * self.cols() * self.layout().element_bytes() {
            return Err(Error::InvalidArgument("weights do not fill the rows"));
        }
        for group_idx in 0..self.groups.len() {
            let n_rows = self.geometry.group_rows(group_idx).len();
            let dst = &mut dst[self.geometry.group_source(group_idx)];
            decode_group(self.layout(), self.cols(), n_rows, self.group_bytes(group_idx), dst)?;
        }
        Ok(())
    }

    /// The cuts.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.geometry.layout()
    }

    /// Rows: outputs of the linear layer.
    pub fn rows(&self) -> usize {
        self.geometry.rows()
    }

    /// Columns: inputs of the linear layer.
    pub fn cols(&self) -> usize {
        self.geometry.cols()
    }

    /// Tiles of 16 rows.
    pub fn n_tiles(&self) -> usize {
        self.geometry.n_tiles()
    }

    /// Bytes of all groups together.
    pub fn len_bytes(&self) -> usize {
        self.groups.iter().map(|(range, _)| range.len()).sum()
    }

    /// Whether some group is wide: see [`GroupView::is_wide`].
    pub fn is_wide(&self) -> bool {
        self.groups.iter().any(|(_, header)| header.is_wide)
    }

    /// Number of groups.
    pub fn n_groups(&self) -> usize {
        self.groups.len()
    }

    /// Group `group_idx`. It is not checked again.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group(&self, group_idx: usize) -> GroupView<'_> {
        GroupView::with(self.groups[group_idx].1, self.group_bytes(group_idx))
    }

    /// (group, tile within the group) of tile `tile_idx` of the matrix.
    pub fn group_of(&self, tile_idx: usize) -> (usize, usize) {
        let tiles_per_group = self.geometry.tiles_per_group();
        (tile_idx / tiles_per_group, tile_idx % tiles_per_group)
    }

    /// Tile `tile_idx` of the matrix.
    ///
    /// # Panics
    /// Where there is no such tile.
    pub fn tile(&self, tile_idx: usize) -> TileView<'_> {
        let (group_idx, tile_idx) = self.group_of(tile_idx);
        self.group(group_idx).tile(tile_idx)
    }

    fn group_bytes(&self, group_idx: usize) -> &[u8] {
        &(*self.memory).as_ref()[self.groups[group_idx].0.clone()]
    }
}

impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Matrix").field("geometry", &self.geometry).field("len_bytes", &self.len_bytes()).finish()
    }
}
