//! The table of layouts: what a resident matrix may lie in memory as. Next in the flow: geometry.rs.

use crate::cell::{CELL_COLS, CELL_WEIGHTS};
use netweight_tensor::Dtype;

/// How the weights of a matrix lie in memory while a model runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// 32-bit floats, column-major within a tile.
    F32,
    /// IEEE half floats, column-major within a tile.
    F16,
    /// bf16 weights in pairs of columns.
    Bf16,
    /// bf16 weights: low bytes raw, high bytes as 3-bit codes of a palette, with escapes.
    Exact11,
    /// bf16 weights: low bytes raw, high bytes as 4-bit codes of a palette, with escapes.
    Exact12,
    /// i8 indices of a grid, as they are.
    Index8,
    /// i8 indices of a grid as 4-bit codes of a palette, with escapes.
    Index4,
    /// i8 indices of a grid as 3-bit codes of a palette, with escapes.
    Index3,
    /// i8 indices of a grid from -8 to 7, in 4 bits each: no palette, no escapes.
    Int4,
}

/// One row of the table.
#[derive(Debug)]
struct Row {
    layout: Layout,
    name: &'static str,
    /// Stands in a group's header.
    id: u8,
    /// Name of the dtype that is encoded.
    source: &'static str,
    element_bytes: usize,
    cell_bytes: usize,
    /// Entries of the palette, 0 where the layout has none.
    n_palette: usize,
    /// Entries of the palette of escapes, 0 where escapes are raw bytes or there are none.
    n_second: usize,
}

const fn plain(layout: Layout, name: &'static str, id: u8, source: &'static str, element_bytes: usize) -> Row {
    let cell_bytes = CELL_WEIGHTS * element_bytes;
    Row { layout, name, id, source, element_bytes, cell_bytes, n_palette: 0, n_second: 0 }
}

const fn exact(layout: Layout, name: &'static str, id: u8, code_bits: usize, n_second: usize) -> Row {
    let (cell_bytes, n_palette) = (CELL_WEIGHTS * (8 + code_bits) / 8, (1 << code_bits) - 1);
    Row { layout, name, id, source: "BF16", element_bytes: 2, cell_bytes, n_palette, n_second }
}

const fn index(layout: Layout, name: &'static str, id: u8, code_bits: usize) -> Row {
    let (cell_bytes, n_palette) = (CELL_WEIGHTS * code_bits / 8, (1 << code_bits) - 1);
    Row { layout, name, id, source: "I8", element_bytes: 1, cell_bytes, n_palette, n_second: 15 }
}

/// In the order of the enum.
static LAYOUTS: [Row; 9] = [
    plain(Layout::F32, "f32", 1, "F32", 4),
    plain(Layout::F16, "f16", 2, "F16", 2),
    plain(Layout::Bf16, "bf16", 3, "BF16", 2),
    exact(Layout::Exact11, "exact11", 4, 3, 15),
    exact(Layout::Exact12, "exact12", 5, 4, 0),
    plain(Layout::Index8, "index8", 6, "I8", 1),
    index(Layout::Index4, "index4", 7, 4),
    index(Layout::Index3, "index3", 8, 3),
    Row { cell_bytes: CELL_WEIGHTS / 2, ..plain(Layout::Int4, "int4", 9, "I8", 1) },
];

impl Layout {
    /// Every layout, in table order.
    pub fn all() -> impl Iterator<Item = Layout> {
        LAYOUTS.iter().map(|row| row.layout)
    }

    /// The layout of that name.
    pub fn from_name(name: &str) -> Option<Layout> {
        LAYOUTS.iter().find(|row| row.name == name).map(|row| row.layout)
    }

    /// `"f32"`, `"f16"`, `"bf16"`, `"exact11"`, `"exact12"`, `"index8"`, `"index4"`, `"index3"` or `"int4"`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The dtype of the weights that go in, and come out of decoding.
    pub fn source_dtype(self) -> Dtype {
        Dtype::from_name(self.row().source)
    }

    /// Bytes of a weight of [`Layout::source_dtype`].
    pub fn element_bytes(self) -> usize {
        self.row().element_bytes
    }

    /// Bytes of a cell of 16 rows by 32 columns, escapes not counted.
    pub fn cell_bytes(self) -> usize {
        self.row().cell_bytes
    }

    /// Whether high bytes, or indices, are codes of a palette.
    pub fn has_palette(self) -> bool {
        self.row().n_palette != 0
    }

    /// Whether it is made for bf16 and smaller than it: exact11 and exact12.
    pub fn is_exact(self) -> bool {
        self.has_palette() && !self.is_index()
    }

    /// Whether what goes in are indices of a grid, whose steps are kept elsewhere: index8, index4, index3 and int4.
    pub fn is_index(self) -> bool {
        self.row().source == "I8"
    }

    /// Whether indices can be kept in it: all of them, but for int4.
    pub fn takes_index(self, index: i8) -> bool {
        self != Layout::Int4 || (-8..8).contains(&index)
    }

    /// Entries of the palette; the code of that value is the escape. 0 where there is no palette.
    pub fn n_palette(self) -> usize {
        self.row().n_palette
    }

    /// Entries of the palette that escapes look their nibble up in; 0 where escapes are raw bytes, or none.
    pub fn n_second_palette(self) -> usize {
        self.row().n_second
    }

    /// The number that stands for the layout in a group's header.
    pub(crate) fn id(self) -> u8 {
        self.row().id
    }

    /// Bytes of 32 weights of one row as they stand in the source.
    pub(crate) fn cell_row_bytes(self) -> usize {
        CELL_COLS * self.element_bytes()
    }

    fn row(self) -> &'static Row {
        &LAYOUTS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_stand_where_the_enum_says() {
        for (idx, layout) in Layout::all().enumerate() {
            assert_eq!(layout as usize, idx);
            assert_eq!(Layout::from_name(layout.name()), Some(layout));
            assert_eq!(layout.source_dtype().element_bytes(), layout.element_bytes());
            assert_eq!(layout.cell_bytes() % 64, 0);
        }
        assert_eq!(Layout::from_name("exact13"), None);
    }
}
