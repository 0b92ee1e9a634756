//! High bytes that the palette does not have. exact12 keeps them as they are; exact11 gives them a nibble of a second
//! palette, and keeps those that this one does not have either. Next in the flow: group.rs.

/// The nibble of exact11 that takes the next raw byte.
const RAW: u8 = 15;

/// A tile's escapes as exact11 keeps them: nibbles, low one first, padded to a byte with 0, and raw bytes. `codes` is
/// the second palette's nibble by high byte.
pub(crate) fn write_nibbles(escapes: &[u8], codes: &[u8; 256], nibbles: &mut Vec<u8>, raw: &mut Vec<u8>) {
    let mut nibble = |high: u8| {
        let nibble = codes[usize::from(high)];
        if nibble == RAW {
            raw.push(high);
        }
        nibble
    };
    let (pairs, rest) = escapes.as_chunks::<2>();
    nibbles.extend(pairs.iter().map(|&[first, second]| nibble(first) | nibble(second) << 4));
    nibbles.extend(rest.iter().map(|&last| nibble(last)));
}

/// The escapes of one tile, in order.
pub(crate) struct Escapes<'a> {
    nibbles: &'a [u8],
    n_nibbles_read: usize,
    raw: &'a [u8],
    n_raw_read: usize,
    second: Option<&'a [u8]>,
}

impl<'a> Escapes<'a> {
    /// Of slices without slack; `second` is the second palette of layouts that have one, (15,).
    pub(crate) fn new(nibbles: &'a [u8], raw: &'a [u8], second: Option<&'a [u8]>) -> Escapes<'a> {
        Escapes { nibbles, n_nibbles_read: 0, raw, n_raw_read: 0, second }
    }

    /// The next escape, `None` where there is no more.
    pub(crate) fn next(&mut self) -> Option<u8> {
        if let Some(second) = self.second {
            let byte = *self.nibbles.get(self.n_nibbles_read / 2)?;
            let nibble = if self.n_nibbles_read.is_multiple_of(2) { byte & 15 } else { byte >> 4 };
            self.n_nibbles_read += 1;
            if nibble != RAW {
                return second.get(usize::from(nibble)).copied();
            }
        }
        let high = *self.raw.get(self.n_raw_read)?;
        self.n_raw_read += 1;
        Some(high)
    }

    /// Whether every escape was read; a nibble that fills the last byte is none.
    pub(crate) fn is_done(&self) -> bool {
        self.n_nibbles_read.div_ceil(2) == self.nibbles.len() && self.n_raw_read == self.raw.len()
    }
}
