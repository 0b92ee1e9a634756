//! e to the power of a number that is not positive, with the same bits on every machine: only additions,
//! multiplications and integer operations, none of them fused. Next in the flow: sample.rs.
//!
//! exp(x) = 2^n * exp(r), n = round(x / ln 2), |r| <= ln 2 / 2, with the Taylor series to r^13 / 13!, whose remainder
//! is below 2^-57.

/// 1.5 * 2^52: adding it rounds a small number to an integer, which then stands in the low bits.
const ROUND: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts, the first with zeros at its end, so that n times it is exact (Cody and Waite).
const LN_2_HIGH: f64 = 6.931_471_803_691_238e-1;
const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
/// Below it the result is less than 2^-1021, and 0 here.
const LOWEST: f64 = -707.0;

/// 1/13!, 1/12!, ..., 1/0!
const COEFFICIENTS: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// e^x for x <= 0, -Inf included, within 2 ulp; 0 below -707. Without branches, so that a loop over it becomes vectors.
#[inline(always)]
pub fn exp_nonpositive(x: f64) -> f64 {
    let clamped = x.max(LOWEST);
    let shifted = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN_2_HIGH) - n * LN_2_LOW;
    let series = COEFFICIENTS.iter().skip(1).fold(COEFFICIENTS[0], |sum, coefficient| sum * r + coefficient);
    // The low bits of `shifted` are n in two's complement; 2^n has n + 1023 as its exponent.
    let scale = f64::from_bits(shifted.to_bits().wrapping_add(1023) << 52);
    if x < LOWEST { 0.0 } else { series * scale }
}

#[cfg(test)]
mod tests {
    use super::exp_nonpositive;

    #[test]
    fn as_exact_as_the_library() {
        let mut worst = 0.0f64;
        for step in 0..2_000_000 {
            let x = -f64::from(step) * 3.53e-4;
            let expected = x.exp();
            worst = worst.max((exp_nonpositive(x) - expected).abs() / expected);
        }
        assert!(worst < 2.0 * f64::EPSILON, "{worst:e}");
    }

    #[test]
    fn ends_of_the_range() {
        let check = |x: f64, expected: f64| assert_eq!(exp_nonpositive(x), expected, "{x}");
        check(0.0, 1.0);
        check(-0.0, 1.0);
        check(-707.1, 0.0);
        check(-1e300, 0.0);
        check(f64::NEG_INFINITY, 0.0);
        assert!(exp_nonpositive(-707.0) > 0.0);
    }

    /// Bits that every machine must give.
    #[test]
    fn bits_are_fixed() {
        let check = |x: f64, bits: u64| assert_eq!(exp_nonpositive(x).to_bits(), bits, "{x}");
        check(-1.0, 0x3fd7_8b56_362c_ef38);
        check(-0.1, 0x3fec_f46d_99d5_2b3a);
        check(-20.25, 0x3e1b_93de_1e27_ca3b);
        check(-700.0, 0x00d1_4f2b_0fb9_307f);
    }
}
