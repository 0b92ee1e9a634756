//! Tensors whose chunks are groups of a resident layout (section 7): which ones may be, how a group is encoded and
//! decoded, and where an engine finds the groups of a mapped file.

use std::ops::Range;
use std::path::PathBuf;

use netweight_container::{Context, Entry, Error, Mode, Resident, Result};
use netweight_layout::{Geometry, GroupView, Layout, Matrix, Memory, TILE_ROWS, decode_group, encode_group};

use crate::archive::ArchiveShard;
use crate::chunk;
use crate::coding::Coding;

/// Matrices with fewer rows or columns are not worth a tile.
const MIN_ROWS: u64 = 16;
const MIN_COLS: u64 = 32;
/// Sixteen rows of so many columns are the largest chunk that there is.
const MAX_COLS: u64 = 1 << 19;
/// 2^-62 in bf16; weights below it, zero aside, are what the group's flag is about.
const LEAST_NARROW: u16 = (127 - 62) << 7;
const INFINITY: u16 = 0xff << 7;

/// Where the groups of a tensor lie.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ResidentTensor {
    /// The layout.
    pub layout: Layout,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub cols: usize,
    /// The file that the groups are in: the archive shard, or for a tied tensor the sibling that holds its bytes.
    pub path: PathBuf,
    /// (n_groups,) ranges of bytes in that file; each begins at a multiple of 64.
    pub groups: Vec<Range<u64>>,
}

impl ResidentTensor {
    /// The matrix, over `memory` that begins with the first byte of the file at `path`. The heads of the groups are
    /// checked, checksums are not: [`verify`](crate::verify) checks them.
    ///
    /// # Errors
    /// `Truncated` and `Corrupt` where the bytes are not such groups; `InvalidArgument` where `memory` is shorter than
    /// the file, or does not begin at an address that is a multiple of 64.
    pub fn matrix(&self, memory: Memory) -> Result<Matrix> {
        let groups: Option<Vec<Range<usize>>> = self.groups.iter().map(in_memory).collect();
        let groups = groups.ok_or_else(|| Error::invalid("too large for this machine").in_file(&self.path))?;
        let matrix = Matrix::new(self.layout, self.rows, self.cols, memory, groups);
        matrix.map_err(|error| layout_error(error).in_file(&self.path))
    }
}

fn in_memory(range: &Range<u64>) -> Option<Range<usize>> {
    Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?)
}

impl ArchiveShard {
    /// Where the groups of a tensor lie, if it is stored in a resident layout. `None` also for a tied tensor whose
    /// bytes are stored as a matrix of another shape. Nothing is read.
    pub fn resident(&self, name: &str) -> Option<ResidentTensor> {
        self.resident_at(self.tensors().iter().position(|entry| entry.name == name)?)
    }

    /// Reads group `group_idx` of a tensor that is stored in a resident layout, as it lies, into `dst`, and checks its
    /// checksum. What `dst` held is lost.
    ///
    /// # Errors
    /// `InvalidArgument` where the tensor is not stored so or has no such group; `Truncated`, `Corrupt`, `Io`.
    pub fn read_group(&self, name: &str, group_idx: usize, dst: &mut Vec<u8>) -> Result<()> {
        let tensor_idx = self.tensors().iter().position(|entry| entry.name == name);
        let tensor_idx = tensor_idx.filter(|&tensor_idx| self.resident_at(tensor_idx).is_some());
        let home = tensor_idx.and_then(|tensor_idx| self.parts[tensor_idx + 1].payload());
        let group = home.and_then(|(file, payload)| Some((file, *payload.chunks.get(group_idx)?)));
        let (file, group) = group.ok_or_else(|| Error::invalid("not stored in groups of tiles").in_tensor(name))?;
        chunk::read_into(dst, &file.input, group).in_tensor(name)
    }

