//! Functions of 16 lanes. Goes in: a vector. Comes out: `exp`, `tanh` and the activations of each lane, within some
//! units in the last place and with the same bits on every machine. Next: `ops.rs`.
//!
//! Coefficients are minimax fits (Lawson's iteration in 50 digits), rounded to f32; the tests measure what is left.

use super::{Lanes, N_LANES};

/// log2(e).
const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln(2) in two parts: the first has 15 bits, so its multiples by a power's exponent are exact.
const LN_2_HIGH: f32 = 0.693_145_75;
const LN_2_LOW: f32 = 1.428_606_8e-6;
/// 1.5 * 2^23: adding it rounds to an integer, which then stands in the low bits.
const ROUNDER: f32 = 12_582_912.0;
/// `(e^r - 1 - r) / r^2` for |r| <= ln(2) / 2, to 3e-9 of e^r.
const EXP: [f32; 5] = [0.499_999_94, 0.166_665_21, 0.041_668_39, 0.008_368_718, 0.001_381_458_2];
/// exp is 0 below the first (its value is less than half of the least subnormal) and infinite above the second.
const EXP_RANGE: [f32; 2] = [-104.0, 89.0];
/// From here on tanh is 1 to the last bit.
const TANH_RANGE: f32 = 10.0;
/// sqrt(2 / pi), and the factor of the cube in GELU's approximation.
const GELU_ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
const GELU_CUBE: f32 = 0.044_715;
/// `(ln(erfc(t)) + t^2) / t` for 0 <= t <= 9, to 1.2e-8 of 1 + erf.
const ERFC: [f32; 13] = [
    -1.128_380_9,
    0.363_402_75,
    -0.102_867_89,
    0.019_312_121,
    4.879_045e-5,
    -0.001_693_586_7,
    0.000_730_835_4,
    -0.000_185_968_63,
    3.188_213_3e-5,
    -3.714_573e-6,
    2.821_013e-7,
    -1.258_446_4e-8,
    2.497_723e-10,
];
const ERFC_RANGE: f32 = 9.0;

/// `2^n (1 + m) = e^x`, with n an integer of at most 8 bits and |m| < 0.42.
struct Exponential<L: Lanes> {
    n: L::I,
    m: L::F,
}

/// For x inside [`EXP_RANGE`], or NaN.
#[inline(always)]
fn exponential<L: Lanes>(l: L, x: L::F) -> Exponential<L> {
    let shifted = l.fma(x, l.splat(LOG2_E), l.splat(ROUNDER));
    let n = l.sub(shifted, l.splat(ROUNDER));
    let r = l.fma(n, l.splat(-LN_2_HIGH), x);
    let r = l.fma(n, l.splat(-LN_2_LOW), r);
    let q = polynomial(l, r, &EXP);
    let m = l.fma(l.mul(r, r), q, r);
    Exponential { n: l.sub_int(l.bits(shifted), l.splat_int(ROUNDER.to_bits() as i32)), m }
}

/// Horner's scheme, the lowest coefficient first in `coefficients`.
#[inline(always)]
fn polynomial<L: Lanes, const N: usize>(l: L, x: L::F, coefficients: &[f32; N]) -> L::F {
    let mut sum = l.splat(coefficients[N - 1]);
    let mut idx = N - 1;
    while idx > 0 {
        idx -= 1;
        sum = l.fma(sum, x, l.splat(coefficients[idx]));
    }
    sum
}

/// `2^n` for -127 < n < 128.
#[inline(always)]
fn power_of_two<L: Lanes>(l: L, n: L::I) -> L::F {
    l.exponent(l.add_int(n, l.splat_int(127)))
}

/// e^x for every x, within 2 units in the last place; subnormal results are rounded once, too.
#[inline(always)]
pub(crate) fn exp<L: Lanes>(l: L, x: L::F) -> L::F {
    let x = l.min(l.splat(EXP_RANGE[1]), l.max(l.splat(EXP_RANGE[0]), x));
    let Exponential { n, m } = exponential(l, x);
    // In two steps, because 2^n itself may be out of range. Only the second can round.
    let half = l.half_int(n);
    let rest = l.sub_int(n, half);
    l.mul(l.mul(l.add(m, l.splat(1.0)), power_of_two(l, half)), power_of_two(l, rest))
}

