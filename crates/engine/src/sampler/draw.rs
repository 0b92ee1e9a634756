//! A token drawn by its probability: goes in logits and how to draw, comes out a token id, the one that the definition
//! [`twin::draw`](netweight_kernels_cuda::twin::draw) says by sorting. Next in the flow: sample.rs.
//!
//! ```text
//! top_k       find the k-th greatest logit; gather what is not less
//! weigh       each logit has an integer weight; the likeliest has 2^40
//! top_p       find the logit at which greater ones have that share of all weights; less likely ones weigh 0
//! min_p       who weighs less than that share of 2^40 weighs 0
//! draw        walk to the token at which the sum of weights exceeds a random share of the total
//! ```

use netweight_kernels_cuda::twin::{Draw, short_of, weight};

/// Logits whose maximum is found together.
const BLOCK: usize = 64;

/// Memory for one draw at a time. Nothing is allocated after construction.
pub struct Drawing {
    maxima: Vec<f32>,  // (n_blocks), the greatest logit of each
    ids: Vec<u32>,     // (n_kept), ascending: what top_k leaves
    logits: Vec<f32>,  // (n_kept), of those
    weights: Vec<u64>, // (n_kept), or (vocab_size) without top_k
    select: Select,
}

impl Drawing {
    /// For that many tokens.
    pub fn new(vocab_size: usize) -> Drawing {
        Drawing {
            maxima: Vec::with_capacity(vocab_size.div_ceil(BLOCK)),
            ids: Vec::with_capacity(vocab_size),
            logits: Vec::with_capacity(vocab_size),
            weights: Vec::with_capacity(vocab_size),
            select: Select { sums: vec![0; N_BINS], left: Vec::with_capacity(vocab_size) },
        }
    }

    /// Draws a token.
    pub fn draw(
        &mut self,
        logits: &[f32], // (vocab_size), none a NaN or +Inf, one finite
        how: &Draw,
    ) -> u32 {
        self.maxima.clear();
        self.maxima.extend(logits.chunks(BLOCK).map(largest));
        let largest = largest(&self.maxima);
        let n_top = how.top_k as usize;
        let is_cut = (1..logits.len()).contains(&n_top);
        if is_cut {
            self.keep_top_k(logits, n_top);
        }
        let Drawing { ids, logits: kept, weights, select, .. } = self;
        let logits = if is_cut { kept } else { logits };
        weights.clear();
        weights.extend(logits.iter().map(|&logit| weight(logit, largest, how.inverse_temperature)));
        if how.top_p < u64::MAX {
            let tokens = logits.iter().copied().zip(weights.iter().copied());
            let least = select.least(tokens, |total| short_of(total, how.top_p));
            let of_logits = weights.iter_mut().zip(logits);
            of_logits.for_each(|(weight, logit)| *weight = if *logit < least { 0 } else { *weight });
        }
        if how.min_weight > 0 {
            weights.iter_mut().for_each(|weight| *weight = if *weight < how.min_weight { 0 } else { *weight });
        }
        let total: u64 = weights.iter().sum();
        let idx = first_beyond(weights, ((u128::from(total) * u128::from(how.random)) >> 64) as u64);
        if is_cut { ids[idx] } else { idx as u32 }
    }

    /// Gathers the tokens whose logits are not less than the k-th greatest.
    fn keep_top_k(
        &mut self,
        logits: &[f32], // (vocab_size), whose maxima are known
        n_top: usize,
    ) {
        let Drawing { maxima, ids, logits: kept, select, .. } = self;
        let mut kth = |logits: &[f32]| select.least(logits.iter().map(|&logit| (logit, 1)), |_| n_top as u64 - 1);
        // The k-th greatest of the maxima is a lower bound: most blocks have no logit above it.
        let bound = if n_top <= maxima.len() { kth(maxima) } else { f32::NEG_INFINITY };
        ids.clear();
        for (block_idx, _) in maxima.iter().enumerate().filter(|(_, maximum)| **maximum >= bound) {
            let ids_of_block = block_idx * BLOCK..logits.len().min((block_idx + 1) * BLOCK);
            ids.extend(ids_of_block.filter(|&id| logits[id] >= bound).map(|id| id as u32));
        }
        kept.clear();
        kept.extend(ids.iter().map(|&id| logits[id as usize]));
        let least = kth(kept);
        ids.retain(|&id| logits[id as usize] >= least);
        kept.retain(|&logit| logit >= least);
    }
}

/// The greatest of all logits.
pub fn largest(logits: &[f32], // (n_logits), none a NaN
) -> f32 {
    const N_LANES: usize = 16; // some vectors side by side: a single chain of comparisons would wait for each
    let mut lanes = [f32::NEG_INFINITY; N_LANES];
    let chunks = logits.chunks_exact(N_LANES);
    let rest = chunks.remainder();
    let greater = |a: f32, b: f32| if b > a { b } else { a };
    chunks.for_each(|chunk| lanes.iter_mut().zip(chunk).for_each(|(lane, logit)| *lane = greater(*lane, *logit)));
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, greater)
}

