//! Counts to frequencies that sum to a power of two, at the least cost in coded bits.

use crate::log2::LOG2;

/// Fills `freq` so that it sums to `total`, every non-zero count gets at least 1 and every zero count 0.
/// Greedy: start from the rounded-down share, then move one unit at a time where it saves (or costs) least.
/// `total` is at most 4096 and at least the number of non-zero counts, of which there is at least one.
pub(crate) fn normalize(counts: &[u32], total: u32, freq: &mut [u32]) {
    let n: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let mut sum = 0;
    for (freq, &count) in freq.iter_mut().zip(counts) {
        let share = (u64::from(count) * u64::from(total) / n) as u32;
        *freq = if count == 0 { 0 } else { share.max(1) };
        sum += *freq;
    }
    // Bits (times 2^16) saved by raising symbol `s` from `f` to `f + 1`.
    let gain = |s: usize, f: u32| u64::from(counts[s]) * u64::from(LOG2[f as usize + 1] - LOG2[f as usize]);
    while sum < total {
        let best = (0..counts.len()).filter(|&s| counts[s] > 0).max_by_key(|&s| gain(s, freq[s]));
        freq[best.expect("a non-zero count")] += 1;
        sum += 1;
    }
    while sum > total {
        let best = (0..counts.len()).filter(|&s| freq[s] > 1).min_by_key(|&s| gain(s, freq[s] - 1));
        freq[best.expect("more units than symbols")] -= 1;
        sum -= 1;
    }
}

/// Bits times 2^16 that `counts` cost under `freq`, which sums to `1 << total_bits`.
pub(crate) fn cost(counts: &[u32], freq: &[u32], total_bits: u32) -> u64 {
    let symbol = |(&count, &freq): (&u32, &u32)| u64::from(count) * u64::from((total_bits << 16) - LOG2[freq as usize]);
    counts.iter().zip(freq).filter(|(count, _)| **count > 0).map(symbol).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sums_and_keeps_presence(counts in prop::collection::vec(prop_oneof![Just(0u32), 1u32..10, 1u32..1_000_000], 1..200)) {
            prop_assume!(counts.iter().any(|&count| count > 0));
            let mut freq = vec![0; counts.len()];
            normalize(&counts, 256, &mut freq);
            prop_assert_eq!(freq.iter().sum::<u32>(), 256);
            prop_assert!(counts.iter().zip(&freq).all(|(&count, &freq)| (count > 0) == (freq > 0)));
        }
    }
}
