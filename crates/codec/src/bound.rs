//! Lower bounds: how few bits elements could take under order-0 entropy coding of their fields.
//!
//! Goes in: the raw bytes of a tensor, in any number of parts. Comes out: a [`BoundReport`] to hold against
//! what an archive really takes.

use netweight_tensor::{Dtype, Layout};

/// Histograms of a tensor's elements.
#[derive(Clone, Debug)]
pub struct Bound {
    dtype: Dtype,
    n_elements: u64,
    counts: Vec<u64>, // floats: (65536,) by the top 16 bits; others: (element_bytes, 256) by byte
}

/// What [`Bound`] found. Bits are totals over all elements.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BoundReport {
    /// Elements of `element_bytes` bytes seen.
    pub n_elements: u64,
    /// Floats: order-0 entropy of the exponent field, and every other bit. Others: order-0 entropy of each byte plane.
    pub bound_bits: f64,
    /// Floats: order-0 entropy of the top 16 bits taken together, and every other bit. Others: as `bound_bits`.
    pub joint_bits: f64,
    /// Floats: the exponent fields that occur and how often, ascending. Others: none.
    pub exponents: Vec<(u16, u64)>,
}

impl Bound {
    /// Empty histograms for elements of `dtype`.
    pub fn new(dtype: Dtype) -> Bound {
        let n_counts = match dtype.layout() {
            Layout::Float16 { .. } => 1 << 16,
            Layout::Bytes | Layout::Float8 => 256 * dtype.element_bytes(),
        };
        Bound { dtype, n_elements: 0, counts: vec![0; n_counts] }
    }

    /// Counts the elements of `raw`; a part of an element at the end is left out.
    pub fn add(&mut self, raw: &[u8]) {
        let element_bytes = self.dtype.element_bytes();
        self.n_elements += (raw.len() / element_bytes) as u64;
        match (self.dtype.layout(), element_bytes) {
            (Layout::Float16 { .. }, _) => {
                for element in raw.chunks_exact(element_bytes) {
                    if let Some(&top) = element.last_chunk::<2>() {
                        self.counts[usize::from(u16::from_le_bytes(top))] += 1;
                    }
                }
            }
            (Layout::Bytes | Layout::Float8, _) => {
                for element in raw.chunks_exact(element_bytes) {
                    for (plane_idx, &byte) in element.iter().enumerate() {
                        self.counts[plane_idx * 256 + usize::from(byte)] += 1;
                    }
                }
            }
        }
    }

    /// Adds the counts of `other`, which must be of the same dtype; of another dtype, nothing is added.
    pub fn merge(&mut self, other: &Bound) {
        if self.dtype != other.dtype {
            return;
        }
        self.n_elements += other.n_elements;
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
    }

    /// The bounds for what was counted.
    pub fn report(&self) -> BoundReport {
        let n_elements = self.n_elements;
        let Layout::Float16 { exponent_bits } = self.dtype.layout() else {
            let bits = self.counts.chunks(256).map(entropy_bits).sum();
            return BoundReport { n_elements, bound_bits: bits, joint_bits: bits, exponents: Vec::new() };
        };
        let mut exponent_counts = vec![0u64; 1 << exponent_bits];
        for (top, count) in self.counts.iter().enumerate() {
            exponent_counts[(top & 0x7fff) >> (15 - exponent_bits)] += count;
        }
        let element_bits = 8.0 * self.dtype.element_bytes() as f64;
        let others = n_elements as f64 * (element_bits - f64::from(exponent_bits));
        let below_top = n_elements as f64 * (element_bits - 16.0);
        let occurring = (0u16..).zip(&exponent_counts).filter(|&(_, &count)| count > 0);
        BoundReport {
            n_elements,
            bound_bits: entropy_bits(&exponent_counts) + others,
            joint_bits: entropy_bits(&self.counts) + below_top,
            exponents: occurring.map(|(exponent, &count)| (exponent, count)).collect(),
        }
    }
}

/// Bits that symbols with these counts take in all.
fn entropy_bits(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 * (total / count as f64).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let check = |name: &str, raw: &[u8], bound: f64, joint: f64, exponents: &[(u16, u64)]| {
            let mut counted = Bound::new(Dtype::from_name(name));
            counted.add(raw);
            let report = counted.report();
            assert_eq!((report.bound_bits, report.joint_bits), (bound, joint), "{name} {raw:?}");
            assert_eq!(report.exponents, exponents, "{name} {raw:?}");
            let mut twice = counted.clone();
            twice.merge(&counted);
            assert_eq!(twice.report().bound_bits, 2.0 * bound);
        };
        check("BF16", &[], 0.0, 0.0, &[]);
        check("BF16", &[0x80, 0x3f, 0x80, 0x3f], 16.0, 0.0, &[(127, 2)]);
        check("BF16", &[0x80, 0x3f, 0x00, 0x40], 18.0, 2.0, &[(127, 1), (128, 1)]);
        check("F16", &[0x00, 0x3c], 11.0, 0.0, &[(15, 1)]);
        check("F32", &[1, 2, 0x80, 0xbf], 24.0, 16.0, &[(127, 1)]);
        check("F64", &[0, 0, 0, 0, 0, 0, 0xf0, 0x3f], 53.0, 48.0, &[(1023, 1)]);
        check("U8", &[1, 2, 1, 2], 4.0, 4.0, &[]);
        check("I16", &[1, 0, 2, 0], 2.0, 2.0, &[]);
    }
}
