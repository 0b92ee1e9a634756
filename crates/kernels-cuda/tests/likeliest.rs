//! The likeliest token against its twin.

mod common;

use netweight_kernels_cuda::{launch, twin};
use rand::Rng;

#[test]
fn likeliest() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width) in [(1, 1), (3, 7), (2, 1025), (2, 33_000), (1, 40_002), (40, 33)] {
            let stride = width + 2;
            // Few different values, so that many are equal; what stands past the columns does not count.
            let values = [0.0, -0.0, 1.5, 2.25, -3.0, 7.0, f32::NEG_INFINITY];
            let mut x: Vec<f32> = (0..n_rows * stride).map(|_| values[random.random_range(0..7)]).collect();
            x.chunks_mut(stride).for_each(|row| row[width..].fill(f32::NAN));
            for bad in [None, Some(f32::NAN), Some(f32::INFINITY), Some(f32::NEG_INFINITY)] {
                match bad {
                    Some(f32::NEG_INFINITY) => x[..width].fill(f32::NEG_INFINITY),
                    Some(bad) => x[random.random_range(0..width)] = bad,
                    None => (),
                }
                let mut out = device.upload(&vec![7; n_rows + 1]).expect("memory");
                launch::likeliest(&common::buffer(&device, stride, &x), n_rows, width, &mut out).expect("a launch");
                let of_row = |row: &[f32]| twin::likeliest(&row[..width]).unwrap_or(u32::MAX);
                let expected: Vec<u32> = x.chunks(stride).map(of_row).chain([7]).collect();
                assert_eq!(out.to_vec().expect("a copy"), expected, "{n_rows} x {width}, {bad:?}");
                assert!(bad.is_none() || expected[0] == u32::MAX);
            }
        }
    }
}
