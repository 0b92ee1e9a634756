//! The head of a group: palettes, offsets and the table of where each tile's escapes begin. Written by group.rs; read
//! and checked here, once, so that nothing after it needs to. Next in the flow: view.rs.
//!
//! A group, little endian, offsets in bytes from its start:
//!
//! ```text
//! [0..7)    palette of exact11 and index3: the 7 commonest high bytes, or indices
//! [8..23)   second palette of exact11 and index3, or the palette of exact12 and index4: 15 of them
//! [24..28)  u32 offset of the cells        [28..32)  u32 offset of the nibbles (exact layouts)
//! [32..36)  u32 offset of the raw bytes (exact layouts)
//! [36..40)  u32 n_tiles                    [40..44)  u32 flags: bit 0 wide
//! [44]      the layout: 1 f32, 2 f16, 3 bf16, 4 exact11, 5 exact12, 6 index8, 7 index4, 8 index3, 9 int4
//! [45..60)  second palette of index4
//! [64..)    layouts with a palette: n_tiles + 1 entries {u32 nibble_start_bytes, u32 raw_start_bytes}, from those offsets on
//! cells     at a multiple of 64: tile after tile, cell after cell
//! nibbles, then raw bytes, then 64 bytes of slack and zeros up to a multiple of 64 (exact layouts)
//! ```
//!
//! What is not used is zero.

use crate::cell::CELL_WEIGHTS;
use crate::{Error, Layout, Result};

/// Groups begin at, and are as long as, a multiple of this.
pub const ALIGNMENT: usize = 64;
/// Bytes after a tile's nibbles and raw bytes that may be read, though they mean nothing.
pub const READ_SLACK: usize = 64;
/// Bytes before the table.
const FIXED_BYTES: usize = 64;
/// Bytes of a table entry.
const ENTRY_BYTES: usize = 8;
const FLAG_WIDE: u32 = 1;
const LAYOUT_AT: usize = 44;
const PALETTE_OF_7_AT: usize = 0;
const PALETTE_OF_15_AT: usize = 8;
const SECOND_OF_15_AT: usize = 45;

/// A header that was checked, or is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) layout: Layout,
    pub(crate) n_cells: usize,
    pub(crate) n_tiles: usize,
    pub(crate) is_wide: bool,
    /// `layout.n_palette()` entries, then zeros.
    pub(crate) palette: [u8; 15],
    /// `layout.n_second_palette()` entries, then zeros.
    pub(crate) second: [u8; 15],
    pub(crate) nibbles_offset: usize,
    pub(crate) raw_offset: usize,
}

/// Where a tile's escapes begin, in bytes from the group's nibbles and raw bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd)]
pub(crate) struct Entry {
    pub(crate) nibble_start: u32,
    pub(crate) raw_start: u32,
}

/// Offset of the cells of a group of `n_tiles` tiles.
pub(crate) fn cells_offset(layout: Layout, n_tiles: usize) -> usize {
    let table_bytes = if layout.has_palette() { (n_tiles + 1) * ENTRY_BYTES } else { 0 };
    (FIXED_BYTES + table_bytes).next_multiple_of(ALIGNMENT)
}

/// Entry `idx` of a group's table.
pub(crate) fn entry(group: &[u8], idx: usize) -> Entry {
    let at = FIXED_BYTES + idx * ENTRY_BYTES;
    Entry { nibble_start: u32_at(group, at), raw_start: u32_at(group, at + 4) }
}

/// Writes an entry of a group's table.
pub(crate) fn write_entry(group: &mut [u8], idx: usize, entry: Entry) {
    let at = FIXED_BYTES + idx * ENTRY_BYTES;
    group[at..at + 4].copy_from_slice(&entry.nibble_start.to_le_bytes());
    group[at + 4..at + 8].copy_from_slice(&entry.raw_start.to_le_bytes());
}

impl Header {
    /// Writes the first 64 bytes of a group, which are zero before.
    pub(crate) fn write(&self, group: &mut [u8]) {
        let offset = |offset: usize| u32::try_from(offset).expect("a group is smaller than 4 GiB").to_le_bytes();
        if self.layout.has_palette() {
            let (palette, second) = (&self.palette[..self.layout.n_palette()], &self.second);
            group[palette_at(self.layout)..][..palette.len()].copy_from_slice(palette);
            let n_second = self.layout.n_second_palette();
            group[second_at(self.layout)..][..n_second].copy_from_slice(&second[..n_second]);
            group[28..32].copy_from_slice(&offset(self.nibbles_offset));
            group[32..36].copy_from_slice(&offset(self.raw_offset));
        }
        group[LAYOUT_AT] = self.layout.id();
        group[24..28].copy_from_slice(&offset(cells_offset(self.layout, self.n_tiles)));
        group[36..40].copy_from_slice(&offset(self.n_tiles));
        group[40..44].copy_from_slice(&(if self.is_wide { FLAG_WIDE } else { 0 }).to_le_bytes());
    }

