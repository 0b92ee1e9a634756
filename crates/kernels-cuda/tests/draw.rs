//! Tokens that are drawn, against their twin: to the bit on every device.

mod common;

use netweight_kernels_cuda::twin::{self, Draw};
use netweight_kernels_cuda::{Device, launch};
use rand::Rng;

const KEEPS_ALL: Draw = Draw { random: 0, top_p: u64::MAX, min_weight: 0, inverse_temperature: 1.0, top_k: 0 };

/// Rows of `width` columns, each drawn from as one of `how` says.
fn check(device: &Device, width: usize, rows: &[Vec<f32>], how: &[Draw], what: &str) {
    let stride = width + 3; // what stands past the columns does not count
    let x: Vec<f32> = rows.iter().flat_map(|row| row.iter().copied().chain([f32::NAN; 3])).collect();
    let mut out = device.upload(&vec![7; rows.len() + 1]).expect("memory");
    let how_on_device = device.upload(how).expect("memory");
    launch::draw(&common::buffer(device, stride, &x), rows.len(), width, &how_on_device, &mut out).expect("a launch");
    let of_row = |(row, how): (&Vec<f32>, &Draw)| twin::draw(row, how).unwrap_or(u32::MAX);
    let expected: Vec<u32> = rows.iter().zip(how).map(of_row).chain([7]).collect();
    let differs = |(row, (found, expected))| (found != expected).then(|| (row, how.get(row), found, expected));
    let found = out.to_vec().expect("a copy");
    assert_eq!(found.iter().zip(&expected).enumerate().find_map(differs), None, "{what}");
}

/// Some way to draw; often one of the ends of what is allowed.
fn some_way(random: &mut impl Rng, width: usize) -> Draw {
    fn one<T: Copy>(random: &mut impl Rng, of: &[T]) -> T {
        of[random.random_range(0..of.len())]
    }
    let any: [u64; 3] = random.random();
    let some_k = random.random_range(0..=width as u32);
    Draw {
        random: one(random, &[any[0], any[0], 0, u64::MAX]),
        top_p: one(random, &[u64::MAX, any[1], any[1], 0, 1, u64::MAX - (1 << 40), any[1] >> 20]),
        min_weight: one(random, &[0, 0, 1, 1 << 40, any[2] >> 24, any[2] >> 34]),
        inverse_temperature: one(random, &[1.0, 0.5, 1.25, 3.0, 1e-30, f32::MAX, 1e-45]),
        top_k: one(random, &[0, 1, 2, some_k, some_k, width as u32, width as u32 + 1, u32::MAX]),
    }
}

#[test]
fn rows_of_every_kind() {
    let mut random = common::random();
    for device in common::devices() {
        for width in [1, 2, 7, 32, 33, 1025, 4099, 20_002] {
            let few = [0.0, -0.0, 1.5, 2.25, -3.0, 7.0, f32::NEG_INFINITY];
            let mut kinds: Vec<Vec<f32>> = vec![
                common::normal(&mut random, width, 1.0),
                common::normal(&mut random, width, 4.0),
                (0..width).map(|_| few[random.random_range(0..few.len())]).collect(),
                vec![-2.5; width],
                vec![f32::NEG_INFINITY; width],
                common::normal(&mut random, width, 1e38),
                common::odd(&mut random, width, 1.0),
            ];
            kinds[4][random.random_range(0..width)] = -7.0; // the only one that is possible
            kinds[5][0] = 1e38;
            for (kind, row) in kinds.iter().enumerate() {
                let how: Vec<Draw> = (0..2).map(|_| some_way(&mut random, width)).collect();
                check(&device, width, &vec![row.clone(); how.len()], &how, &format!("kind {kind} of {width}"));
            }
        }
    }
}

