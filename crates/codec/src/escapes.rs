//! Escapes: the rare values outside a coder's window, one nibble each for the commonest fifteen
//! (docs/format.md, section 5, "Escapes").

use crate::Error;
use crate::reader::Reader;

/// Zeros kept after the last escape, so that a kernel may load a whole register from any position.
pub(crate) const SLACK: usize = 64;

const REST: u8 = 15;

/// Appends the escapes block for `values`.
pub(crate) fn write(values: &[u16], out: &mut Vec<u8>) {
    let common = commonest(values);
    out.push(common.len() as u8);
    common.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    let nibble = |value: &u16| common.iter().position(|other| other == value).map_or(REST, |idx| idx as u8);
    for pair in values.chunks(2) {
        out.push(nibble(&pair[0]) | pair.get(1).map_or(0, nibble) << 4);
    }
    let rest = values.iter().filter(|value| nibble(value) == REST);
    rest.for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

/// The up to fifteen commonest values, commonest first, the smaller one first among equals.
fn commonest(values: &[u16]) -> Vec<u16> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    let mut runs: Vec<(usize, u16)> = sorted.chunk_by(|a, b| a == b).map(|run| (run.len(), run[0])).collect();
    runs.sort_by_key(|&(len, value)| (std::cmp::Reverse(len), value));
    runs.truncate(REST as usize);
    runs.into_iter().map(|(_, value)| value).collect()
}

/// Reads `n_escapes` values below `limit` into `values`, followed by [`SLACK`] zeros.
pub(crate) fn read(reader: &mut Reader, n_escapes: usize, limit: u32, values: &mut Vec<u16>) -> Result<(), Error> {
    let n_common = usize::from(reader.u8()?);
    let mut common = [None; 16];
    for slot in common.iter_mut().take(n_common) {
        *slot = Some(reader.u16()?);
    }
    if n_common > REST as usize || common.iter().flatten().any(|&value| u32::from(value) >= limit) {
        return Err(Error::Corrupt("escape table"));
    }
    let nibbles = reader.bytes(n_escapes.div_ceil(2))?;
    values.clear();
    for idx in 0..n_escapes {
        let nibble = nibbles[idx / 2] >> (idx % 2 * 4) & 15;
        let value = if nibble == REST {
            reader.u16()?
        } else {
            common[usize::from(nibble)].ok_or(Error::Corrupt("escape nibble"))?
        };
        if u32::from(value) >= limit {
            return Err(Error::Corrupt("escape value"));
        }
        values.push(value);
    }
    if n_escapes % 2 == 1 && nibbles[n_escapes / 2] >> 4 != 0 {
        return Err(Error::Corrupt("escape padding"));
    }
    values.resize(n_escapes + SLACK, 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec(prop_oneof![0u16..4, 0u16..512], 0..300)) {
            let mut block = vec![];
            write(&values, &mut block);
            let (mut reader, mut back) = (Reader::new(&block), vec![]);
            read(&mut reader, values.len(), 512, &mut back).unwrap();
            reader.finish().unwrap();
            prop_assert_eq!(&back[..values.len()], &values[..]);
            prop_assert_eq!(back.len(), values.len() + SLACK);
        }
    }
}
