//! Which tokens stay: the likeliest k, or the likeliest with a certain probability, without sorting the vocabulary.
//! Next in the flow: sample.rs.

use std::cmp::Ordering;

/// A token that may be chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    pub logit: f32, // a number, not NaN
    pub id: u32,
    pub weight: f64, // proportional to the probability
}

/// Likelier first; of equal ones the smaller id.
fn by_likelihood(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.partial_cmp(&a.logit).unwrap_or(Ordering::Equal).then(a.id.cmp(&b.id))
}

/// Puts the k likeliest tokens into `out`, likeliest first.
///
/// ```text
/// heap of k with its least likely token on top
/// for each token: if likelier than the top, take the top's place and sink
/// ```
///
/// Most tokens cost one comparison with the top's logit: later tokens win only with a larger one.
pub fn top_k(
    logits: &[f32], // (vocab_size)
    k: usize,
    out: &mut Vec<Candidate>, // (min(k, vocab_size)), has room
) {
    out.clear();
    let candidate = |(id, &logit): (usize, &f32)| Candidate { logit, id: id as u32, weight: 0.0 };
    let mut tokens = logits.iter().enumerate().map(candidate);
    out.extend(tokens.by_ref().take(k));
    for root in (0..out.len() / 2).rev() {
        sink(out, root);
    }
    for token in tokens {
        if token.logit > out[0].logit {
            out[0] = token;
            sink(out, 0);
        }
    }
    out.sort_unstable_by(by_likelihood);
}

/// Restores the heap below `root`: no token is likelier than those below it.
fn sink(heap: &mut [Candidate], mut root: usize) {
    loop {
        let (left, right) = (2 * root + 1, 2 * root + 2);
        let mut last = root;
        for child in [left, right] {
            if child < heap.len() && by_likelihood(&heap[child], &heap[last]) == Ordering::Greater {
                last = child;
            }
        }
        if last == root {
            return;
        }
        heap.swap(root, last);
        root = last;
    }
}

/// Of candidates that are sorted, keeps the likeliest until their weights reach `enough`, the one that reaches it
/// included.
pub fn top_weight_sorted(
    candidates: &mut Vec<Candidate>, // (n_candidates), likeliest first
    enough: f64,
) {
    let mut sum = 0.0;
    let reaches = |candidate: &Candidate| {
        sum += candidate.weight;
        sum >= enough
    };
    if let Some(last_idx) = candidates.iter().position(reaches) {
        candidates.truncate(last_idx + 1);
    }
}

/// Buckets of weights, 16 for each power of two down to 2^-64; the last one has all that is smaller.
const N_BUCKETS: usize = 1024;

/// A weight's bucket, smaller for larger weights. The bits of positive floats are in the order of their values.
fn bucket(weight: f64) -> usize {
    const BITS_BELOW_BUCKET: u32 = 52 - 4;
    let distance = 1f64.to_bits().saturating_sub(weight.to_bits()) >> BITS_BELOW_BUCKET;
    usize::try_from(distance).map_or(N_BUCKETS - 1, |idx| idx.min(N_BUCKETS - 1))
}

/// Keeps the likeliest tokens until their weights reach `enough`, the one that reaches it included, in the order in
/// which they stand. As [`top_weight_sorted`], but for how sums are rounded.
///
/// ```text
/// add up the weights in buckets, each a sixteenth of a power of two wide
/// find the bucket in which `enough` is reached; sort that one, and find the last token that stays
/// drop all tokens that are less likely than the last one
/// ```
pub fn top_weight(
    candidates: &mut Vec<Candidate>, // (n_candidates), weights at most 1
    enough: f64,
    border: &mut Vec<Candidate>, // scratch, has room for n_candidates
) {
    let mut sums = [0.0f64; N_BUCKETS];
    candidates.iter().for_each(|candidate| sums[bucket(candidate.weight)] += candidate.weight);
    let mut sum = 0.0;
    let reaches = |bucket_sum: &f64| {
        sum += bucket_sum;
        sum >= enough
    };
    let Some(border_idx) = sums.iter().position(reaches) else { return };
    border.clear();
    border.extend(candidates.iter().filter(|candidate| bucket(candidate.weight) == border_idx));
    border.sort_unstable_by(by_likelihood);
    top_weight_sorted(border, enough - sums[..border_idx].iter().sum::<f64>());
    if let Some(last) = border.last() {
        candidates.retain(|candidate| by_likelihood(candidate, last) != Ordering::Greater);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(logits: &[f32]) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
        ids.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        ids
    }

    fn ids(candidates: &[Candidate]) -> Vec<u32> {
        candidates.iter().map(|candidate| candidate.id).collect()
    }

    proptest! {
        #[test]
        fn top_k_is_the_front_of_a_sort(
            logits in prop::collection::vec((-8i8..8).prop_map(f32::from), 1..300),
            k in 1usize..320,
        ) {
            let mut out = Vec::new();
            top_k(&logits, k, &mut out);
            let expected = sorted(&logits);
            prop_assert_eq!(ids(&out), &expected[..k.min(expected.len())]);
        }

        #[test]
        fn top_weight_is_the_front_of_a_sort(
            logits in prop::collection::vec((-8i8..8).prop_map(f32::from), 1..600),
            share in prop_oneof![0.0f64..1.2, Just(1e-300), Just(0.999_999_999)],
        ) {
            let weight = |logit: f32| f64::from((logit - 8.0) / 4.0).exp();
            let mut candidates: Vec<Candidate> = logits.iter().enumerate()
                .map(|(id, &logit)| Candidate { logit, id: id as u32, weight: weight(logit) }).collect();
            let enough = share * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
            let order = sorted(&logits);
            let (mut n, mut sum) = (0, 0.0);
            while n < order.len() && (n == 0 || sum < enough) {
                sum += weight(logits[order[n] as usize]);
                n += 1;
            }
            let mut by_bucket = candidates.clone();
            top_weight(&mut by_bucket, enough, &mut Vec::new());
            let mut expected = order[..n].to_vec();
            expected.sort_unstable();
            prop_assert_eq!(ids(&by_bucket), expected);
            candidates.sort_by(by_likelihood);
            top_weight_sorted(&mut candidates, enough);
            prop_assert_eq!(ids(&candidates), &order[..n]);
        }
    }
}
