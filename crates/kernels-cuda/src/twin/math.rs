//! Functions of one float, as polynomials: the same bits on GPUs and on the host.

/// `e^x = 2^n (1 + m)`, for x in -104..=89, or NaN.
fn exponential(x: f32) -> (i32, f32) {
    const ROUNDER: f32 = 12_582_912.0;
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUNDER);
    let n = shifted - ROUNDER;
    let r = n.mul_add(-1.428_606_8e-6, n.mul_add(-0.693_145_75, x));
    let q = [0.008_368_718, 0.041_668_39, 0.166_665_21, 0.499_999_94]
        .iter()
        .fold(0.001_381_458_2, |q: f32, c| q.mul_add(r, *c));
    (shifted.to_bits().wrapping_sub(ROUNDER.to_bits()) as i32, (r * r).mul_add(q, r))
}

fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// e^x, within 2 units in the last place; NaN of NaN.
pub fn exp(x: f32) -> f32 {
    let (n, m) = exponential(x.clamp(-104.0, 89.0));
    let half = n >> 1;
    (m + 1.0) * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// e^x of x <= 0, 0 for x < -87.
pub fn softmax_exp(x: f32) -> f32 {
    if x < -87.0 {
        return 0.0;
    }
    let (n, m) = exponential(x);
    (m + 1.0) * power_of_two(n)
}

/// The hyperbolic tangent.
pub fn tanh(x: f32) -> f32 {
    let x = x.clamp(-10.0, 10.0);
    let (n, m) = exponential(x + x);
    let power = power_of_two(n);
    let less_one = power.mul_add(m, power - 1.0);
    less_one / (less_one + 2.0)
}

/// `x / (1 + e^-x)`
pub fn silu(x: f32) -> f32 {
    x / (1.0 + exp(0.0 - x))
}

/// GELU in its approximation by tanh, `x / (1 + e^-2u)` with `u = sqrt(2 / pi) (x + 0.044715 x^3)`.
pub fn gelu_tanh(x: f32) -> f32 {
    const ROOT: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    x / (1.0 + exp(x * (x * x).mul_add(-2.0 * ROOT * 0.044_715, -2.0 * ROOT)))
}

/// GELU with erf, `max(x, 0) - |x| / 2 erfc(|x| / sqrt 2)`.
pub fn gelu_erf(x: f32) -> f32 {
    /// `(ln(erfc(t)) + t^2) / t`, the highest power first.
    const ERFC: [f32; 13] = [
        2.497_723e-10,
        -1.258_446_4e-8,
        2.821_013e-7,
        -3.714_573e-6,
        3.188_213_3e-5,
        -0.000_185_968_63,
        0.000_730_835_4,
        -0.001_693_586_7,
        4.879_045e-5,
        0.019_312_121,
        -0.102_867_89,
        0.363_402_75,
        -1.128_380_9,
    ];
    let most = 9.0 * std::f32::consts::SQRT_2;
    let magnitude = if 0.0 - x > x { 0.0 - x } else { x }; // -0 of -0
    let magnitude = if most < magnitude { most } else { magnitude };
    let t = magnitude * std::f32::consts::FRAC_1_SQRT_2;
    let q = ERFC.iter().copied().reduce(|q, c| q.mul_add(t, c)).unwrap_or(0.0);
    let positive = if 0.0 > x { 0.0 } else { x };
    positive - 0.5 * magnitude * exp(t * (q - t))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest difference in units in the last place, or of 1e-35 where the result is smaller.
    fn check(name: &str, ours: fn(f32) -> f32, exact: fn(f64) -> f64, range: f32, ulps: f64) {
        for i in -20_000..=20_000 {
            let x = range * i as f32 / 20_000.0;
            let (got, wanted) = (f64::from(ours(x)), exact(f64::from(x)));
            let unit = (wanted.abs() * f64::from(f32::EPSILON)).max(1e-35);
            assert!((got - wanted).abs() <= ulps * unit, "{name}({x}) = {got}, not {wanted}");
        }
        assert!(ours(f32::NAN).is_nan(), "{name}");
    }

    #[test]
    fn functions_are_what_they_are_called() {
        check("exp", exp, f64::exp, 87.0, 1.5);
        check("softmax_exp", |x| softmax_exp(-x.abs()), |x| (-x.abs()).exp(), 87.0, 1.5);
        check("tanh", tanh, f64::tanh, 12.0, 3.0);
        check("silu", silu, |x| x / (1.0 + (-x).exp()), 80.0, 3.0);
        let gelu =
            |x: f64| x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).exp());
        check("gelu_tanh", gelu_tanh, gelu, 5.0, 30.0);
        assert_eq!(
            [exp(f32::INFINITY), exp(f32::NEG_INFINITY), softmax_exp(f32::NEG_INFINITY)],
            [f32::INFINITY, 0.0, 0.0]
        );
    }

    #[test]
    fn gelu_is_x_times_the_normal_distribution() {
        let values =
            [(1.0, 0.841_344_7), (-1.0, -0.158_655_26), (2.0, 1.954_499_7), (-3.0, -0.004_049_694), (20.0, 20.0)];
        for (x, wanted) in values {
            assert!((gelu_erf(x) - wanted).abs() <= 4e-7 * x.abs(), "{x}: {}", gelu_erf(x));
        }
        assert!(gelu_erf(f32::NAN).is_nan() && gelu_erf(f32::INFINITY) == f32::INFINITY);
    }
}
