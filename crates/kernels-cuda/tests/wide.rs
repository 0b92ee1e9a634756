//! Weights as a checkpoint has them, against their twin.

mod common;

use half::{bf16, f16};
use netweight_kernels_cuda::launch::Buffer;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{WideKind, WideMatrix, twin};

#[test]
fn wide() {
    let mut random = common::random();
    for device in common::devices() {
        for (rows, cols, n_tokens) in [(1, 1, 1), (9, 33, 3), (40, 200, 17)] {
            let shape = Shape { rows, cols };
            let (weights, bias) =
                (common::normal(&mut random, rows * cols, 0.1), common::normal(&mut random, rows, 1.0));
            let x = common::normal(&mut random, n_tokens * cols, 1.0);
            let x_on_device = common::buffer(&device, cols, &x);
            for kind in [WideKind::Bf16, WideKind::F16, WideKind::F32] {
                let (bytes, widened) = as_kind(kind, &weights);
                let matrix = WideMatrix::upload(&device, kind, shape, &bytes, Some(&bias)).expect("memory");
                for adds in [false, true] {
                    let mut out = common::buffer(&device, rows + 2, &vec![0.5; n_tokens * (rows + 2)]);
                    matrix.linear(&x_on_device, n_tokens, 1, adds, &mut out).expect("a launch");
                    let found = out.floats.to_vec().expect("a copy");
                    for (token, x) in x.chunks_exact(cols).enumerate() {
                        let products = twin::wide_linear(&widened, Some(&bias), x);
                        let expected: Vec<f32> = products.iter().map(|y| if adds { 0.5 + y } else { *y }).collect();
                        let found = &found[token * (rows + 2)..][..rows + 2];
                        assert_eq!(common::bits(&found[1..=rows]), common::bits(&expected));
                        assert_eq!([found[0], found[rows + 1]], [0.5; 2]);
                    }
                }
                let tokens = device.upload(&[rows as u32 - 1, 0]).expect("memory");
                let mut out = Buffer::new(&device, 2, cols).expect("memory");
                matrix.embed(&tokens, 2, &mut out).expect("a launch");
                let found = common::values(&out);
                assert_eq!(found[..cols], widened[(rows - 1) * cols..]);
                assert_eq!(found[cols..], widened[..cols]);
            }
        }
    }
}

/// Little-endian bytes, and what they are worth.
fn as_kind(kind: WideKind, weights: &[f32]) -> (Vec<u8>, Vec<f32>) {
    let each = |&weight: &f32| match kind {
        WideKind::Bf16 => (bf16::from_f32(weight).to_le_bytes().to_vec(), bf16::from_f32(weight).to_f32()),
        WideKind::F16 => (f16::from_f32(weight).to_le_bytes().to_vec(), f16::from_f32(weight).to_f32()),
        WideKind::F32 => (weight.to_le_bytes().to_vec(), weight),
    };
    let (bytes, widened): (Vec<Vec<u8>>, Vec<f32>) = weights.iter().map(each).unzip();
    (bytes.concat(), widened)
}
