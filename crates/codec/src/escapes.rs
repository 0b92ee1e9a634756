//! Escapes: the rare values outside a coder's window, one nibble each for the commonest fifteen
//! (docs/format.md, section 5, "Escapes").

use crate::Error;
use crate::reader::Reader;

/// Zeros kept after the last escape, so that a kernel may load a whole register from any position.
pub(crate) const SLACK: usize = 64;

const REST: u8 = 15;
/// A field has at most 11 bits.
const N_VALUES: usize = 1 << 11;

/// Appends the escapes block for `values`, field values of at most 11 bits.
pub(crate) fn write(values: &[u16], out: &mut Vec<u8>) {
    let common = commonest(values);
    let mut nibbles = [REST; N_VALUES];
    common.iter().enumerate().for_each(|(idx, &value)| nibbles[usize::from(value)] = idx as u8);
    out.push(common.len() as u8);
    common.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    let nibble = |value: &u16| nibbles[usize::from(*value)];
    out.extend(values.chunks(2).map(|pair| nibble(&pair[0]) | pair.get(1).map_or(0, nibble) << 4));
    let rest = values.iter().filter(|value| nibble(value) == REST);
    rest.for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
}

/// The up to fifteen commonest values, commonest first, the smaller one first among equals.
fn commonest(values: &[u16]) -> Vec<u16> {
    let mut counts = [0u32; N_VALUES];
    values.iter().for_each(|&value| counts[usize::from(value)] += 1);
    let mut present: Vec<u16> = (0..N_VALUES as u16).filter(|&value| counts[usize::from(value)] > 0).collect();
    present.sort_by_key(|&value| std::cmp::Reverse(counts[usize::from(value)]));
    present.truncate(REST as usize);
    present
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
