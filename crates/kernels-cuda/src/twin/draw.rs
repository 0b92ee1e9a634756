//! A token drawn by its probability. Weights are integers, so that sums of them do not depend on an order: GPUs, this
//! definition, and the sampler of hosts choose the same token.

use bytemuck::{Pod, Zeroable};

/// How to draw a token from a row of logits, as a kernel reads it.
///
/// The steps, in this order; thresholds are logits, and what equals one stays:
///
/// ```text
/// top_k       logits from the k-th greatest on stay                               Fan et al. 2018, arXiv:1805.04833
/// top_p       of those, logits from the greatest t on stay for which the
///             weights of logits >= t reach that share of all that stayed          Holtzman et al. 2019, arXiv:1904.09751
/// min_weight  of those, tokens of at least that weight stay                       Nguyen et al. 2024, arXiv:2407.01082
/// draw        the first of those, by id, at which the sum of weights
///             exceeds random / 2^64 of the sum of all, rounded down
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct Draw {
    /// The random number.
    pub random: u64,
    /// A share in units of 2^-64; `u64::MAX` keeps all.
    pub top_p: u64,
    /// In units of [`weight`]; 0 keeps all. Not above 2^40, which the likeliest token has.
    pub min_weight: u64,
    /// 1 / temperature: finite, above 0.
    pub inverse_temperature: f32,
    /// A number of tokens; 0 keeps all.
    pub top_k: u32,
}

/// Logits of a row must be fewer, so that no sum of weights overflows.
pub const MAX_DRAW_WIDTH: usize = 1 << 24;

/// `2^40 e^z` rounded down, for `z = (logit - largest) inverse_temperature`, which is not positive.
///
/// Of additions and multiplications alone, none of them fused, because hosts without a fused multiply-add would call a
/// function for each. Coefficients are those of [`super::math`]; the error is below 2^-21 of the value.
#[inline]
#[must_use]
pub fn weight(logit: f32, largest: f32, inverse_temperature: f32) -> u64 {
    const ROUNDER: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
    const ZERO_BELOW: f32 = -64.0; // where the result has long been 0
    let z = (logit - largest) * inverse_temperature;
    let z = if z > ZERO_BELOW { z } else { ZERO_BELOW };
    let shifted = z * std::f32::consts::LOG2_E + ROUNDER;
    let n = shifted - ROUNDER;
    let r = (z - n * 0.693_145_75) - n * 1.428_606_8e-6;
    let q = 0.001_381_458_2 * r + 0.008_368_718;
    let q = q * r + 0.041_668_39;
    let q = q * r + 0.166_665_21;
    let q = q * r + 0.499_999_94;
    let power = (r * r) * q + r + 1.0;
    // 2^(n + 40): the low bits of `shifted` are n in two's complement.
    floor(power * f32::from_bits((shifted.to_bits() << 23).wrapping_add((127 + 40) << 23)))
}

/// `value as u64` for values from 0 to 2^51: a cast is no instruction for vectors.
#[inline]
fn floor(value: f32) -> u64 {
    const ROUNDER: f64 = (1u64 << 52) as f64;
    let value = f64::from(value);
    let rounded = value + ROUNDER;
    rounded.to_bits() - ROUNDER.to_bits() - u64::from(rounded - ROUNDER > value)
}

/// The number that sums must exceed to reach a share of `total`, in units of 2^-64: reaching it means `>=`.
#[inline]
#[must_use]
pub fn short_of(total: u64, share: u64) -> u64 {
    ((u128::from(total) * u128::from(share.max(1)) - 1) >> 64) as u64
}

/// A token; `None` where no token can be chosen, as in [`likeliest`](super::likeliest).
///
/// # Panics
/// Where there are [`MAX_DRAW_WIDTH`] logits.
pub fn draw(x: &[f32], how: &Draw) -> Option<u32> {
    assert!(x.len() < MAX_DRAW_WIDTH);
    let largest = x[super::likeliest(x)? as usize];
    let weights: Vec<u64> = x.iter().map(|&logit| weight(logit, largest, how.inverse_temperature)).collect();
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|&a, &b| x[b].partial_cmp(&x[a]).expect("no NaN"));
    let mut least = f32::NEG_INFINITY;
    if (1..x.len()).contains(&(how.top_k as usize)) {
        least = x[order[how.top_k as usize - 1]];
    }
    if how.top_p < u64::MAX {
        order.retain(|&id| x[id] >= least);
        let beyond = short_of(order.iter().map(|&id| weights[id]).sum(), how.top_p);
        let sums = order.iter().scan(0, |sum: &mut u64, &id| {
            *sum += weights[id];
            Some(*sum)
        });
        least = x[order[sums.take_while(|&sum| sum <= beyond).count()]];
    }
    let stays = |id: usize| x[id] >= least && weights[id] >= how.min_weight;
    let weight_of = |id: usize| if stays(id) { weights[id] } else { 0 };
    let total: u64 = (0..x.len()).map(weight_of).sum();
    let target = ((u128::from(total) * u128::from(how.random)) >> 64) as u64;
    let mut sum = 0;
    let exceeds = |id: &usize| {
        sum += weight_of(*id);
        sum > target
    };
    (0..x.len()).find(exceeds).map(|id| id as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_exponentials() {
        for i in 0..400_000 {
            let z = -30.0 * i as f32 / 400_000.0;
            let exact = f64::from(z).exp() * (1u64 << 40) as f64;
            assert!((weight(z, 0.0, 1.0) as f64 - exact).abs() <= 1.0 + exact / f64::from(1 << 21), "{z}");
        }
        for (logit, largest) in [(f32::MIN, f32::MAX), (f32::NEG_INFINITY, 0.0), (-40.0, -0.0)] {
            assert_eq!(weight(logit, largest, 1.0), 0);
            assert_eq!(weight(logit, largest, f32::MAX), 0);
            assert_eq!(weight(largest, largest, f32::MAX), 1 << 40);
        }
        assert_eq!(weight(f32::NEG_INFINITY, f32::MAX, 1e-45), 0);
    }

    #[test]
    fn floors() {
        let table =
            [(0.0, 0), (1e-30, 0), (0.5, 0), (0.999_999_9, 0), (1.0, 1), (1.5, 1), (2.5, 2), (8_388_607.5, 8_388_607)];
        table.iter().for_each(|&(value, expected)| assert_eq!(floor(value), expected, "{value}"));
        (0..=40).for_each(|power| assert_eq!(floor((1u64 << power) as f32), 1 << power));
    }

    /// Bits that every machine must give.
    #[test]
    fn weights_are_fixed() {
        let of = |z: f32| weight(z, 0.0, 1.0);
        assert_eq!(
            [of(-0.1), of(-1.0), of(-2.5), of(-20.25), of(-27.7)],
            [994_879_275_008, 404_487_733_248, 90_253_410_304, 1764, 1]
        );
    }

    #[test]
    fn shares_are_reached_and_not_exceeded() {
        let half = 1 << 63;
        let table = [(2, half, 0), (3, half, 1), (4, half, 1), (7, 1, 0), (1 << 40, u64::MAX, (1 << 40) - 1)];
        for (total, share, expected) in table {
            assert_eq!(short_of(total, share), expected, "{total} {share}");
        }
    }
}