/// Softmax's exp: of x <= 0, and 0 for x < -87, where e^x is about to become subnormal, which is slow, and is no part
/// of a sum that holds an e^0. The same as [`exp`] from -87 on.
#[inline(always)]
pub(crate) fn softmax_exp<L: Lanes>(l: L, x: L::F) -> L::F {
    let least = l.splat(-87.0);
    let Exponential { n, m } = exponential(l, l.max(least, x));
    l.zero_below(x, least, l.mul(l.add(m, l.splat(1.0)), power_of_two(l, n)))
}

/// [`softmax_exp`] of one number.
#[inline(always)]
pub(crate) fn softmax_exp_of_one<L: Lanes>(l: L, x: f32) -> f32 {
    let mut lanes = [0.0; N_LANES];
    l.store(softmax_exp(l, l.splat(x)), &mut lanes);
    lanes[0]
}

/// tanh x = (e^2x - 1) / (e^2x + 1), with e^2x - 1 computed without cancellation.
#[inline(always)]
pub(crate) fn tanh<L: Lanes>(l: L, x: L::F) -> L::F {
    let x = l.min(l.splat(TANH_RANGE), l.max(l.splat(-TANH_RANGE), x));
    let Exponential { n, m } = exponential(l, l.add(x, x));
    let power = power_of_two(l, n);
    let less_one = l.fma(power, m, l.sub(power, l.splat(1.0)));
    l.div(less_one, l.add(less_one, l.splat(2.0)))
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu<L: Lanes>(l: L, x: L::F) -> L::F {
    l.div(x, l.add(l.splat(1.0), exp(l, l.sub(l.splat(0.0), x))))
}

/// GELU with tanh, `x / 2 (1 + tanh u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`, written `x / (1 + e^-2u)`, in which
/// nothing cancels.
#[inline(always)]
pub(crate) fn gelu_tanh<L: Lanes>(l: L, x: L::F) -> L::F {
    let square = l.mul(x, x);
    let factor = l.fma(square, l.splat(-2.0 * GELU_ROOT * GELU_CUBE), l.splat(-2.0 * GELU_ROOT));
    l.div(x, l.add(l.splat(1.0), exp(l, l.mul(x, factor))))
}

/// GELU with erf, `x / 2 (1 + erf(x / sqrt 2))`, written `max(x, 0) - |x| / 2 erfc(|x| / sqrt 2)`. Where the last term
/// is below 1e-35 it stays there.
#[inline(always)]
pub(crate) fn gelu_erf<L: Lanes>(l: L, x: L::F) -> L::F {
    let magnitude = l.min(l.splat(ERFC_RANGE * std::f32::consts::SQRT_2), l.max(l.sub(l.splat(0.0), x), x));
    let t = l.mul(magnitude, l.splat(std::f32::consts::FRAC_1_SQRT_2));
    let exponent = l.mul(t, l.sub(polynomial(l, t, &ERFC), t));
    let half = l.mul(l.splat(0.5), magnitude);
    l.sub(l.max(l.splat(0.0), x), l.mul(half, exp(l, exponent)))
}

/// The sum of 16 lanes by halving: lane i and i + 8, then i + 4, i + 2, i + 1.
#[inline(always)]
pub(crate) fn sum<L: Lanes>(l: L, x: L::F) -> f32 {
    let mut lanes = [0.0; N_LANES];
    l.store(x, &mut lanes);
    let mut width = N_LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

/// The greatest of 16 lanes, in the order of [`sum`].
#[inline(always)]
pub(crate) fn max<L: Lanes>(l: L, x: L::F) -> f32 {
    let mut lanes = [0.0; N_LANES];
    l.store(x, &mut lanes);
    let mut width = N_LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] = if lanes[lane] > lanes[lane + width] { lanes[lane] } else { lanes[lane + width] };
        }
        width /= 2;
    }
    lanes[0]
}
