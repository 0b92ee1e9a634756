//! Operations element by element against their twins.

mod common;

use netweight_kernels_cuda::launch::{self, Activation, Buffer};
use netweight_kernels_cuda::twin::pointwise as twin;
use rand::Rng;

/// (rows, columns that count, columns of both buffers)
const SIZES: [(usize, usize, usize); 7] =
    [(1, 1, 1), (1, 4, 4), (3, 64, 64), (2, 257, 257), (5, 1000, 1028), (2, 1025, 2048), (300, 6, 9)];

/// `run` on buffers `x` (rows, 2 * stride) and `out` (rows, stride), against `f(out, x, x[col + width])`. Columns from
/// `width` on must stay.
fn check(run: impl Fn(&Buffer, usize, usize, &mut Buffer), f: impl Fn(f32, f32, f32) -> f32) {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width, stride) in SIZES {
            let x = common::odd(&mut random, n_rows * 2 * stride, 3.0);
            let out = common::odd(&mut random, n_rows * stride, 3.0);
            let x_on_device = common::buffer(&device, 2 * stride, &x);
            let mut out_on_device = common::buffer(&device, stride, &out);
            run(&x_on_device, n_rows, width, &mut out_on_device);
            let mut expected = out.clone();
            for (expected, x) in expected.chunks_mut(stride).zip(x.chunks(2 * stride)) {
                for col in 0..width {
                    expected[col] = f(expected[col], x[col], x[col + width]);
                }
            }
            let got = common::values(&out_on_device);
            assert_eq!(common::bits(&got), common::bits(&expected), "{n_rows} x {width} of {stride}");
        }
    }
}

#[test]
fn scale() {
    check(
        |_, n_rows, width, x| launch::scale(x, n_rows, width, 0.3).expect("a launch"),
        |out, _, _| twin::scale(out, 0.3),
    );
}

#[test]
fn add() {
    check(|x, n_rows, width, out| launch::add(x, n_rows, width, out).expect("a launch"), |out, x, _| twin::add(out, x));
}

#[test]
fn softcap() {
    check(
        |_, n_rows, width, x| launch::softcap(x, n_rows, width, 2.5).expect("a launch"),
        |x, _, _| twin::softcap(x, 2.5),
    );
}

#[test]
fn zero() {
    check(|_, n_rows, width, x| launch::zero(x, n_rows, width).expect("a launch"), |_, _, _| 0.0);
}

#[test]
fn gate() {
    for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
        check(
            |x, n_rows, width, out| launch::gate(activation, x, n_rows, width, out).expect("a launch"),
            |_, gate, up| twin::gate(activation, gate, up),
        );
    }
}

#[test]
fn gather() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width, stride) in SIZES {
            let (x_rows, x_stride) = (7, stride + 3);
            let x = common::odd(&mut random, x_rows * x_stride, 1.0);
            let mut rows: Vec<u32> = (0..n_rows).map(|_| random.random_range(0..x_rows as u32)).collect();
            rows[n_rows / 2] = if n_rows > 2 { x_rows as u32 } else { 6 };
            let mut expected = common::normal(&mut random, n_rows * stride, 1.0);
            let mut out = common::buffer(&device, stride, &expected);
            let rows_on_device = device.upload(&rows).expect("memory");
            let x_on_device = common::buffer(&device, x_stride, &x);
            launch::gather(&x_on_device, &rows_on_device, n_rows, width, &mut out).expect("a launch");
            for (expected, row) in expected.chunks_mut(stride).zip(&rows).filter(|(_, row)| **row < x_rows as u32) {
                expected[..width].copy_from_slice(&x[*row as usize * x_stride..][..width]);
            }
            assert_eq!(common::bits(&common::values(&out)), common::bits(&expected), "{n_rows} x {width}");
        }
    }
}

#[test]
fn scatter_add() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, width, stride) in SIZES {
            let (out_rows, x_stride) = (n_rows + 4, stride + 1);
            let x = common::odd(&mut random, n_rows * x_stride, 1.0);
            let weights = common::normal(&mut random, n_rows, 1.0);
            let first = random.random_range(0..out_rows);
            let mut rows: Vec<u32> = (0..n_rows).map(|idx| ((first + idx) % out_rows) as u32).collect();
            rows.reverse();
            if n_rows > 2 {
                rows[1] = out_rows as u32;
            }
            let mut expected = common::normal(&mut random, out_rows * stride, 1.0);
            let mut out = common::buffer(&device, stride, &expected);
            let on_device = (device.upload(&rows).expect("memory"), device.upload(&weights).expect("memory"));
            let x_on_device = common::buffer(&device, x_stride, &x);
            launch::scatter_add(&x_on_device, &on_device.0, &on_device.1, n_rows, width, &mut out).expect("a launch");
            for ((x, weight), row) in x.chunks(x_stride).zip(&weights).zip(&rows) {
                if let Some(out) = expected.chunks_mut(stride).nth(*row as usize) {
                    out.iter_mut().zip(&x[..width]).for_each(|(out, x)| *out = twin::add_scaled(*out, *weight, *x));
                }
            }
            assert_eq!(common::bits(&common::values(&out)), common::bits(&expected), "{n_rows} x {width}");
        }
    }
}
