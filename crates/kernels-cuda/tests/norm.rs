//! Norms against their twins.

mod common;

use netweight_kernels_cuda::launch;
use netweight_kernels_cuda::twin;

#[test]
fn rms_norm() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width) in [(1, 1), (3, 64), (2, 257), (5, 1000)] {
            let x = common::normal(&mut random, n_rows * width, 3.0);
            let weight = common::normal(&mut random, width, 1.0);
            let mut out = common::buffer(&device, width, &vec![f32::NAN; n_rows * width]);
            let x_on_device = common::buffer(&device, width, &x);
            let weight_on_device = device.upload(&weight).expect("memory");
            launch::rms_norm(&x_on_device, n_rows, &weight_on_device, 1e-5, &mut out).expect("a launch");
            let expected: Vec<f32> = x.chunks(width).flat_map(|x| twin::rms_norm(x, &weight, 1e-5)).collect();
            assert_eq!(common::bits(&common::values(&out)), common::bits(&expected), "{n_rows} x {width}");
        }
    }
}
