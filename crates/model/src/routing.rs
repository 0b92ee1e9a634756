//! Which experts a token is sent to: go in a router's logits, come out each expert's tokens and their weights.
//!
//! All on the host and in one order, so that a token's choice does not depend on the batch around it.
//! Next in the flow: back to forward.rs.

use crate::spec::Routed;

/// Rows of one router and what they were sent to. Allocated once.
pub(crate) struct Routing {
    pub logits: Vec<f32>, // (max_tokens, most experts), of which forward fills (n_tokens, n_experts)
    order: Vec<u32>,      // (most top_k): the experts of one token, largest weight first
    chosen: Vec<Chosen>,  // (n_tokens, top_k)
    starts: Vec<usize>,   // (n_experts + 1): where an expert's rows begin
    rows: Vec<u32>,       // (n_tokens * top_k): by expert, then by token
    weights: Vec<f32>,    // (n_tokens * top_k)
}

#[derive(Clone, Copy)]
struct Chosen {
    expert_idx: u32,
    weight: f32,
}

impl Routing {
    pub fn new(max_tokens: usize, most_experts: usize, max_top_k: usize) -> Routing {
        Routing {
            logits: vec![0.0; max_tokens * most_experts],
            order: Vec::with_capacity(max_top_k),
            chosen: Vec::with_capacity(max_tokens * max_top_k),
            starts: vec![0; most_experts + 1],
            rows: vec![0; max_tokens * max_top_k],
            weights: vec![0.0; max_tokens * max_top_k],
        }
    }

    /// Routes the first `n_tokens` rows of `logits`, each of `routed.n_experts`.
    pub fn route(&mut self, routed: &Routed, n_tokens: usize) {
        self.chosen.clear();
        for row in self.logits[..n_tokens * routed.n_experts].chunks_exact(routed.n_experts) {
            choose(row, routed, &mut self.order, &mut self.chosen);
        }
        self.sort_by_expert(routed);
    }

    /// An expert's tokens, ascending, and their weights.
    pub fn of_expert(&self, expert_idx: usize) -> (&[u32], &[f32]) {
        let range = self.starts[expert_idx]..self.starts[expert_idx + 1];
        (&self.rows[range.clone()], &self.weights[range])
    }

    /// A counting sort: stable, so tokens stay in order.
    fn sort_by_expert(&mut self, routed: &Routed) {
        let starts = &mut self.starts[..=routed.n_experts];
        starts.fill(0);
        for chosen in &self.chosen {
            starts[chosen.expert_idx as usize + 1] += 1;
        }
        for expert_idx in 0..routed.n_experts {
            starts[expert_idx + 1] += starts[expert_idx];
        }
        // While rows are dealt out, `starts[e]` is where the next one of expert `e` goes; afterwards it is where those
        // of `e + 1` begin, one place off.
        for (idx, chosen) in self.chosen.iter().enumerate() {
            let next = &mut starts[chosen.expert_idx as usize];
            self.rows[*next] = (idx / routed.top_k) as u32;
            self.weights[*next] = chosen.weight;
            *next += 1;
        }
        starts.copy_within(..routed.n_experts, 1);
        starts[0] = 0;
    }
}

/// Softmax over one row, then the `top_k` largest, lowest index first among equals.
fn choose(
    logits: &[f32], // (n_experts)
    routed: &Routed,
    order: &mut Vec<u32>,
    chosen: &mut Vec<Chosen>,
) {
    order.clear();
    for _ in 0..routed.top_k {
        let is_left = |expert_idx: &u32| !order.contains(expert_idx);
        // A NaN compares as less than everything, so that damaged weights still choose some expert.
        let key = |expert_idx: u32| Some(logits[expert_idx as usize]).filter(|logit| !logit.is_nan());
        let better = |best: u32, next: u32| if key(next) > key(best) { next } else { best };
        order.extend((0..logits.len() as u32).filter(is_left).reduce(better));
    }
    let max = order.first().map_or(0.0, |expert_idx| logits[*expert_idx as usize]);
    let exp = |logit: f32| libm::exp(f64::from(logit - max)) as f32;
    let sum = |logits: &mut dyn Iterator<Item = f32>| logits.map(|logit| f64::from(exp(logit))).sum::<f64>() as f32;
    let of_chosen = |expert_idx: &u32| logits[*expert_idx as usize];
    let total =
        if routed.norm_top_k { sum(&mut order.iter().map(of_chosen)) } else { sum(&mut logits.iter().copied()) };
    let weigh = |expert_idx: &u32| Chosen { expert_idx: *expert_idx, weight: exp(of_chosen(expert_idx)) / total };
    chosen.extend(order.iter().map(weigh));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Activation;

    /// Each expert's rows and weights.
    fn check(logits: &[f32], top_k: usize, norm_top_k: bool, expected: &[&[(u32, f32)]]) {
        let n_experts = expected.len();
        let routed = Routed { n_experts, top_k, width: 1, norm_top_k, activation: Activation::Silu };
        let n_tokens = logits.len() / n_experts;
        let mut routing = Routing::new(n_tokens, n_experts, top_k);
        for _ in 0..2 {
            routing.logits[..logits.len()].copy_from_slice(logits);
            routing.route(&routed, n_tokens);
            for (expert_idx, expected) in expected.iter().enumerate() {
                let (rows, weights) = routing.of_expert(expert_idx);
                assert_eq!(rows, expected.iter().map(|(row, _)| *row).collect::<Vec<u32>>(), "expert {expert_idx}");
                for (weight, (_, expected)) in weights.iter().zip(*expected) {
                    assert!((weight - expected).abs() < 1e-6, "expert {expert_idx}: {weight}, not {expected}");
                }
            }
        }
    }

    #[test]
    fn tokens_go_to_their_largest() {
        let ln = |odds: f32| odds.ln();
        let logits = [ln(1.0), ln(2.0), ln(5.0), ln(3.0), ln(4.0), ln(1.0)];
        check(&logits, 1, true, &[&[], &[(1, 1.0)], &[(0, 1.0)]]);
        check(&logits, 1, false, &[&[], &[(1, 0.5)], &[(0, 0.625)]]);
        check(&logits, 2, true, &[&[(1, 3.0 / 7.0)], &[(0, 2.0 / 7.0), (1, 4.0 / 7.0)], &[(0, 5.0 / 7.0)]]);
        check(&[1.0, 1.0, 1.0], 2, true, &[&[(0, 0.5)], &[(0, 0.5)], &[]]);
    }

    #[test]
    fn damaged_logits_choose_someone() {
        let routed = Routed { n_experts: 3, top_k: 2, width: 1, norm_top_k: true, activation: Activation::Silu };
        for logits in [[f32::NAN; 3], [f32::INFINITY; 3], [f32::NEG_INFINITY, f32::NAN, 0.0]] {
            let mut routing = Routing::new(1, 3, 2);
            routing.logits.copy_from_slice(&logits);
            routing.route(&routed, 1);
            assert_eq!((0..3).map(|expert_idx| routing.of_expert(expert_idx).0.len()).sum::<usize>(), 2);
        }
    }
}
