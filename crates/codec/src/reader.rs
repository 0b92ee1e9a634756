//! A cursor over a chunk's bytes: every read is checked, nothing is copied.

use crate::Error;

/// Reads little-endian integers and slices off the front of a byte slice.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    pub fn bytes(&mut self, len_bytes: usize) -> Result<&'a [u8], Error> {
        let truncated = Error::Truncated { expected: len_bytes, actual: self.rest.len() };
        let (head, rest) = self.rest.split_at_checked(len_bytes).ok_or(truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Error> {
        let truncated = Error::Truncated { expected: N, actual: self.rest.len() };
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(truncated)?;
        self.rest = rest;
        Ok(head)
    }

    pub fn u8(&mut self) -> Result<u8, Error> {
        self.array::<1>().map(|bytes| bytes[0])
    }

    pub fn u16(&mut self) -> Result<u16, Error> {
        self.array().map(|bytes| u16::from_le_bytes(*bytes))
    }

    pub fn u32(&mut self) -> Result<u32, Error> {
        self.array().map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// A `u32` that counts things of which no more than `limit` can be.
    pub fn count(&mut self, limit: usize, what: &'static str) -> Result<usize, Error> {
        let count = usize::try_from(self.u32()?).map_err(|_| Error::Corrupt(what))?;
        if count <= limit { Ok(count) } else { Err(Error::Corrupt(what)) }
    }

    pub fn finish(self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(Error::Corrupt("bytes after the end of a plane")) }
    }
}
