//! The statistics of a rans12 plane and the tables that the kernels load.

use super::ESCAPE;
use crate::Error;
use crate::normalize::{cost, normalize};
use crate::rans8::model::{best_window, keep_run};
use crate::reader::Reader;

const N_SYMBOLS: usize = 256;
/// Probabilities are in 4096ths.
pub(crate) const TOTAL: u32 = 4096;
/// A value gets a symbol of its own where it is at least this share of the plane: a 4096th costs everybody
/// else 1.4 / 4096 of a bit, an escape about 12 bits to the value concerned.
const PARTS_FOR_A_SYMBOL: u64 = 30_000;

/// Which values have symbols and the frequency of each in 4096ths.
pub(crate) struct Model {
    pub base: u16,
    pub freq: [u32; N_SYMBOLS],
    /// Whether symbols are a window of a wider plane, with an escape, or the values themselves.
    pub is_window: bool,
}

/// `freq | offset in the symbol's range << 12 | symbol << 24`, by slot. Every frequency is below 4096.
pub(crate) struct DecodeTable {
    pub entries: [u32; TOTAL as usize],
}

impl Default for DecodeTable {
    fn default() -> Self {
        DecodeTable { entries: [0; TOTAL as usize] }
    }
}

/// By symbol, as gathers want it.
pub(crate) struct EncodeTable {
    /// `freq | start << 16`.
    pub freq_start: [u32; N_SYMBOLS],
    /// `floor(2^32 / freq)`, at most `2^32 - 1`: `x * reciprocal >> 32` is `x / freq` or one less.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // the other encoders divide
    pub reciprocal: [u32; N_SYMBOLS],
}

impl Model {
    /// The model for all values of a plane of at most 8 bits. `None` if there is but one value.
    pub fn for_bytes(counts: &[u32; N_SYMBOLS]) -> Option<Model> {
        if counts.iter().filter(|&&count| count > 0).count() < 2 {
            return None;
        }
        let mut freq = [0; N_SYMBOLS];
        normalize(counts, TOTAL, &mut freq);
        Some(Model { base: 0, freq, is_window: false })
    }

    /// The model for a plane of more than 8 bits, counted in full (index = value). Values that are rare or
    /// outside the best window become escapes. `None` if that leaves one symbol.
    pub fn for_window(counts: &[u32]) -> Option<Model> {
        let window_base = best_window(counts, usize::from(ESCAPE));
        let window = &counts[window_base..][..usize::from(ESCAPE)];
        let n: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let mut kept = [0; N_SYMBOLS];
        let is_common = |count: u32| u64::from(count) * PARTS_FOR_A_SYMBOL >= n;
        let base = window_base + keep_run(window, is_common, &mut kept[..usize::from(ESCAPE)]);
        let n_kept: u64 = kept.iter().map(|&count| u64::from(count)).sum();
        kept[usize::from(ESCAPE)] = (n - n_kept) as u32;
        Some(Model { base: base as u16, is_window: true, ..Model::for_bytes(&kept)? })
    }

    /// Estimated size under this model of a plane with these symbol counts, in bits times 2^16, without the frame.
    pub fn cost(&self, counts: &[u32; N_SYMBOLS]) -> u64 {
        cost(counts, &self.freq, 12)
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        for eight in self.freq.chunks_exact(8) {
            out.push((0..8).map(|bit| u8::from(eight[bit] > 0) << bit).sum());
        }
        for &freq in self.freq.iter().filter(|&&freq| freq > 0) {
            let coded = freq - 1;
            if coded < 128 {
                out.push(coded as u8);
            } else {
                out.extend_from_slice(&[(coded & 127 | 128) as u8, (coded >> 7) as u8]);
            }
        }
    }

    pub fn read(reader: &mut Reader, bits: u32) -> Result<Model, Error> {
        let base = reader.u16()?;
        let present: &[u8; 32] = reader.array()?;
        let mut freq = [0; N_SYMBOLS];
        let mut highest = 0;
        for symbol in (0..N_SYMBOLS).filter(|symbol| present[symbol / 8] >> (symbol % 8) & 1 == 1) {
            let first = u32::from(reader.u8()?);
            let coded = if first < 128 { first } else { first & 127 | u32::from(reader.u8()?) << 7 };
            if first >= 128 && coded < 128 {
                return Err(Error::Corrupt("rans12 table")); // Two bytes where one is enough.
            }
            freq[symbol] = coded + 1;
            if bits <= 8 || symbol != usize::from(ESCAPE) {
                highest = symbol as u32;
            }
        }
        let sum: u64 = freq.iter().map(|&freq| u64::from(freq)).sum();
        let window_fits = u32::from(base) + highest < 1 << bits && (bits > 8 || base == 0);
        if sum != u64::from(TOTAL) || freq.contains(&TOTAL) || !window_fits {
            return Err(Error::Corrupt("rans12 table"));
        }
        Ok(Model { base, freq, is_window: bits > 8 })
    }

    fn starts(&self) -> [u32; N_SYMBOLS] {
        let mut sum = 0;
        self.freq.map(|freq| {
            let start = sum;
            sum += freq;
            start
        })
    }

    /// `freq` sums to [`TOTAL`], so that every entry is written.
    pub fn fill_decode_table(&self, table: &mut DecodeTable) {
        for (symbol, (&freq, start)) in self.freq.iter().zip(self.starts()).enumerate() {
            let range = &mut table.entries[start as usize..][..freq as usize];
            for (offset, entry) in range.iter_mut().enumerate() {
                *entry = freq | (offset as u32) << 12 | (symbol as u32) << 24;
            }
        }
    }

    pub fn encode_table(&self) -> EncodeTable {
        let mut freq_start = self.starts();
        freq_start.iter_mut().zip(self.freq).for_each(|(entry, freq)| *entry = *entry << 16 | freq);
        let reciprocal = |freq: u32| ((1u64 << 32) / u64::from(freq.max(1))).min(u64::from(u32::MAX)) as u32;
        EncodeTable { freq_start, reciprocal: self.freq.map(reciprocal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies_have_one_spelling() {
        let check = |frequencies: &[u8], holds: bool| {
            let mut table = vec![0; 2 + 32];
            table[2] = 3; // Symbols 0 and 1.
            table.extend_from_slice(frequencies);
            assert_eq!(Model::read(&mut Reader::new(&table), 8).is_ok(), holds, "{frequencies:?}");
        };
        check(&[0, 0xfe, 31], true); // 1 and 4095
        check(&[0x80, 0, 0xfe, 31], false);
        check(&[127, 0xff, 30], true); // 128 and 3968
        check(&[0xff, 0, 0xff, 30], false);
        check(&[0x80, 1, 0xfe, 30], true); // 129 and 3967
        check(&[0, 0xfe, 32], false);
    }
}
