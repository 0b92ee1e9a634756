//! Takes an input apart into small numbers and what is left; where bytes are missing they are zero.

use netweight_codec::Level;
use netweight_tensor::{DTYPES, Dtype};

/// An input, read from its front.
pub(crate) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Input<'a> {
        Input { rest: bytes }
    }

    pub(crate) fn u8(&mut self) -> u8 {
        let (first, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *first
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    /// Every dtype of the table, and one that is not in it.
    pub(crate) fn dtype(&mut self) -> Dtype {
        let idx = usize::from(self.u8()) % (DTYPES.len() + 1);
        DTYPES.get(idx).map_or(Dtype::BYTES, |row| Dtype::from_name(row.name))
    }

    pub(crate) fn level(&mut self) -> Level {
        if self.u8().is_multiple_of(2) { Level::Default } else { Level::Max }
    }

    /// What stands before the next zero byte, which is dropped.
    pub(crate) fn text(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|&byte| byte == 0).unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest.get(1..).unwrap_or(&[]);
        text
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }
}