/// Index of the first weight with which their sum exceeds `target`, which the sum of all does.
fn first_beyond(
    weights: &[u64], // (n_weights)
    mut target: u64,
) -> usize {
    const CHUNK: usize = 256;
    for (chunk_idx, chunk) in weights.chunks(CHUNK).enumerate() {
        let sum: u64 = chunk.iter().sum();
        if sum > target {
            let exceeds = |weight: &u64| {
                let is_it = *weight > target;
                target = target.wrapping_sub(*weight);
                is_it
            };
            return chunk_idx * CHUNK + chunk.iter().position(exceeds).unwrap_or(0);
        }
        target -= sum;
    }
    0
}

const DIGIT_BITS: u32 = 11;
const N_BINS: usize = 1 << DIGIT_BITS;

/// Finds thresholds by sums over the digits of logits, which as integers have 32 bits: 11, 11 and the lowest.
struct Select {
    sums: Vec<u64>,        // (N_BINS)
    left: Vec<(u32, u64)>, // (n_left), keys and what they add, of tokens whose first digit is the threshold's
}

impl Select {
    /// The greatest logit such that what it and greater ones add exceeds `beyond(what all add)`.
    fn least(&mut self, tokens: impl Iterator<Item = (f32, u64)> + Clone, beyond: impl FnOnce(u64) -> u64) -> f32 {
        let tokens = tokens.map(|(logit, adds)| (key(logit), adds));
        let mut shift = u32::BITS - DIGIT_BITS;
        self.sum(tokens.clone(), shift);
        let mut beyond = beyond(self.sums.iter().sum());
        let Some(first) = self.digit(&mut beyond) else { return f32::NEG_INFINITY };
        self.left.clear();
        self.left.extend(tokens.filter(|(key, _)| key >> shift == first));
        while shift > 0 {
            shift = shift.saturating_sub(DIGIT_BITS);
            let mut left = std::mem::take(&mut self.left);
            self.sum(left.iter().copied(), shift);
            let Some(digit) = self.digit(&mut beyond) else { break };
            left.retain(|(key, _)| digit_of(*key, shift) == digit);
            self.left = left;
        }
        self.left.first().map_or(f32::NEG_INFINITY, |(key, _)| logit(*key))
    }

    /// Adds up, for each digit, what the tokens that have it add.
    fn sum(&mut self, tokens: impl Iterator<Item = (u32, u64)>, shift: u32) {
        self.sums.fill(0);
        tokens.for_each(|(key, adds)| self.sums[digit_of(key, shift) as usize] += adds);
    }

    /// The greatest digit such that what it and greater ones add exceeds `beyond`, from which greater ones' is taken.
    fn digit(&self, beyond: &mut u64) -> Option<u32> {
        for (digit, sum) in self.sums.iter().enumerate().rev() {
            if sum > beyond {
                return Some(digit as u32);
            }
            *beyond -= sum;
        }
        None
    }
}

/// The digit of a key from bit `shift` on.
fn digit_of(key: u32, shift: u32) -> u32 {
    key >> shift & (N_BINS as u32 - 1)
}

/// A logit as an integer, in the same order; -0 is 0.
fn key(logit: f32) -> u32 {
    let bits = (logit + 0.0).to_bits();
    bits ^ (((bits as i32) >> 31) as u32 | 1 << 31)
}

/// The logit of a key.
fn logit(key: u32) -> f32 {
    f32::from_bits(key ^ (((!key as i32) >> 31) as u32 | 1 << 31))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netweight_kernels_cuda::twin;
    use proptest::prelude::*;

    fn share() -> impl Strategy<Value = u64> {
        prop_oneof![Just(u64::MAX), Just(0), Just(1), any::<u64>(), (0u64..1 << 40)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The definition's token, in every way, of logits that are many or few, alike or not.
        #[test]
        fn the_token_of_the_definition(
            logits in prop_oneof![
                prop::collection::vec(-20.0f32..20.0, 1..900),
                prop::collection::vec((-9i8..9).prop_map(|step| f32::from(step) / 2.0), 1..900),
                prop::collection::vec(prop_oneof![Just(f32::NEG_INFINITY), Just(-0.0), Just(0.0), -1e38f32..1e38], 1..40),
            ],
            (random, top_p) in (share(), share()),
            min_weight in prop_oneof![Just(0), Just(1 << 40), 0u64..1 << 40, 0u64..1 << 30],
            inverse_temperature in prop_oneof![Just(1.0f32), Just(f32::MAX), Just(1e-45), 0.1f32..9.0],
            top_k in prop_oneof![Just(0u32), Just(u32::MAX), 1u32..900, 1u32..20],
        ) {
            let how = Draw { random, top_p, min_weight, inverse_temperature, top_k };
            if let Some(expected) = twin::draw(&logits, &how) {
                let mut drawing = Drawing::new(logits.len());
                for _ in 0..2 {
                    prop_assert_eq!(drawing.draw(&logits, &how), expected, "{:?}", how);
                }
            }
        }

        #[test]
        fn keys_are_in_the_order_of_logits(a in any::<f32>(), b in any::<f32>()) {
            prop_assert_eq!(a < b, key(a) < key(b));
            prop_assert_eq!(a, logit(key(a)));
        }
    }
}