    /// [`ArchiveShard::resident`] by index.
    pub(crate) fn resident_at(&self, tensor_idx: usize) -> Option<ResidentTensor> {
        if self.mode() == Mode::Opaque {
            return None;
        }
        let (entry, part) = (&self.tensors()[tensor_idx], &self.parts[tensor_idx + 1]); // Part 0 is the header.
        let (file, payload) = part.payload()?;
        let Coding::Groups(geometry) = payload.coding else { return None };
        let (rows, cols) = (geometry.rows(), geometry.cols());
        if entry.shape != [rows as u64, cols as u64] || entry.dtype_name != "BF16" {
            return None;
        }
        let groups = payload.chunks.iter().map(|chunk| chunk.offset..chunk.offset + u64::from(chunk.len_bytes));
        let path = file.input.path().to_path_buf();
        Some(ResidentTensor { layout: geometry.layout(), rows, cols, path, groups: groups.collect() })
    }
}

/// The layout of that name, if archives may use it.
pub(crate) fn layout(name: &str) -> Option<Layout> {
    Layout::from_name(name).filter(|layout| is_for_archives(*layout))
}

/// Whether archives may use the layout: it is made for bf16 and smaller than it.
pub(crate) fn is_for_archives(layout: Layout) -> bool {
    layout.is_exact()
}

/// How a tensor is cut into groups; `None` where it cannot be.
pub(crate) fn geometry(layout: Layout, entry: &Entry) -> Option<Geometry> {
    let &[rows, cols] = entry.shape.as_slice() else { return None };
    if entry.dtype_name != "BF16" || cols > MAX_COLS {
        return None;
    }
    Geometry::new(layout, usize::try_from(rows).ok()?, usize::try_from(cols).ok()?).ok()
}

/// [`geometry`] of a tensor that is large enough to be worth it.
pub(crate) fn worthwhile(layout: Layout, entry: &Entry) -> Option<Geometry> {
    let is_large = matches!(*entry.shape, [rows, cols] if rows >= MIN_ROWS && cols >= MIN_COLS);
    is_large.then(|| geometry(layout, entry)).flatten()
}

/// Bytes of the original that a group stands for, the last one aside.
pub(crate) fn group_bytes(geometry: &Geometry) -> u64 {
    (geometry.tiles_per_group() * TILE_ROWS * geometry.cols() * 2) as u64 // At most 16 MiB: see MAX_COLS.
}

/// The coding of each of a shard's `tensors` that `resident` names, (tensors,).
///
/// # Errors
/// `Unsupported` for a layout of a later version; `Corrupt` where a name is not that of a matrix, or out of order.
pub(crate) fn codings(resident: &Resident, tensors: &[Entry], is_tied: impl Fn(&str) -> bool) -> Result<Vec<Coding>> {
    let layout = layout(&resident.layout).ok_or_else(|| {
        Error::unsupported(format!("a resident layout that this version does not know: {:?}", resident.layout))
    })?;
    let mut names = resident.tensors.iter().peekable();
    let mut codings = Vec::with_capacity(tensors.len());
    for entry in tensors {
        if names.next_if(|name| **name == entry.name).is_none() {
            codings.push(Coding::Chunks(entry.dtype));
            continue;
        }
        let geometry = geometry(layout, entry).filter(|_| !is_tied(&entry.name));
        let geometry = geometry.ok_or_else(|| Error::corrupt("in a resident layout, which it cannot be"));
        codings.push(Coding::Groups(geometry.in_tensor(&entry.name)?));
    }
    match names.next() {
        None => Ok(codings),
        Some(name) => Err(Error::corrupt("in the list of resident tensors, but not there").in_tensor(name)),
    }
}

/// Encodes the rows of one group.
pub(crate) fn encode(geometry: &Geometry, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
    encode_group(geometry.layout(), geometry.cols(), n_rows(geometry, raw), raw, out).map_err(layout_error)
}

/// Decodes a group into the rows that it stands for, and checks its flag.
pub(crate) fn decode(geometry: &Geometry, group: &[u8], raw: &mut [u8]) -> Result<()> {
    let (layout, cols) = (geometry.layout(), geometry.cols());
    decode_group(layout, cols, n_rows(geometry, raw), group, raw).map_err(layout_error)?;
    if check(geometry, group)?.is_wide() != is_wide(raw) {
        return Err(Error::corrupt("a group whose flag does not say whether its weights are wide"));
    }
    Ok(())
}

/// Checks the head of a group.
pub(crate) fn check<'g>(geometry: &Geometry, group: &'g [u8]) -> Result<GroupView<'g>> {
    GroupView::parse(geometry.layout(), geometry.cols(), group).map_err(layout_error)
}

