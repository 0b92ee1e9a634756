//! Baselines on vectors worked out by hand, and within the error that their formats allow.

use super::blocks::NF4_LEVELS;
use super::*;
use crate::hessian::Order;
use crate::testing::{identity, inputs, normal, output_error, squared_error};

fn run(name: &str, weights: &Array2<f32>) -> Dequantized {
    Baseline::from_name(name).expect("a baseline").run(weights.view(), &identity(weights.ncols()))
}

#[test]
fn bits_are_those_of_the_formats() {
    let weights = normal(32, 1024, 1);
    let check =
        |name: &str, expected: f64| assert_eq!(run(name, &weights).bits / weights.len() as f64, expected, "{name}");
    check("rtn-int4-g128", 4.0 + 20.0 / 128.0);
    check("gptq-int4-g128", 4.0 + 20.0 / 128.0);
    check("hqq-int4-g128", 4.0 + 32.0 / 128.0);
    check("nf4-64", 4.5);
    check("q4_k", 4.5);
    check("q5_k", 5.5);
    check("q6_k", 6.5625);
    check("q8_0", 8.5);
    // Rows of 300 take two superblocks.
    let odd = run("q4_k", &normal(2, 300, 1));
    assert_eq!(odd.bits, 2.0 * 512.0 * 4.5);
    assert!(odd.weights.iter().all(|weight| weight.is_finite()));
}

/// Signal over noise on normal weights, in decibels, to half a decibel: what the formats are known for.
#[test]
fn noise_on_normal_weights() {
    let weights = normal(64, 1024, 2);
    let check = |name: &str, least: f64, most: f64| {
        let noise = squared_error(&weights, &run(name, &weights).weights);
        let decibels = 10.0 * (squared_error(&weights, &Array2::zeros(weights.dim())) / noise).log10();
        assert!((least..most).contains(&decibels), "{name}: {decibels}");
    };
    check("rtn-int4-g128", 18.8, 20.2);
    check("hqq-int4-g128", 18.8, 20.6);
    check("nf4-64", 20.2, 21.4);
    check("q4_k", 21.5, 23.0);
    check("q5_k", 27.5, 29.0);
    check("q6_k", 34.0, 36.5);
    check("q8_0", 43.0, 46.0);
}

#[test]
fn levels_of_nf4_come_back() {
    let weights = Array2::from_shape_fn((1, 64), |(_, col)| 3.0 * NF4_LEVELS[col % 16]);
    assert_eq!(run("nf4-64", &weights).weights, weights);
    let between = Array2::from_shape_fn((1, 64), |(_, col)| if col == 0 { 1.0 } else { 0.03 });
    assert_eq!(run("nf4-64", &between).weights[[0, 1]], 0.0);
}

#[test]
fn indices_times_a_scale_come_back() {
    let integers = Array2::from_shape_fn((2, 256), |(row, col)| ((col * 37 + row) % 255) as f32 - 127.0);
    assert_eq!(run("q8_0", &integers.mapv(|index| index.clamp(-127.0, 127.0))).weights.len(), 512);
    let with_most = Array2::from_shape_fn((1, 32), |(_, col)| if col == 0 { -127.0 } else { col as f32 }) * 0.5;
    assert_eq!(run("q8_0", &with_most).weights, with_most);
    // Every block has all of -8..=7, so that scale and zero point are exact.
    let sixteen = Array2::from_shape_fn((1, 256), |(_, col)| (col % 16) as f32 - 8.0) * 0.25;
    assert_eq!(run("rtn-int4-g128", &sixteen).weights, sixteen);
    assert_eq!(run("gptq-int4-g128", &sixteen).weights, sixteen);
    assert_eq!(run("hqq-int4-g128", &sixteen).weights, sixteen);
}

#[test]
fn zeros_stay_zeros() {
    for baseline in &BASELINES {
        let found = baseline.run(Array2::zeros((3, 256)).view(), &identity(256)).weights;
        assert!(found.iter().all(|weight| *weight == 0.0), "{baseline:?}");
    }
}

#[test]
fn feedback_helps_gptq_and_nobody_else() {
    let weights = normal(48, 256, 3);
    let mean = inputs(256, 4);
    for order in [Order::Given, Order::Largest] {
        let feedback = Feedback::new(&mean, 0.01, order).expect("a factor");
        let error = |name: &str| {
            let found = Baseline::from_name(name).expect("a baseline").run(weights.view(), &feedback).weights;
            output_error(&weights, &found, &mean)
        };
        let (nearest, gptq) = (error("rtn-int4-g128"), error("gptq-int4-g128"));
        assert!(gptq < 0.6 * nearest, "{order:?}: {gptq} {nearest}");
    }
}
