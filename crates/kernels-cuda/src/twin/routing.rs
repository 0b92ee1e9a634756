//! Which experts tokens are sent to.

use super::math::exp;
use super::sums::warp_sum;

/// An expert, and the weight of what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Chosen {
    /// The expert's index.
    pub expert: u32,
    /// Its part.
    pub weight: f32,
}

/// The `top_k` largest logits, largest first, lowest index first among equals, a NaN less than everything; weights are
/// `e^(logit - largest)`, divided by their sum in that order, or without `norm_top_k` by that of all experts, which a
/// warp adds up: lane `i` those of experts `i`, `i + 32`, ... ascending.
pub fn choose(logits: &[f32], top_k: usize, norm_top_k: bool) -> Vec<Chosen> {
    let mut left: Vec<u32> = (0..logits.len() as u32).collect();
    let mut order = Vec::new();
    for _ in 0..top_k {
        let of_left: Vec<f32> = left.iter().map(|expert| logits[*expert as usize]).collect();
        // A NaN compares as less than everything.
        let key = |idx: usize| Some(of_left[idx]).filter(|logit| !logit.is_nan());
        let better = |best: usize, next: usize| if key(next) > key(best) { next } else { best };
        order.push(left.remove((0..left.len()).reduce(better).expect("fewer than there are")));
    }
    let greatest = order.first().map_or(0.0, |expert| logits[*expert as usize]);
    let power = |expert: &u32| exp(logits[*expert as usize] - greatest);
    let total = if norm_top_k {
        order.iter().map(power).fold(0.0, |sum, power| sum + power)
    } else {
        let mut lanes = [0f32; 32];
        (0..logits.len() as u32).for_each(|expert| lanes[expert as usize % 32] += power(&expert));
        warp_sum(lanes)
    };
    order.iter().map(|expert| Chosen { expert: *expert, weight: power(expert) / total }).collect()
}
