//! Many tokens: the vendor's GEMM on decoded weights gives what it gives on raw ones.

mod common;

use std::sync::Arc;

use netweight_cuda_emulator::{Emulator, Options};
use netweight_kernels_cuda::launch::Prefill;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, Layout};

#[test]
fn prefill() {
    let mut random = common::random();
    let emulated = [false, true].map(|late_copies| common::emulated(Options { late_copies, ..Options::default() }));
    for device in &emulated.into_iter().chain(common::real()).collect::<Vec<_>>() {
        let (shape, n_tokens) = (Shape { rows: 70, cols: 200 }, 5);
        let weights: Vec<u16> =
            common::normal(&mut random, 70 * 200, 0.02).iter().map(|&w| half::bf16::from_f32(w).to_bits()).collect();
        let bias = common::normal(&mut random, 70, 1.0);
        let x = common::buffer(device, 210, &common::normal(&mut random, n_tokens * 210, 1.0));
        let before = common::normal(&mut random, n_tokens * 80, 1.0);
        let run = |layout: Layout, adds: bool| {
            let matrix = common::load(device, layout, shape, &weights, Some(&bias));
            let mut prefill = Prefill::with_scratch(device, 2 * 16 * 256 / 2).expect("memory"); // two tiles of five
            let mut out = common::buffer(device, 80, &before);
            assert!(prefill.linear(&x, n_tokens, (matrix.view(), 7), adds, &mut out).expect("launches"));
            out.floats.to_vec().expect("a copy")
        };
        for adds in [false, true] {
            let [raw, exact12, exact11] = Layout::ALL.map(|layout| run(layout, adds));
            common::assert_close(device, &exact12, &raw, 1e-5, "exact12, decoded");
            common::assert_close(device, &exact11, &raw, 1e-5, "exact11, decoded");
            for (idx, value) in raw.iter().enumerate() {
                let (token, col) = (idx / 80, idx % 80);
                let wide = |bits: u16| f64::from(half::bf16::from_bits(bits).to_f32());
                let expected = if (7..77).contains(&col) {
                    let x = &common::halves(&x, token)[..200];
                    let products = weights[(col - 7) * 200..][..200].iter().zip(x).map(|(&w, &x)| wide(w) * wide(x));
                    products.sum::<f64>() + f64::from(bias[col - 7]) + if adds { f64::from(before[idx]) } else { 0.0 }
                } else {
                    f64::from(before[idx])
                };
                assert!((f64::from(*value) - expected).abs() < 1e-5, "{value} {expected}");
            }
        }
    }
}

#[test]
fn without_a_library() {
    let device = &Device::new(Arc::new(Emulator::new(Options { has_gemm: false, ..Options::default() })));
    let shape = Shape { rows: 16, cols: 64 };
    let x = common::buffer(device, 64, &[1.0; 64]);
    for layout in Layout::ALL {
        let matrix = common::load(device, layout, shape, &[0x3f80; 16 * 64], None);
        let mut prefill = Prefill::new(device, [shape].into_iter()).expect("memory");
        let mut out = common::buffer(device, 16, &[1.0; 16]);
        assert!(!prefill.linear(&x, 1, (matrix.view(), 0), false, &mut out).expect("no error"));
        assert_eq!(out.floats.to_vec().expect("a copy"), [1.0; 16]);
    }
}
