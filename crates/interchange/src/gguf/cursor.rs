//! Takes integers and strings off the front of untrusted bytes.

use netweight_container::{Error, Result};

/// What is left of the bytes, and where that begins.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, at: 0 }
    }

    /// Bytes taken so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    /// # Errors
    /// `Truncated` where there are not as many.
    pub(super) fn take(&mut self, n_bytes: u64) -> Result<&'a [u8]> {
        let rest = &self.bytes[self.at..];
        let taken = usize::try_from(n_bytes).ok().and_then(|n_bytes| rest.get(..n_bytes));
        let taken =
            taken.ok_or_else(|| Error::truncated((self.at as u64).saturating_add(n_bytes), self.bytes.len() as u64))?;
        self.at += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let taken = self.take(N as u64)?;
        Ok(std::array::from_fn(|idx| taken[idx]))
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn string(&mut self) -> Result<&'a [u8]> {
        let n_bytes = self.u64()?;
        self.take(n_bytes)
    }

    pub(super) fn text(&mut self) -> Result<String> {
        let (at, bytes) = (self.at, self.string()?);
        let text = std::str::from_utf8(bytes);
        text.map(str::to_owned).map_err(|_| Error::corrupt("a name that is not UTF-8").at_offset(at as u64))
    }
}
