//! What one position's logits say: goes in a row of logits and the token that came, comes out a [`Score`], or how
//! far two rows lie apart. Next in the flow: perplexity.rs and compare.rs.

/// Logits as log-probabilities are needed only at a few places, so a row is kept as it is with its normaliser.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// ln of the sum of exp(logit - top), plus top: ln p(token) = logit[token] - `ln_total`.
    pub ln_total: f64,
    /// Index of the largest logit; the first of equals.
    pub top: usize,
    /// -ln p(token that came), in nats.
    pub nll: f64,
}

/// Scores a row of logits. `logits: (vocab_size)`, `token < vocab_size`.
pub fn score(logits: &[f32], token: u32) -> Score {
    let top = argmax(logits);
    let highest = f64::from(logits[top]);
    let total: f64 = logits.iter().map(|&logit| (f64::from(logit) - highest).exp()).sum();
    let ln_total = highest + total.ln();
    Score { ln_total, top, nll: ln_total - f64::from(logits[token as usize]) }
}

/// Kullback-Leibler divergence of `other` from `base` in nats, sum over p (ln p - ln q), never below 0.
/// `base, other: (vocab_size)`, each with its `ln_total`.
pub fn divergence(base: (&[f32], f64), other: (&[f32], f64)) -> f64 {
    let mut sum = 0.0;
    for (&p, &q) in base.0.iter().zip(other.0) {
        let ln_p = f64::from(p) - base.1;
        let probability = ln_p.exp();
        if probability > 0.0 {
            sum += probability * (ln_p - (f64::from(q) - other.1));
        }
    }
    sum.max(0.0)
}

/// [`divergence`], and the sum of min(p, q), in one pass.
pub fn distance(base: (&[f32], f64), other: (&[f32], f64)) -> (f64, f64) {
    let (mut divergence, mut acceptance) = (0.0, 0.0);
    for (&p, &q) in base.0.iter().zip(other.0) {
        let (ln_p, ln_q) = (f64::from(p) - base.1, f64::from(q) - other.1);
        let probability = ln_p.exp();
        acceptance += probability.min(ln_q.exp());
        if probability > 0.0 {
            divergence += probability * (ln_p - ln_q);
        }
    }
    (divergence.max(0.0), acceptance)
}

/// Index of the largest value; the first of equals, 0 of nothing.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (idx, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = idx;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn even_logits_are_worth_the_log_of_their_number() {
        let scored = score(&[1.5; 8], 3);
        assert!((scored.nll - 8f64.ln()).abs() < 1e-12);
        assert_eq!(scored.top, 0);
    }

    #[test]
    fn huge_logits_do_not_overflow() {
        let scored = score(&[1e30, -1e30, 0.0], 0);
        assert_eq!(scored.nll, 0.0);
        assert!(score(&[1000.0, 0.0], 1).nll >= 1000.0);
    }

    #[test]
    fn divergence_is_that_of_two_coins() {
        let (p, q) = ([0.25f32.ln(), 0.75f32.ln()], [0.5f32.ln(), 0.5f32.ln()]);
        let (a, b) = (score(&p, 0).ln_total, score(&q, 0).ln_total);
        let expected = 0.25 * 0.5f64.ln() + 0.75 * 1.5f64.ln();
        assert!((divergence((&p, a), (&q, b)) - expected).abs() < 1e-6);
        assert_eq!(divergence((&p, a), (&p, a)), 0.0);
        let shifted = [p[0] + 3.0, p[1] + 3.0];
        assert!(divergence((&p, a), (&shifted, score(&shifted, 0).ln_total)) < 1e-6);
    }
}
