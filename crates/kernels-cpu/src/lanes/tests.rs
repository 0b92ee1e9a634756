//! Every row of the table against the scalar one, bit for bit; and the functions against f64.

use super::*;
use crate::lanes::math;

/// Names one function of 16 lanes, so that it can be dispatched.
#[derive(Clone, Copy, Debug)]
enum Function {
    Exp,
    SoftmaxExp,
    Tanh,
    Silu,
    GeluTanh,
    GeluErf,
    F16,
    Bf16,
    Sum,
    Max,
    Arithmetic,
}

struct Apply(Function, [f32; N_LANES]);

impl Body for Apply {
    type Output = [f32; N_LANES];

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> [f32; N_LANES] {
        let x = l.load(&self.1);
        let words = self.1.map(|x| (x.to_bits() >> 16) as u16);
        let y = match self.0 {
            Function::Exp => math::exp(l, x),
            Function::SoftmaxExp => math::softmax_exp(l, x),
            Function::Tanh => math::tanh(l, x),
            Function::Silu => math::silu(l, x),
            Function::GeluTanh => math::gelu_tanh(l, x),
            Function::GeluErf => math::gelu_erf(l, x),
            Function::F16 => l.load_f16(&words),
            Function::Bf16 => l.load_bf16(&words),
            Function::Sum => l.splat(math::sum(l, x)),
            Function::Max => l.splat(math::max(l, x)),
            Function::Arithmetic => {
                let y = l.min(l.splat(0.5), l.div(l.splat(3.0), l.sub(x, l.splat(1e-3))));
                l.zero_below(x, l.splat(-2.0), l.fma(x, y, l.add(l.mul(y, y), l.max(x, y))))
            }
        };
        let mut out = [0.0; N_LANES];
        l.store(y, &mut out);
        out
    }
}

/// Numbers of all magnitudes and signs, infinities and subnormals, in steps that hit all mantissas.
fn numbers(step: u32) -> impl Iterator<Item = [f32; N_LANES]> {
    let n_blocks = u32::MAX / step / N_LANES as u32;
    (0..n_blocks).map(move |block| {
        std::array::from_fn(|lane| f32::from_bits((block * N_LANES as u32 + lane as u32).wrapping_mul(step)))
    })
}

#[test]
fn all_rows_have_the_bits_of_the_scalar_one() {
    use Function::*;
    for isa in Isa::available() {
        for function in [Exp, SoftmaxExp, Tanh, Silu, GeluTanh, GeluErf, F16, Bf16, Sum, Max, Arithmetic] {
            for block in numbers(90_001) {
                let (got, expected) = (isa.dispatch(Apply(function, block)), Apply(function, block).run(Scalar));
                let same = |lane: usize| {
                    got[lane].to_bits() == expected[lane].to_bits() || got[lane].is_nan() && expected[lane].is_nan()
                };
                assert!((0..N_LANES).all(same), "{isa:?} {function:?} {block:?} {got:?} {expected:?}");
            }
        }
    }
}

/// The greatest error over all numbers of a range, in units in the last place of the result, at least `floor`.
fn worst(function: Function, range: std::ops::RangeInclusive<f32>, floor: f64, exact: fn(f64) -> f64) -> f64 {
    let isa = *Isa::available().last().unwrap();
    let mut worst = 0.0;
    for block in numbers(1201) {
        let got = isa.dispatch(Apply(function, block));
        for (x, y) in block.into_iter().zip(got).filter(|(x, _)| range.contains(x)) {
            let expected = exact(f64::from(x));
            if expected.abs() > f64::from(f32::MAX) {
                assert!(y == f32::INFINITY || y == f32::MAX, "{function:?} {x} {y}");
                continue;
            }
            let unit = f64::from(f32::EPSILON) * 2f64.powi(expected.abs().log2().floor().max(-126.0) as i32);
            let error = (f64::from(y) - expected).abs() / unit.max(floor);
            assert!(error < 1e3, "{function:?} {x} {y} {expected}");
            worst = error.max(worst);
        }
    }
    worst
}

#[test]
fn functions_are_close_to_f64() {
    let all = || f32::MIN..=f32::MAX;
    let check = |function, range, floor, limit, exact| {
        let worst = worst(function, range, floor, exact);
        println!("{function:?}: {worst:.3} units in the last place");
        assert!(worst <= limit, "{function:?}: {worst} units in the last place");
    };
    check(Function::Exp, all(), 0.0, 2.0, f64::exp);
    check(Function::SoftmaxExp, -87.0..=0.0, 0.0, 2.0, f64::exp);
    check(Function::Tanh, all(), 0.0, 4.0, f64::tanh);
    // Below these floors the results are next to nothing beside the other terms of the sums they go into.
    check(Function::Silu, all(), 1e-37, 4.0, |x| x / (1.0 + (-x).exp()));
    check(Function::GeluTanh, -5.0..=f32::MAX, 0.0, 80.0, |x| {
        x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp())
    });
    check(Function::GeluErf, all(), 1e-7, 4.0, |x| x * 0.5 * libm_erfc(-x / 2f64.sqrt()));
}

/// erfc by its continued fraction (Abramowitz and Stegun 7.1.14) or its series (7.1.6).
fn libm_erfc(x: f64) -> f64 {
    let t = x.abs();
    let scale = (-t * t).exp() / std::f64::consts::PI.sqrt();
    let upper = if t < 3.0 {
        let mut term = 2.0 * t;
        let series: f64 = (1..200)
            .map(|n| {
                let now = term;
                term *= 2.0 * t * t / (2 * n + 1) as f64;
                now
            })
            .sum();
        1.0 - scale * series
    } else {
        scale / (1..100).rev().fold(t, |tail, n| t + n as f64 / 2.0 / tail)
    };
    if x < 0.0 { 2.0 - upper } else { upper }
}

#[test]
fn nans_stay() {
    for isa in Isa::available() {
        for function in [Function::Exp, Function::SoftmaxExp, Function::Tanh, Function::Silu, Function::GeluErf] {
            assert!(
                isa.dispatch(Apply(function, [f32::NAN; N_LANES])).iter().all(|y| y.is_nan()),
                "{isa:?} {function:?}"
            );
        }
    }
}
