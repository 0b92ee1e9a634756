//! One tile with what is needed to decode it: what every kernel takes. Goes in: a matrix and a tile's index. Next in
//! the flow: scalar.rs.

use netweight_layout::{CELL_COLS, Layout, Matrix, READ_SLACK, TILE_ROWS};

/// A tile of a matrix: slices have the lengths that `layout` and `n_cells` say.
#[derive(Clone, Copy)]
pub(crate) struct Tile<'a> {
    pub(crate) layout: Layout,
    pub(crate) n_cells: usize,
    /// Whether hardware that flushes subnormals must not be used.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub(crate) is_wide: bool,
    /// (n_cells, layout.cell_bytes())
    pub(crate) cells: &'a [u8],
    /// Escapes of exact11, low nibble first, without slack: at most half as many bytes as the tile has weights.
    pub(crate) nibbles: &'a [u8],
    /// High bytes without a code, with [`READ_SLACK`] bytes after them; empty in layouts without a palette.
    pub(crate) raw: &'a [u8],
    /// High bytes by code; codes at and after `layout.n_palette()` have a byte that none of those before it has.
    pub(crate) palette: [u8; 16],
    /// High bytes by escape nibble; nibble 15 takes a raw byte.
    pub(crate) second: [u8; 16],
    /// What palettes and raw bytes are XORed with: 0, or see [`Tile::flipped`].
    pub(crate) flip: u8,
    /// In layouts of indices with a palette: whether all indices are from -32 to 31.
    #[cfg_attr(target_arch = "aarch64", allow(dead_code))]
    pub(crate) is_small: bool,
}

impl<'a> Tile<'a> {
    /// Tile `tile_idx` of `matrix`.
    pub(crate) fn of(matrix: &'a Matrix, tile_idx: usize) -> Tile<'a> {
        let (group_idx, tile_idx) = matrix.group_of(tile_idx);
        let group = matrix.group(group_idx);
        let view = group.tile(tile_idx);
        let (layout, n_cells) = (group.layout(), group.n_cells());
        let nibbles = &view.nibbles[..view.nibbles.len().saturating_sub(READ_SLACK)];
        // Kernels rely on these lengths for where they read.
        assert!(view.cells.len() == n_cells * layout.cell_bytes());
        assert!(nibbles.len() * 2 <= n_cells * TILE_ROWS * CELL_COLS);
        assert!(!layout.has_palette() || view.raw.len() >= READ_SLACK);
        let mut palette = [escape_marker(group.palette()); 16];
        palette[..group.palette().len()].copy_from_slice(group.palette());
        let mut second = [0; 16];
        second[..group.second_palette().len()].copy_from_slice(group.second_palette());
        let raw = &view.raw[..view.raw.len().saturating_sub(READ_SLACK)];
        let mut indices = group.palette().iter().chain(group.second_palette()).chain(raw);
        let is_small =
            layout.is_index() && layout.has_palette() && indices.all(|&index| (-32..32).contains(&(index as i8)));
        let (is_wide, cells, raw) = (group.is_wide(), view.cells, view.raw);
        Tile { layout, n_cells, is_wide, cells, nibbles, raw, palette, second, flip: 0, is_small }
    }

    /// With bytes of palettes and of escapes XORed: with 128, indices of -128 to 127 become 0 to 255.
    pub(crate) fn flipped(mut self, flip: u8) -> Tile<'a> {
        self.palette.iter_mut().chain(&mut self.second).for_each(|byte| *byte ^= flip);
        self.flip ^= flip;
        self
    }

    /// The byte that stands for an escape in `palette`.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn marker(&self) -> u8 {
        self.palette[15]
    }
}

/// The least byte that is not in the palette.
fn escape_marker(palette: &[u8]) -> u8 {
    (0..=u8::MAX).find(|byte| !palette.contains(byte)).unwrap_or(0)
}
