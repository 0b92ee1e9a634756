//! Norms against their twins.

mod common;

use netweight_kernels_cuda::launch::{self, Heads};
use netweight_kernels_cuda::twin;

/// (rows, columns that are normed, columns of buffers)
const SIZES: [(usize, usize, usize); 6] =
    [(1, 1, 1), (3, 64, 64), (2, 257, 260), (5, 1000, 1001), (1, 4100, 4100), (2, 8195, 8195)];

#[test]
fn rms_norm() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width, stride) in SIZES {
            let x = common::normal(&mut random, n_rows * stride, 3.0);
            let weight = common::normal(&mut random, width, 1.0);
            let mut expected = vec![f32::NAN; n_rows * stride];
            let mut out = common::buffer(&device, stride, &expected);
            let x_on_device = common::buffer(&device, stride, &x);
            let weight_on_device = device.upload(&weight).expect("memory");
            launch::rms_norm(&x_on_device, n_rows, &weight_on_device, 1e-5, &mut out).expect("a launch");
            for (expected, x) in expected.chunks_mut(stride).zip(x.chunks(stride)) {
                expected[..width].copy_from_slice(&twin::rms_norm(&x[..width], &weight, 1e-5));
            }
            assert_eq!(common::bits(&common::values(&out)), common::bits(&expected), "{n_rows} x {width} of {stride}");
        }
    }
}

#[test]
fn head_norm() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, col, n_heads, head_dim) in
            [(1, 0, 1, 2), (3, 5, 3, 64), (7, 64, 2, 80), (2, 1, 9, 128), (2, 0, 1, 512)]
        {
            let (heads, stride) = (Heads { col, n_heads, head_dim }, col + n_heads * head_dim + 3);
            let mut expected = common::normal(&mut random, n_rows * stride, 3.0);
            expected[col] = f32::INFINITY;
            let weight = common::normal(&mut random, head_dim, 1.0);
            let mut x = common::buffer(&device, stride, &expected);
            let weight_on_device = device.upload(&weight).expect("memory");
            launch::head_norm(&mut x, n_rows, heads, &weight_on_device, 1e-6).expect("a launch");
            for row in expected.chunks_mut(stride) {
                for head in row[col..][..heads.width()].chunks_mut(head_dim) {
                    head.copy_from_slice(&twin::head_norm(head, &weight, 1e-6));
                }
            }
            assert_eq!(common::bits(&common::values(&x)), common::bits(&expected), "{n_rows} x {heads:?}");
        }
    }
}
