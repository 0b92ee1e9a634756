//! Splits: how the bits of an element are dealt out to planes (docs/format.md section 4).

use crate::Error;

/// A split, as the first byte of a chunk names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Split {
    /// One plane for each byte of the element.
    Bytes,
    /// Of a one-byte element, the sign as one plane and the other seven bits as another.
    Sign,
    /// The low bytes as planes; of the top 16 bits, sign and `k` low bits as one plane, the rest as the field.
    /// With `k` above 7, eight of the low bits are a byte plane of their own.
    Half { k: u32 },
}

/// The rows of the table: id on disk, split, name for people.
const SPLITS: [(u8, Split, &str); 6] = [
    (0, Split::Bytes, "bytes"),
    (1, Split::Sign, "sign"),
    (4, Split::Half { k: 4 }, "half 4"),
    (6, Split::Half { k: 6 }, "half 6"),
    (7, Split::Half { k: 7 }, "half 7"),
    (9, Split::Half { k: 9 }, "half 9"),
];

impl Split {
    pub fn from_id(id: u8, element_bytes: usize) -> Result<Split, Error> {
        let row = SPLITS.iter().find(|row| row.0 == id).ok_or(Error::Unsupported("split of a newer version"))?;
        let fits = match row.1 {
            Split::Bytes => true,
            Split::Sign => element_bytes == 1,
            Split::Half { k: 9 } => element_bytes == 2,
            Split::Half { .. } => element_bytes >= 2,
        };
        if fits { Ok(row.1) } else { Err(Error::Corrupt("split does not fit the element")) }
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

    /// Planes that hold whole bytes of the element; they come first.
    pub fn n_byte_planes(self, element_bytes: usize) -> usize {
        match self {
            Split::Bytes => element_bytes,
            Split::Sign => 0,
            Split::Half { k } => element_bytes - 2 + usize::from(k > 7),
        }
    }

    pub fn n_planes(self, element_bytes: usize) -> usize {
        self.n_byte_planes(element_bytes) + if self == Split::Bytes { 0 } else { 2 }
    }

    /// Bits of the values of plane `idx`; more than 8 only for a field.
    pub fn plane_bits(self, element_bytes: usize, idx: usize) -> u32 {
        let [first, second] = match self {
            Split::Bytes => [8, 8],
            Split::Sign => [1, 7],
            Split::Half { k } => [low_bits(k), 15 - k],
        };
        match idx.checked_sub(self.n_byte_planes(element_bytes)) {
            None => 8,
            Some(0) => first,
            Some(_) => second,
        }
    }

    /// Whether plane `idx` is a field.
    pub fn is_field(self, element_bytes: usize, idx: usize) -> bool {
        matches!(self, Split::Half { .. }) && idx == self.n_byte_planes(element_bytes) + 1
    }
}

/// Bits of the low plane of `half k`: the sign and the low bits that are not in a byte plane.
pub(crate) fn low_bits(k: u32) -> u32 {
    1 + if k > 7 { k - 8 } else { k }
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
