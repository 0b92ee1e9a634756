//! Scores of SentencePiece and ranks of merges: two ways to say in which order pairs become tokens.

use std::collections::{HashMap, HashSet};

/// A pair and the token that it becomes.
pub(super) type Merge<'a> = (&'a str, &'a str);

/// All ways to make each token of two others, best token first.
///
/// SentencePiece merges whichever two neighbours make the token of the highest score. As ranks: merges in the order of
/// their tokens' scores; of those that make the same token, the ones of better parts first.
pub(super) fn merges_of_scores<'a>(tokens: &[(&'a str, f32)]) -> Vec<Merge<'a>> {
    let scores: HashMap<&str, f32> = tokens.iter().copied().collect();
    let mut ranked: Vec<&(&str, f32)> = tokens.iter().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1)); // Stable: equal scores stay in the order of ids.
    let mut merges = Vec::new();
    for (token, _) in ranked {
        let cuts = token.char_indices().skip(1).map(|(at, _)| token.split_at(at));
        let mut pairs: Vec<(f32, f32, Merge)> =
            cuts.filter_map(|(left, right)| Some((*scores.get(left)?, *scores.get(right)?, (left, right)))).collect();
        pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1)));
        merges.extend(pairs.into_iter().map(|(_, _, merge)| merge));
    }
    merges
}

/// A score for each token such that [`merges_of_scores`] gives these merges again, up to the order of those that make
/// the same token. `None` where there are no such scores.
pub(super) fn scores_of_merges<'a>(tokens: &[&'a str], merges: &[Merge<'a>]) -> Option<Vec<f32>> {
    let mut ranks: HashMap<String, usize> = HashMap::new();
    let mut last = String::new();
    for (left, right) in merges {
        let token = format!("{left}{right}");
        if token != last && ranks.insert(token.clone(), ranks.len()).is_some() {
            return None; // Another token is made in between: no single score says that.
        }
        last = token;
    }
    let n_ranks = ranks.len();
    // Beyond 2^24 neighbouring floats are the same.
    if n_ranks + tokens.len() > 1 << 24 {
        return None;
    }
    let score = |(idx, token): (usize, &&str)| -(*ranks.get(*token).unwrap_or(&(n_ranks + idx)) as f32);
    let scores: Vec<f32> = tokens.iter().enumerate().map(score).collect();
    let scored: Vec<(&str, f32)> = tokens.iter().copied().zip(scores.iter().copied()).collect();
    let again = merges_of_scores(&scored);
    let (found, given): (HashSet<Merge>, HashSet<Merge>) =
        (again.into_iter().collect(), merges.iter().copied().collect());
    (found == given).then_some(scores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_become_merges_and_back() {
        // As in the files of Llama 2, single characters are the last.
        let chars = [("a", -20.0), ("b", -21.0), ("c", -22.0)];
        let tokens = [[("ab", -1.0), ("bc", -2.0), ("abc", -3.0)], chars].concat();
        let merges = merges_of_scores(&tokens);
        assert_eq!(merges, [("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")]);
        let names: Vec<&str> = tokens.iter().map(|token| token.0).collect();
        let scores = scores_of_merges(&names, &merges).unwrap();
        let again: Vec<(&str, f32)> = names.iter().copied().zip(scores).collect();
        assert_eq!(merges_of_scores(&again), merges);
    }

    #[test]
    fn merges_that_no_scores_give() {
        let names = ["a", "b", "c", "ab", "bc", "abc"];
        let check = |merges: &[Merge]| assert!(scores_of_merges(&names, merges).is_none(), "{merges:?}");
        check(&[("a", "b"), ("b", "c"), ("ab", "c")]); // ("a", "bc") is missing.
        check(&[("b", "c"), ("a", "bc"), ("a", "b"), ("ab", "c")]); // "abc" is made twice, apart.
    }
}