    /// Reads and checks the head of a group of a matrix of `n_cells` cells a tile: every offset, every entry of the
    /// table, and the group's length.
    pub(crate) fn parse(layout: Layout, n_cells: usize, group: &[u8]) -> Result<Header> {
        need(FIXED_BYTES, group)?;
        let (n_tiles, flags) = (u32_at(group, 36) as usize, u32_at(group, 40));
        if group[LAYOUT_AT] != layout.id() {
            return Err(Error::Corrupt("a group of another layout"));
        }
        let unused = if layout.n_palette() > 7 { second_at(layout) + layout.n_second_palette() } else { 0 };
        let unused = &group[unused.max(LAYOUT_AT + 1)..FIXED_BYTES];
        if n_tiles == 0 || flags & !FLAG_WIDE != 0 || unused.iter().any(|&byte| byte != 0) {
            return Err(Error::Corrupt("a group without tiles, or with flags that mean nothing"));
        }
        let cells_len = n_tiles.checked_mul(n_cells * layout.cell_bytes()).filter(|&len| u32::try_from(len).is_ok());
        let cells_len = cells_len.ok_or(Error::Corrupt("more cells than a group can have"))?;
        let cells_at = cells_offset(layout, n_tiles);
        let mut header = Header {
            layout,
            n_cells,
            n_tiles,
            is_wide: flags & FLAG_WIDE != 0,
            palette: [0; 15],
            second: [0; 15],
            nibbles_offset: cells_at + cells_len,
            raw_offset: cells_at + cells_len,
        };
        need(header.nibbles_offset, group)?;
        if u32_at(group, 24) as usize != cells_at {
            return Err(Error::Corrupt("cells are not where they belong"));
        }
        let len = if layout.has_palette() { header.parse_escapes(group)? } else { header.parse_plain(group)? };
        need(len, group)?;
        if group.len() != len {
            return Err(Error::Corrupt("bytes after the end of a group"));
        }
        Ok(header)
    }

    /// The length of a group without escapes.
    fn parse_plain(&self, group: &[u8]) -> Result<usize> {
        if group[..24].iter().chain(&group[28..36]).any(|&byte| byte != 0) {
            return Err(Error::Corrupt("a palette or escapes in a layout without"));
        }
        Ok(self.nibbles_offset)
    }

    /// The palettes and the table; gives the length of the group.
    fn parse_escapes(&mut self, group: &[u8]) -> Result<usize> {
        let (n_palette, n_second) = (self.layout.n_palette(), self.layout.n_second_palette());
        self.palette[..n_palette].copy_from_slice(&group[palette_at(self.layout)..][..n_palette]);
        self.second[..n_second].copy_from_slice(&group[second_at(self.layout)..][..n_second]);
        let end = self.check_table(group)?;
        self.raw_offset = self.nibbles_offset + end.nibble_start as usize;
        if (u32_at(group, 28) as usize, u32_at(group, 32) as usize) != (self.nibbles_offset, self.raw_offset) {
            return Err(Error::Corrupt("escapes are not where they belong"));
        }
        Ok((self.raw_offset + end.raw_start as usize + READ_SLACK).next_multiple_of(ALIGNMENT))
    }

    /// Every tile has at most as many escapes as weights; gives the last entry.
    fn check_table(&self, group: &[u8]) -> Result<Entry> {
        let tile_weights = self.n_cells * CELL_WEIGHTS;
        let mut last = entry(group, 0);
        if last != Entry::default() {
            return Err(Error::Corrupt("escapes of the first tile do not begin at 0"));
        }
        for idx in 1..=self.n_tiles {
            let next = entry(group, idx);
            let nibble_bytes = next.nibble_start.checked_sub(last.nibble_start);
            let raw_bytes = next.raw_start.checked_sub(last.raw_start);
            let (Some(nibble_bytes), Some(raw_bytes)) = (nibble_bytes, raw_bytes) else {
                return Err(Error::Corrupt("escapes of a tile end before they begin"));
            };
            let (nibble_bytes, raw_bytes) = (nibble_bytes as usize, raw_bytes as usize);
            let (max_nibble_bytes, max_raw_bytes) = match self.layout.n_second_palette() {
                0 => (0, tile_weights),
                _ => (tile_weights / 2, 2 * nibble_bytes),
            };
            if nibble_bytes > max_nibble_bytes || raw_bytes > max_raw_bytes {
                return Err(Error::Corrupt("more escapes than weights"));
            }
            last = next;
        }
        Ok(last)
    }
}

fn palette_at(layout: Layout) -> usize {
    if layout.n_palette() == 7 { PALETTE_OF_7_AT } else { PALETTE_OF_15_AT }
}

fn second_at(layout: Layout) -> usize {
    if layout.n_palette() == 7 { PALETTE_OF_15_AT } else { SECOND_OF_15_AT }
}

fn need(expected: usize, group: &[u8]) -> Result<()> {
    if group.len() < expected { Err(Error::Truncated { expected, actual: group.len() }) } else { Ok(()) }
}

fn u32_at(group: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*group[at..].first_chunk().expect("inside the head, whose length was checked"))
}