/// Two tokens and the last random number: the second comes if it weighs `min_weight`, which is its weight by the twin, or
/// one more.
#[test]
fn weights_of_the_twin() {
    let mut random = common::random();
    for device in common::devices() {
        let n_rows = if common::is_real(&device) { 60_000 } else { 200 };
        let (mut rows, mut how, mut n_second) = (Vec::new(), Vec::new(), 0);
        while rows.len() < n_rows {
            let largest = 40.0 * (random.random::<f32>() - 0.5);
            let inverse_temperature = 4.0 * random.random::<f32>() + 1e-3;
            let logit = largest - 27.7 / inverse_temperature * random.random::<f32>();
            let weight = twin::weight(logit, largest, inverse_temperature);
            let more = u64::from(weight < 1 << 40 && random.random());
            rows.push(vec![largest, logit]);
            how.push(Draw { random: u64::MAX, min_weight: weight + more, inverse_temperature, ..KEEPS_ALL });
            n_second += usize::from(twin::draw(&rows[rows.len() - 1], &how[how.len() - 1]) == Some(1));
        }
        assert!(n_second > n_rows / 4 && n_second < n_rows * 3 / 4, "{n_second}");
        check(&device, 2, &rows, &how, "two tokens");
    }
}

#[test]
fn impossible_rows() {
    for device in common::devices() {
        for (bad, others) in
            [(f32::NAN, 1.0), (-f32::NAN, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, f32::NEG_INFINITY)]
        {
            for width in [1, 40, 3001] {
                let mut row = vec![others; width];
                row[width / 2] = bad;
                assert_eq!(twin::draw(&row, &KEEPS_ALL), None);
                let how = [KEEPS_ALL, Draw { top_k: 3, top_p: 1 << 63, ..KEEPS_ALL }];
                check(&device, width, &[row.clone(), row], &how, "impossible");
            }
        }
    }
}

/// What the twin means, by hand: which tokens can come as the random number goes from 0 to its end.
#[test]
fn the_twin_draws_what_stays() {
    let logit = |probability: f32| probability.ln();
    let x = [logit(0.1), logit(0.4), f32::NEG_INFINITY, logit(0.2), logit(0.2), logit(0.1)];
    let check = |how: Draw, expected: &[u32]| {
        let all = (0..=4096u64).map(|i| Draw { random: (i << 52).wrapping_sub(u64::from(i == 4096)), ..how });
        let mut found: Vec<u32> = all.map(|how| twin::draw(&x, &how).expect("a token")).collect();
        found.dedup();
        assert_eq!(found, expected, "{how:?}");
    };
    let share = |p: f64| (p * 2f64.powi(64)) as u64;
    check(KEEPS_ALL, &[0, 1, 3, 4, 5]);
    check(Draw { top_k: 1, ..KEEPS_ALL }, &[1]);
    check(Draw { top_k: 2, ..KEEPS_ALL }, &[1, 3, 4]); // ties stay
    check(Draw { top_k: 3, ..KEEPS_ALL }, &[1, 3, 4]);
    check(Draw { top_k: 4, ..KEEPS_ALL }, &[0, 1, 3, 4, 5]);
    check(Draw { top_p: share(1e-9), ..KEEPS_ALL }, &[1]);
    check(Draw { top_p: share(0.39), ..KEEPS_ALL }, &[1]);
    check(Draw { top_p: share(0.41), ..KEEPS_ALL }, &[1, 3, 4]);
    check(Draw { top_p: share(0.81), ..KEEPS_ALL }, &[0, 1, 3, 4, 5]);
    check(Draw { top_p: share(0.81), top_k: 2, ..KEEPS_ALL }, &[1, 3, 4]);
    check(Draw { min_weight: 1 << 40, ..KEEPS_ALL }, &[1]);
    check(Draw { min_weight: (0.49 * 2f64.powi(40)) as u64, ..KEEPS_ALL }, &[1, 3, 4]);
    check(Draw { inverse_temperature: 1e9, ..KEEPS_ALL }, &[1]);
}
