//! High bytes that the palette does not have. exact12 keeps them as they are; exact11 gives them a nibble of a second
//! palette, and keeps those that this one does not have either. Next in the flow: group.rs.

use crate::header::READ_SLACK;

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

/// `(nibbles, raw, second, highs)`: the reverse of [`write_nibbles`]. `nibbles` and `raw` end with [`READ_SLACK`] bytes
/// that mean nothing; `second` is the second palette, (15,). High bytes go to the front of `highs`, which has room for
/// two for each byte of `nibbles`, slack included. Returns how many there are; the last may be padding. `None` where
/// nibbles and raw bytes do not fit each other.
pub(crate) type ReadNibbles = fn(&[u8], &[u8], &[u8], &mut [u8]) -> Option<usize>;

/// [`ReadNibbles`].
pub(crate) fn read_nibbles(nibbles: &[u8], raw: &[u8], second: &[u8], highs: &mut [u8]) -> Option<usize> {
    let nibbles = &nibbles[..nibbles.len() - READ_SLACK];
    let mut raw = raw[..raw.len() - READ_SLACK].iter();
    let mut high = |nibble: u8| second.get(usize::from(nibble)).or_else(|| raw.next()).copied();
    for (pair, byte) in highs.as_chunks_mut::<2>().0.iter_mut().zip(nibbles) {
        *pair = [high(byte & RAW)?, high(byte >> 4)?];
    }
    raw.as_slice().is_empty().then_some(2 * nibbles.len())
}
