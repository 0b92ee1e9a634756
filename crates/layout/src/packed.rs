//! A packed matrix: one string of bytes that says its layout and shape and holds its groups, for who keeps a matrix as
//! one flat tensor. Goes in: groups, or such a string that nobody has checked. Comes out: the string, or any rows.
//!
//! ```text
//! [0..8)     "NWMATRX1"
//! [8]        the layout, as in a group's header; then zeros
//! [16..24)   u64 rows                [24..32)  u64 cols
//! [32..40)   u64 n_groups            [40..48)  u64 length of the whole in bytes; then zeros
//! [64..)     n_groups + 1 u64: where each group begins, counted from the first byte, and where the last ends
//! groups     at multiples of 64, one after the other
//! ```
//!
//! Numbers are little-endian. A program that multiplies over it wants the first byte at a multiple of 64; decoding does
//! not care.

use crate::geometry::Geometry;
use crate::group::decode_tiles;
use crate::header::ALIGNMENT;
use crate::{Error, GroupView, Layout, Result, TILE_ROWS};
use std::ops::Range;

const MAGIC: &[u8; 8] = b"NWMATRX1";
const FIXED_BYTES: usize = 64;
const ENTRY_BYTES: usize = 8;

/// The head of a packed matrix that is being written.
#[derive(Clone, Debug)]
pub struct PackedHead {
    geometry: Geometry,
    starts: Vec<u64>, // (groups so far + 1,)
}

impl PackedHead {
    /// For a matrix of that shape; its groups are to be appended to the first [`PackedHead::len_bytes`] bytes.
    pub fn new(geometry: Geometry) -> PackedHead {
        let starts = vec![head_bytes(&geometry) as u64];
        PackedHead { geometry, starts }
    }

    /// Bytes before the first group.
    pub fn len_bytes(&self) -> usize {
        head_bytes(&self.geometry)
    }

    /// Where the next group begins, or the length of the whole where there is none left.
    pub fn next_start(&self) -> usize {
        self.starts.last().map_or(0, |&start| start as usize) // A length in memory.
    }

    /// Counts a group of `len` bytes, which begins at [`PackedHead::next_start`].
    pub fn push(&mut self, len: usize) {
        self.starts.push((self.next_start() + len.next_multiple_of(ALIGNMENT)) as u64);
    }

    /// Writes the head to the front of `packed`, the whole string.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where not all groups were counted, or `packed` has another length.
    pub fn write(&self, packed: &mut [u8]) -> Result<()> {
        let geometry = &self.geometry;
        if self.starts.len() != geometry.n_groups() + 1 || packed.len() != self.next_start() {
            return Err(Error::InvalidArgument("another number of groups than the shape has"));
        }
        packed[..self.len_bytes()].fill(0);
        packed[..8].copy_from_slice(MAGIC);
        packed[8] = geometry.layout().id();
        let numbers = [geometry.rows(), geometry.cols(), geometry.n_groups(), packed.len()].map(|number| number as u64);
        let entries = packed[FIXED_BYTES..].as_chunks_mut::<ENTRY_BYTES>().0;
        for (entry, start) in entries.iter_mut().zip(&self.starts) {
            *entry = start.to_le_bytes();
        }
        for (entry, number) in packed[16..48].as_chunks_mut::<8>().0.iter_mut().zip(numbers) {
            *entry = number.to_le_bytes();
        }
        Ok(())
    }
}

/// A packed matrix whose head was checked. Groups are checked as they are looked at.
#[derive(Clone, Copy, Debug)]
pub struct PackedView<'a> {
    geometry: Geometry,
    bytes: &'a [u8],
}

