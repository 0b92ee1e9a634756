//! What indices cost. Goes in: indices of a grid. Comes out: bits, as a static coder without context would need them,
//! with its tables; and the price of each index, for who chooses between two. Next in the flow: quantize.rs.

use rayon::prelude::*;

/// Weights that may share a table of frequencies, as one chunk of an archive: the best of these for each matrix.
pub const CHUNK_WEIGHTS: [usize; 4] = [1 << 16, 1 << 17, 1 << 18, 1 << 20];
/// Bits of a table for each symbol from the least to the largest that occurs, and once for the chunk: its directory
/// entry, checksum, and the states of the coder.
const TABLE_BITS: [f64; 2] = [8.0, 1024.0];
/// Index `i` is symbol `i + 128`.
pub(crate) const N_SYMBOLS: usize = 256;

/// How often each index occurs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts(pub(crate) Box<[u64; N_SYMBOLS]>);

impl Counts {
    /// Of these indices.
    pub fn of(indices: &[i8]) -> Counts {
        let mut counts = Box::new([0; N_SYMBOLS]);
        indices.iter().for_each(|&index| counts[symbol(index)] += 1);
        Counts(counts)
    }

    /// Their entropy, in bits for all of them.
    pub fn entropy_bits(&self) -> f64 {
        let total: u64 = self.0.iter().sum();
        let cost = |&count: &u64| if count == 0 { 0.0 } else { count as f64 * (total as f64 / count as f64).log2() };
        self.0.iter().map(cost).sum()
    }

    /// Entropy and table.
    pub fn coded_bits(&self) -> f64 {
        let least = self.0.iter().position(|&count| count > 0);
        let largest = self.0.iter().rposition(|&count| count > 0);
        let span = least.zip(largest).map_or(0, |(least, largest)| largest - least + 1);
        self.entropy_bits() + TABLE_BITS[0] * span as f64 + TABLE_BITS[1]
    }

    /// Bits of each index. Those that never occurred cost as if they had occurred half a time, and more the further
    /// they are from those that did.
    pub fn prices(&self) -> Vec<f32> {
        let total: u64 = self.0.iter().sum::<u64>().max(1);
        let price = |&count: &u64| {
            let count = if count == 0 { 0.5 } else { count as f64 };
            (total as f64 / count).log2().max(0.0) as f32
        };
        self.0.iter().map(price).collect()
    }
}

pub(crate) fn symbol(index: i8) -> usize {
    (i16::from(index) + 128) as usize
}

/// Bits of all indices, (rows, cols), coded in chunks of whole rows, and the rows of a chunk that are best.
pub fn coded_bits(indices: &[i8], cols: usize) -> (f64, usize) {
    let of = |n_weights: usize| {
        let n_rows = (n_weights / cols.max(1)).max(1);
        let chunks = indices.par_chunks(n_rows * cols.max(1)).map(|chunk| Counts::of(chunk).coded_bits());
        (chunks.collect::<Vec<f64>>().iter().sum::<f64>(), n_rows)
    };
    CHUNK_WEIGHTS.into_iter().map(of).min_by(|a, b| a.0.total_cmp(&b.0)).unwrap_or((0.0, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy() {
        let four: Vec<i8> = (0..4096).map(|idx| (idx % 4) as i8 - 2).collect();
        assert_eq!(Counts::of(&four).entropy_bits(), 8192.0);
        assert_eq!(Counts::of(&four).coded_bits(), 8192.0 + 4.0 * 8.0 + 1024.0);
        assert_eq!(Counts::of(&[7; 100]).entropy_bits(), 0.0);
        assert_eq!(Counts::of(&[]).entropy_bits(), 0.0);
        let prices = Counts::of(&four).prices();
        assert_eq!((prices[symbol(-2)], prices[symbol(1)], prices[symbol(2)]), (2.0, 2.0, 13.0));
    }

    #[test]
    fn chunks_have_tables_of_their_own() {
        let n = CHUNK_WEIGHTS[2];
        let indices: Vec<i8> = (0..2 * n).map(|idx| (idx / n) as i8).collect();
        assert_eq!(coded_bits(&indices, 256), (2.0 * (8.0 + 1024.0), n / 256));
        assert_eq!(coded_bits(&[1; 64], 64), (8.0 + 1024.0, (1 << 16) / 64));
    }
}
