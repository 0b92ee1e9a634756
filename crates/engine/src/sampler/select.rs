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

/// Keeps the likeliest tokens until their weights reach `enough`, the one that reaches it included; likeliest first.
///
/// ```text
/// size = 64; loop: bring the next `size` likeliest to the front, sort them, add up; size *= 4
/// ```
pub fn top_weight(
    candidates: &mut Vec<Candidate>, // (n_candidates)
    enough: f64,
    is_sorted: bool,
) {
    const FIRST_SIZE: usize = 64;
    let (mut n_sorted, mut size) = (if is_sorted { candidates.len() } else { 0 }, FIRST_SIZE);
    let (mut idx, mut sum) = (0, 0.0);
    while idx < candidates.len() {
        if idx == n_sorted {
            let rest = &mut candidates[n_sorted..];
            let n_next = size.min(rest.len());
            if n_next < rest.len() {
                rest.select_nth_unstable_by(n_next, by_likelihood);
            }
            rest[..n_next].sort_unstable_by(by_likelihood);
            n_sorted += n_next;
            size *= 4;
        }
        sum += candidates[idx].weight;
        idx += 1;
        if sum >= enough {
            break;
        }
    }
    candidates.truncate(idx);
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
            share in 0.0f64..1.2,
        ) {
            let weight = |logit: f32| f64::from(logit / 4.0).exp();
            let mut candidates: Vec<Candidate> = logits.iter().enumerate()
                .map(|(id, &logit)| Candidate { logit, id: id as u32, weight: weight(logit) }).collect();
            let enough = share * candidates.iter().map(|candidate| candidate.weight).sum::<f64>();
            let order = sorted(&logits);
            let (mut n, mut sum) = (0, 0.0);
            while n < order.len() && (n == 0 || sum < enough) {
                sum += weight(logits[order[n] as usize]);
                n += 1;
            }
            top_weight(&mut candidates, enough, false);
            prop_assert_eq!(ids(&candidates), &order[..n]);
        }
    }
}