fn n_rows(geometry: &Geometry, raw: &[u8]) -> usize {
    raw.len() / (2 * geometry.cols())
}

/// Whether some bf16 weight is Inf, NaN, or below 2^-62 in magnitude and not 0.
fn is_wide(raw: &[u8]) -> bool {
    let is_wide = |weight: &[u8; 2]| {
        let magnitude = u16::from_le_bytes(*weight) & 0x7fff;
        magnitude >= INFINITY || (magnitude != 0 && magnitude < LEAST_NARROW)
    };
    // Whole runs without a branch inside, so that they are compared many at a time.
    raw.as_chunks().0.chunks(1024).any(|run| run.iter().fold(false, |found, weight| found | is_wide(weight)))
}

/// The layout's error as the container's.
fn layout_error(error: netweight_layout::Error) -> Error {
    match error {
        netweight_layout::Error::Truncated { expected, actual } => Error::truncated(expected as u64, actual as u64),
        netweight_layout::Error::Corrupt(what) => Error::corrupt(what),
        netweight_layout::Error::InvalidArgument(what) => Error::invalid(what),
        _ => Error::corrupt("a group that cannot be decoded"),
    }
}

#[cfg(test)]
mod tests {
    use netweight_container::{ErrorKind, Header};

    use super::*;

    fn header() -> Header {
        let json = concat!(
            r#"{"a":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"#,
            r#""b":{"dtype":"BF16","shape":[6],"data_offsets":[12,24]},"#,
            r#""c":{"dtype":"F16","shape":[2,3],"data_offsets":[24,36]},"#,
            r#""d":{"dtype":"BF16","shape":[1,524289],"data_offsets":[36,1048614]},"#,
            r#""e":{"dtype":"BF16","shape":[16,32],"data_offsets":[1048614,1049638]},"#,
            r#""f":{"dtype":"BF16","shape":[0,3],"data_offsets":[1049638,1049638]}}"#
        );
        let bytes = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes()].concat();
        Header::parse(&bytes, bytes.len() as u64 + 1_049_638).unwrap()
    }

    #[test]
    fn lists_of_resident_tensors() {
        let check = |layout: &str, names: &[&str], expected: Option<ErrorKind>| {
            let tensors = names.iter().map(|&name| name.to_owned()).collect();
            let resident = Resident { layout: layout.to_owned(), tensors };
            let found = codings(&resident, &header().tensors, |name| name == "e");
            assert_eq!(found.as_ref().err().map(Error::kind), expected, "{layout} {names:?}");
            let n_groups = found.iter().flatten().filter(|coding| matches!(coding, Coding::Groups(_))).count();
            assert_eq!(n_groups, if expected.is_none() { names.len() } else { 0 });
        };
        let corrupt = Some(ErrorKind::Corrupt);
        check("exact11", &["a"], None);
        check("exact12", &["a"], None);
        for unknown in ["exact13", "bf16", "f32", ""] {
            check(unknown, &["a"], Some(ErrorKind::Unsupported));
        }
        for name in ["b", "c", "d", "e", "f", "g"] {
            check("exact11", &[name], corrupt);
        }
        check("exact11", &["a", "a"], corrupt);
        check("exact11", &["", "a"], corrupt);
    }

    #[test]
    fn flags_are_checked() {
        let geometry = Geometry::new(Layout::Exact11, 20, 40).unwrap();
        for (weight, is_wide) in [(0x3f80u16, false), (0x0000, false), (0x2080, false), (0x207f, true), (0xff80, true)]
        {
            let mut raw = [0x80, 0x3f].repeat(20 * 40);
            raw[10..12].copy_from_slice(&weight.to_le_bytes());
            let (mut group, mut back) = (Vec::new(), vec![0xaa; raw.len()]);
            encode(&geometry, &raw, &mut group).unwrap();
            assert_eq!(check(&geometry, &group).unwrap().is_wide(), is_wide, "{weight:04x}");
            decode(&geometry, &group, &mut back).unwrap();
            assert!(back == raw);
            group[40] ^= 1;
            assert_eq!(decode(&geometry, &group, &mut back).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }
}
