//! Splits: how the bits of an element are dealt out to planes (docs/format.md section 4).

use crate::Error;

/// A split, as the first byte of a chunk names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// One plane for each byte of the element.
    Bytes,
    /// The low bytes as planes; of the top 16 bits, sign and `k` low bits as one plane, the rest as the field.
    Half { k: u32 },
}

/// The rows of the table: id on disk, split, name for people.
const SPLITS: [(u8, Split, &str); 4] = [
    (0, Split::Bytes, "bytes"),
    (4, Split::Half { k: 4 }, "half 4"),
    (6, Split::Half { k: 6 }, "half 6"),
    (7, Split::Half { k: 7 }, "half 7"),
];

impl Split {
    pub fn from_id(id: u8, element_bytes: usize) -> Result<Split, Error> {
        let row = SPLITS.iter().find(|row| row.0 == id).ok_or(Error::Unsupported("split of a newer version"))?;
        match row.1 {
            Split::Half { .. } if element_bytes < 2 => Err(Error::Corrupt("split does not fit the element")),
            split => Ok(split),
        }
    }

    fn row(self) -> &'static (u8, Split, &'static str) {
        SPLITS.iter().find(|row| row.1 == self).expect("every split has a row")
    }

    pub fn id(self) -> u8 {
        self.row().0
    }

    pub fn name(self) -> &'static str {
        self.row().2
    }

    pub fn n_planes(self, element_bytes: usize) -> usize {
        element_bytes
    }

    /// Bits of the values of plane `idx`; more than 8 only for a field.
    pub fn plane_bits(self, element_bytes: usize, idx: usize) -> u32 {
        match self {
            Split::Half { k } if idx + 2 == element_bytes => k + 1,
            Split::Half { k } if idx + 1 == element_bytes => 15 - k,
            _ => 8,
        }
    }

    /// Whether plane `idx` is a field.
    pub fn is_field(self, element_bytes: usize, idx: usize) -> bool {
        matches!(self, Split::Half { .. }) && idx + 1 == element_bytes
    }
}

/// Ids of the coders on disk.
pub(crate) mod coder {
    pub const RAW: u8 = 0;
    pub const CONSTANT: u8 = 1;
    pub const RANS8: u8 = 2;
    pub const RANS12: u8 = 3;

    /// Name for people.
    pub fn name(id: u8) -> &'static str {
        ["raw", "constant", "rans8", "rans12"].get(usize::from(id)).copied().unwrap_or("unknown")
    }
}
