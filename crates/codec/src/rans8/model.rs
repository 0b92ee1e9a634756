//! The statistics of a rans8 plane: which 31 values have symbols, how likely each is, and the tables that the
//! kernels load.

use super::{ESCAPE, LANES_PER_GROUP};
use crate::normalize::{cost, normalize};
use crate::reader::Reader;
use crate::{Error, log2};

const N_SYMBOLS: usize = LANES_PER_GROUP;
const TOTAL: u32 = 256;
/// What an escape costs beyond its symbol, for choosing which values get one: a nibble and a bit of the rest.
const ESCAPE_EXTRA_BITS: u64 = 5;

/// A window of 31 values and the frequency of each, and of the escape, in 256ths.
pub(crate) struct Model {
    pub base: u16,
    pub freq: [u8; N_SYMBOLS],
}

/// Decoding tables, each as wide as the registers that hold them.
pub(crate) struct DecodeTable {
    pub freq: [u16; N_SYMBOLS],
    pub start: [u16; N_SYMBOLS],
    pub symbol: [u8; TOTAL as usize], // by slot
    pub base: u16,
    /// The same, arranged for AVX2 when that first asks.
    #[cfg(target_arch = "x86_64")]
    pub avx2: std::cell::OnceCell<super::avx2::Tables>,
}

/// Encoding tables.
pub(crate) struct EncodeTable {
    pub freq: [u16; N_SYMBOLS],
    pub start: [u16; N_SYMBOLS],
    /// `floor(65536 / freq)`, at most 65535: `x * reciprocal >> 16` is `x / freq` or one less.
    pub reciprocal: [u16; N_SYMBOLS],
}

impl Model {
    /// The cheapest model for values counted in `counts` (index = value), which may be a sample: every value
    /// stays codable because the escape always has a share.
    pub fn from_counts(counts: &[u32]) -> Model {
        let base = best_window(counts, ESCAPE);
        let window = &counts[base..][..ESCAPE];
        let commonest = window.iter().copied().max().unwrap_or(0);
        let n: u64 = counts.iter().map(|&count| u64::from(count)).sum();
        let thinnest = [256, 420, 700, 1200].into_iter();
        let candidates = thinnest.map(|parts| {
            let mut kept = [0u32; N_SYMBOLS];
            let is_common = |count: u32| u64::from(count) * parts >= n || count == commonest;
            let base = base + keep_run(window, is_common, &mut kept[..ESCAPE]);
            let n_kept: u64 = kept.iter().map(|&count| u64::from(count)).sum();
            let n_escapes = (n - n_kept) as u32;
            kept[ESCAPE] = n_escapes.max(1);
            let mut freq = [0; N_SYMBOLS];
            normalize(&kept, TOTAL, &mut freq);
            let bits = cost(&kept, &freq, 8) + ((u64::from(n_escapes) * ESCAPE_EXTRA_BITS) << log2::FRACTION_BITS);
            (bits, base, freq)
        });
        let (_, base, freq) = candidates.min_by_key(|(bits, ..)| *bits).expect("four candidates");
        Model { base: base as u16, freq: freq.map(|freq| freq as u8) }
    }

    /// The symbol of a value.
    pub fn symbol(&self, value: u16) -> u8 {
        let offset = usize::from(value.wrapping_sub(self.base)).min(ESCAPE);
        if self.freq[offset] > 0 { offset as u8 } else { ESCAPE as u8 }
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.base.to_le_bytes());
        out.extend_from_slice(&self.freq);
    }

    pub fn read(reader: &mut Reader, bits: u32) -> Result<Model, Error> {
        let model = Model { base: reader.u16()?, freq: *reader.array()? };
        let sum: u32 = model.freq.iter().map(|&freq| u32::from(freq)).sum();
        let highest = (0..ESCAPE).rev().find(|&symbol| model.freq[symbol] > 0).unwrap_or(0);
        if sum != TOTAL || u32::from(model.base) + highest as u32 >= 1 << bits {
            return Err(Error::Corrupt("rans8 table"));
        }
        Ok(model)
    }

    fn starts(&self) -> [u16; N_SYMBOLS] {
        let mut sum = 0;
        self.freq.map(|freq| {
            let start = sum;
            sum += u16::from(freq);
            start
        })
    }

    pub fn decode_table(&self) -> DecodeTable {
        let start = self.starts();
        let mut symbol = [0; TOTAL as usize];
        for s in 0..N_SYMBOLS {
            symbol[usize::from(start[s])..][..usize::from(self.freq[s])].fill(s as u8);
        }
        DecodeTable {
            freq: self.freq.map(u16::from),
            start,
            symbol,
            base: self.base,
            #[cfg(target_arch = "x86_64")]
            avx2: std::cell::OnceCell::new(),
        }
    }

    pub fn encode_table(&self) -> EncodeTable {
        let reciprocal = |freq: u8| (65536 / u32::from(freq.max(1))).min(65535) as u16;
        EncodeTable { freq: self.freq.map(u16::from), start: self.starts(), reciprocal: self.freq.map(reciprocal) }
    }
}

/// Copies to `kept` the counts from the first common one to the last (those between would be gaps, which cost
/// the encoder a second pass), zero elsewhere; returns where the first stands in `window`.
pub(crate) fn keep_run(window: &[u32], is_common: impl Fn(u32) -> bool, kept: &mut [u32]) -> usize {
    let first = window.iter().position(|&count| is_common(count)).unwrap_or(0);
    let end = window.iter().rposition(|&count| is_common(count)).map_or(0, |last| last + 1);
    let run = &window[first..end.max(first)];
    kept[..run.len()].copy_from_slice(run);
    first
}

/// Where the `width` neighbouring values begin that hold most of `counts`; the first of equals.
pub(crate) fn best_window(counts: &[u32], width: usize) -> usize {
    let mut sum: u64 = counts.iter().take(width).map(|&count| u64::from(count)).sum();
    let (mut best, mut best_sum) = (0, sum);
    for begin in 1..counts.len().saturating_sub(width - 1) {
        sum = sum + u64::from(counts[begin + width - 1]) - u64::from(counts[begin - 1]);
        if sum > best_sum {
            (best, best_sum) = (begin, sum);
        }
    }
    best
}