impl<'a> PackedView<'a> {
    /// Checks the head of `bytes`, which may be anything.
    ///
    /// # Errors
    /// [`Error::Truncated`] and [`Error::Corrupt`] where they are no packed matrix.
    pub fn parse(bytes: &'a [u8]) -> Result<PackedView<'a>> {
        need(FIXED_BYTES, bytes)?;
        if &bytes[..8] != MAGIC {
            return Err(Error::Corrupt("not a packed matrix"));
        }
        let layout = Layout::all().find(|layout| layout.id() == bytes[8]);
        let layout = layout.ok_or(Error::Corrupt("a packed matrix of a layout that this version does not know"))?;
        let number = |at: usize| usize::try_from(u64_at(bytes, at)).unwrap_or(usize::MAX);
        let geometry = Geometry::new(layout, number(16), number(24));
        let geometry = geometry.map_err(|_| Error::Corrupt("a packed matrix of an impossible shape"))?;
        if number(32) != geometry.n_groups() || bytes[9..16].iter().chain(&bytes[48..64]).any(|&byte| byte != 0) {
            return Err(Error::Corrupt("another number of groups than the shape has"));
        }
        need(number(40), bytes)?;
        need(head_bytes(&geometry), bytes)?;
        let view = PackedView { geometry, bytes };
        let (first, last) = (view.start(0), view.start(geometry.n_groups()));
        if number(40) != bytes.len() || first != head_bytes(&geometry) as u64 || last != bytes.len() as u64 {
            return Err(Error::Corrupt("groups of a packed matrix are not where they belong"));
        }
        Ok(view)
    }

    /// The cuts.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Group `group_idx`, checked.
    ///
    /// # Errors
    /// [`Error::Truncated`] and [`Error::Corrupt`] where it is not the group of that place.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group(&self, group_idx: usize) -> Result<GroupView<'a>> {
        let range = self.group_range(group_idx);
        let begin = range.start;
        let group = self.bytes.get(range).filter(|_| begin.is_multiple_of(ALIGNMENT));
        let group = group.ok_or(Error::Corrupt("groups of a packed matrix are not where they belong"))?;
        let view = GroupView::parse(self.geometry.layout(), self.geometry.cols(), group)?;
        match view.n_tiles() == self.geometry.group_tiles(group_idx).len() {
            true => Ok(view),
            false => Err(Error::Corrupt("a group of another number of tiles")),
        }
    }

    /// Where group `group_idx` says to lie in the bytes: for [`crate::Matrix::new`], which checks that.
    ///
    /// # Panics
    /// Where there is no such group.
    pub fn group_range(&self, group_idx: usize) -> Range<usize> {
        assert!(group_idx < self.geometry.n_groups(), "group {group_idx}");
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        place(self.start(group_idx))..place(self.start(group_idx + 1))
    }

    /// Decodes rows into `dst`, (rows, cols) elements of [`Layout::source_dtype`]. `scratch` is for reuse: what it holds
    /// does not matter.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] where there are no such rows or `dst` has another length; else as
    /// [`crate::decode_group`].
    pub fn decode_rows(&self, rows: Range<usize>, scratch: &mut Vec<u8>, dst: &mut [u8]) -> Result<()> {
        let cols = self.geometry.cols();
        let row_bytes = cols * self.geometry.layout().element_bytes();
        if rows.start > rows.end || rows.end > self.geometry.rows() {
            return Err(Error::InvalidArgument("the matrix has no such rows"));
        }
        if dst.len() != (rows.end - rows.start) * row_bytes {
            return Err(Error::InvalidArgument("weights do not fill the rows"));
        }
        let rows_per_group = self.geometry.tiles_per_group() * TILE_ROWS;
        let (mut row, mut dst) = (rows.start, dst);
        while row < rows.end {
            let group_idx = row / rows_per_group;
            let group_rows = self.geometry.group_rows(group_idx);
            let end = rows.end.min(group_rows.end);
            let (here, rest) = dst.split_at_mut((end - row) * row_bytes);
            let within = row - group_rows.start..end - group_rows.start;
            decode_within(&self.group(group_idx)?, cols, within, scratch, here)?;
            (row, dst) = (end, rest);
        }
        Ok(())
    }

    fn start(&self, group_idx: usize) -> u64 {
        u64_at(self.bytes, FIXED_BYTES + group_idx * ENTRY_BYTES)
    }
}

/// Rows of one group. A tile that is not wanted from its first row on is decoded aside.
fn decode_within(
    group: &GroupView<'_>,
    cols: usize,
    rows: Range<usize>,
    scratch: &mut Vec<u8>,
    dst: &mut [u8],
) -> Result<()> {
    let row_bytes = cols * group.layout().element_bytes();
    let offset = rows.start % TILE_ROWS;
    if offset == 0 {
        return decode_tiles(group, cols, rows.start / TILE_ROWS, scratch, dst);
    }
    let n_aside = (TILE_ROWS - offset).min(rows.len());
    let mut aside = vec![0; (offset + n_aside) * row_bytes];
    decode_tiles(group, cols, rows.start / TILE_ROWS, scratch, &mut aside)?;
    let (head, tail) = dst.split_at_mut(n_aside * row_bytes);
    head.copy_from_slice(&aside[offset * row_bytes..]);
    if tail.is_empty() { Ok(()) } else { decode_tiles(group, cols, rows.start / TILE_ROWS + 1, scratch, tail) }
}

fn head_bytes(geometry: &Geometry) -> usize {
    (FIXED_BYTES + (geometry.n_groups() + 1) * ENTRY_BYTES).next_multiple_of(ALIGNMENT)
}

fn need(expected: usize, bytes: &[u8]) -> Result<()> {
    if bytes.len() < expected { Err(Error::Truncated { expected, actual: bytes.len() }) } else { Ok(()) }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the head, whose length was checked"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode_group;

    /// (rows, cols) bf16 weights of many magnitudes, and the packed matrix of them.
    fn packed(layout: Layout, rows: usize, cols: usize) -> (Vec<u8>, Vec<u8>) {
        let geometry = Geometry::new(layout, rows, cols).unwrap();
        let weight = |idx: usize| (0x3c00u16 ^ (idx as u16).wrapping_mul(40_503) >> (idx % 7 + 3)).to_le_bytes();
        let weights: Vec<u8> = (0..rows * cols).flat_map(weight).collect();
        let mut head = PackedHead::new(geometry);
        let (mut bytes, mut group) = (vec![0; head.len_bytes()], Vec::new());
        for group_idx in 0..geometry.n_groups() {
            let n_rows = geometry.group_rows(group_idx).len();
            encode_group(layout, cols, n_rows, &weights[geometry.group_source(group_idx)], &mut group).unwrap();
            head.push(group.len());
            bytes.extend_from_slice(&group);
        }
        head.write(&mut bytes).unwrap();
        (weights, bytes)
    }

    #[test]
    fn any_rows_come_back() {
        let check = |layout, rows: usize, cols: usize, ranges: &[Range<usize>]| {
            let (weights, bytes) = packed(layout, rows, cols);
            let view = PackedView::parse(&bytes).unwrap();
            assert_eq!((view.geometry().rows(), view.geometry().cols()), (rows, cols));
            for range in ranges {
                let mut dst = vec![0xaa; range.len() * cols * 2];
                view.decode_rows(range.clone(), &mut Vec::new(), &mut dst).unwrap();
                assert!(dst == weights[range.start * cols * 2..range.end * cols * 2], "{layout:?} {range:?}");
            }
            assert!(view.decode_rows(0..rows + 1, &mut Vec::new(), &mut vec![0; (rows + 1) * cols * 2]).is_err());
            assert!(view.decode_rows(0..1, &mut Vec::new(), &mut vec![0; cols * 2 + 2]).is_err());
        };
        for layout in [Layout::Bf16, Layout::Exact11, Layout::Exact12] {
            let ranges = [0..50, 0..0, 50..50, 0..16, 3..4, 5..16, 15..17, 16..50, 33..47, 49..50];
            check(layout, 50, 40, &ranges);
            check(layout, 70, 16_400, &[0..70, 15..33, 17..18, 69..70, 31..32, 32..64]);
            check(layout, 1, 1, std::slice::from_ref(&(0..1)));
        }
    }

    #[test]
    fn bytes_of_all_kinds() {
        let (weights, bytes) = packed(Layout::Exact11, 40, 33);
        for len in 0..bytes.len() {
            assert!(matches!(PackedView::parse(&bytes[..len]), Err(Error::Truncated { .. })), "{len}");
        }
        assert!(PackedView::parse(&[&bytes[..], &[0]].concat()).is_err());
        // Whatever stands in the head, or in the group, nothing panics.
        let mut dst = vec![0; weights.len()];
        for at in 0..bytes.len().min(1000) {
            for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let rows = PackedView::parse(&changed).map_or(0, |view| view.geometry().rows().min(40));
                let decoded =
                    PackedView::parse(&changed).and_then(|view| view.decode_rows(0..rows, &mut Vec::new(), &mut dst));
                let is_head = at < 64 + 2 * 8 && !(16..32).contains(&at); // Other shapes may have the same cuts.
                assert!(!is_head || value == bytes[at] || decoded.is_err(), "byte {at} is {value}");
            }
        }
    }
}
