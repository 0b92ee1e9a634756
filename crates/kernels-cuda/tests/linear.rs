//! Linear layers against their twin; compressed against raw; and no dependence on the batch.

mod common;

use common::{halves, load};
use half::bf16;
use netweight_kernels_cuda::launch::{self, Activation, Buffer, Epilogue, Part};
use netweight_kernels_cuda::layout::{Exact11, Exact12, Shape};
use netweight_kernels_cuda::{HostMatrix, Layout, Slots, View, twin};
use rand::Rng;

/// Weights as models have them, and every thousandth anything at all.
fn weights(random: &mut impl Rng, len: usize) -> Vec<u16> {
    let normal = common::normal(random, len, 0.02);
    let anything = |random: &mut _| {
        let bits: u16 = Rng::random(random);
        if bf16::from_bits(bits).to_f32().abs() < 1e10 { bits } else { 0 }
    };
    normal
        .iter()
        .map(|&weight| if random.random_ratio(1, 1000) { anything(random) } else { bf16::from_f32(weight).to_bits() })
        .collect()
}

#[test]
fn linear() {
    let mut random = common::random();
    for device in common::devices() {
        for (rows, cols, n_tokens) in
            [(1, 1, 1), (16, 64, 1), (40, 200, 3), (33, 1030, 9), (48, 577, 17), (20, 130, 33), (17, 72, 70)]
        {
            let shape = Shape { rows, cols };
            let (weights, bias) = (weights(&mut random, rows * cols), common::normal(&mut random, rows, 1.0));
            let x = common::buffer(&device, cols + 3, &common::normal(&mut random, n_tokens * (cols + 3), 2.0));
            for layout in Layout::ALL {
                for bias in [None, Some(&bias[..])] {
                    let matrix = load(&device, layout, shape, &weights, bias);
                    let mut out = common::buffer(&device, rows + 5, &vec![f32::NAN; n_tokens * (rows + 5)]);
                    let parts = [Part { matrix: matrix.view(), out_col: 2 }];
                    launch::linear(&x, n_tokens, &parts, Epilogue::Store, &mut out).expect("a launch");
                    let found = out.floats.to_vec().expect("a copy");
                    for token in 0..n_tokens {
                        let expected = twin::linear(shape, &weights, bias, &halves(&x, token)[..cols]);
                        let found = &found[token * (rows + 5)..][..rows + 5];
                        let what = format!("{layout:?} {shape:?} {token}");
                        common::assert_close(&device, &found[2..rows + 2], &expected, 1e-4, &what);
                        assert!(found[..2].iter().chain(&found[rows + 2..]).all(|value| value.is_nan()));
                    }
                }
            }
        }
    }
}

/// Three parts, added to what is there; each row the same whatever the batch.
#[test]
fn parts_and_batches() {
    let mut random = common::random();
    let device = &common::devices()[0];
    let cols = 320;
    let shapes = [50, 16, 17].map(|rows| Shape { rows, cols });
    let weights = shapes.map(|shape| weights(&mut random, shape.rows * shape.cols));
    let (x, before) = (common::normal(&mut random, 70 * cols, 2.0), common::normal(&mut random, 70 * 90, 1.0));
    let mut first: Option<Vec<f32>> = None;
    for layout in Layout::ALL {
        let matrices = [0, 1, 2].map(|idx| load(device, layout, shapes[idx], &weights[idx], None));
        for n_tokens in [70, 64, 32, 16, 8, 5, 1] {
            let x = common::buffer(device, cols, &x);
            let mut out = common::buffer(device, 90, &before);
            let parts = [(0, 0), (1, 50), (2, 70)].map(|(idx, out_col)| Part { matrix: matrices[idx].view(), out_col });
            launch::linear(&x, n_tokens, &parts, Epilogue::Add, &mut out).expect("a launch");
            let found = out.floats.to_vec().expect("a copy");
            let first = first.get_or_insert_with(|| found.clone());
            assert_eq!(
                common::bits(&found[..n_tokens * 90]),
                common::bits(&first[..n_tokens * 90]),
                "{layout:?} {n_tokens}"
            );
            assert_eq!(common::bits(&found[n_tokens * 90..]), common::bits(&before[n_tokens * 90..]));
        }
    }
    let expected = twin::linear(shapes[1], &weights[1], None, &halves(&common::buffer(device, cols, &x), 3));
    let found = &first.expect("batches")[3 * 90 + 50..][..16];
    let expected: Vec<f32> =
        before[3 * 90 + 50..].iter().zip(&expected).map(|(before, product)| before + product).collect();
    common::assert_close(device, found, &expected, 1e-4, "added");
}

/// Gate and up as two matrices and as one: the same bits, which are those of the products and the activation.
#[test]
fn gated() {
    let mut random = common::random();
    for device in common::devices() {
        let (width, cols) = (48, 130);
        let both = Shape { rows: 2 * width, cols };
        let weights = weights(&mut random, both.rows * cols);
        let x = common::buffer(&device, cols, &common::normal(&mut random, 20 * cols, 1.0));
        for activation in [Activation::Silu, Activation::GeluTanh, Activation::GeluErf] {
            for layout in Layout::ALL {
                let one = load(&device, layout, both, &weights, None);
                let (gate, up) = weights.split_at(width * cols);
                let half = Shape { rows: width, cols };
                let two = [load(&device, layout, half, gate, None), load(&device, layout, half, up, None)];
                for n_tokens in [1, 20] {
                    let mut outs = [(); 2].map(|()| common::buffer(&device, width, &vec![f32::NAN; n_tokens * width]));
                    launch::gated_linear(&x, n_tokens, &[one.view()], activation, &mut outs[0]).expect("a launch");
                    launch::gated_linear(&x, n_tokens, &[two[0].view(), two[1].view()], activation, &mut outs[1])
                        .expect("a launch");
                    let found = common::values(&outs[0]);
                    assert_eq!(common::bits(&found), common::bits(&common::values(&outs[1])));
                    for token in 0..n_tokens {
                        let products = twin::linear(both, &weights, None, &halves(&x, token));
                        let gate = |row| twin::pointwise::gate(activation, products[row], products[width + row]);
                        let expected: Vec<f32> = (0..width).map(gate).collect();
                        let what = format!("{layout:?} {activation:?} {token} of {n_tokens}");
                        common::assert_close(&device, &found[token * width..][..width], &expected, 1e-4, &what);
                    }
                }
            }
        }
    }
}

/// The GPU's encoder is the scalar one, and every pattern comes back: by rows, and row by row.
#[test]
fn all_bit_patterns() {
    let device = &common::devices().pop().expect("a device");
    let shape = Shape { rows: 400, cols: 2000 };
    let weights: Vec<u16> = (0..shape.rows * shape.cols)
        .map(|idx| if idx < 1 << 16 { idx as u16 } else { 0x3c00 | (idx % 1000) as u16 })
        .collect();
    let (exact11, exact12) = (Exact11::encode(shape, &weights), Exact12::encode(shape, &weights));
    for layout in Layout::ALL {
        let matrix = load(device, layout, shape, &weights, None);
        let defined = match layout {
            Layout::Rows => None,
            Layout::Exact11 => {
                Some((exact11.weights.as_flattened(), &exact11.escapes, &exact11.escape_starts, &exact11.palettes))
            }
            Layout::Exact12 => {
                Some((exact12.weights.as_flattened(), &exact12.escapes, &exact12.escape_starts, &exact12.palettes))
            }
        };
        if let Some(defined) = defined {
            let (words, escapes, starts, palettes) = matrix.contents().expect("copies");
            assert_eq!(&palettes, defined.3);
            assert_eq!(&starts, defined.2);
            assert!(&escapes == defined.1 && words == defined.0);
        }
        let mut rows = device.zeroed(32 * 2048 / 2).expect("memory");
        assert_eq!(launch::decode(matrix.view(), 1, &mut rows).expect("a launch"), 32);
        for (row, words) in rows.to_vec().expect("a copy").chunks(1024).enumerate() {
            let decoded: Vec<u16> = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]).collect();
            assert!(decoded[..2000] == weights[(16 + row) * 2000..][..2000]);
            assert!(layout != Layout::Rows || decoded[2000..].iter().all(|&bits| bits == 0));
        }
        let tokens = device.upload(&[399u32, 0, 31]).expect("memory");
        let mut out = Buffer::new(device, 3, shape.cols).expect("memory");
        launch::embed(matrix.view(), &tokens, 3, &mut out).expect("a launch");
        for (idx, row) in [399, 0, 31].into_iter().enumerate() {
            assert!(halves(&out, idx) == weights[row * 2000..][..2000], "{layout:?} row {row}");
        }
    }
}

/// Weights of exact11 whose second codes fill more words of a step than a warp has lanes, next to some of which there are
/// none; and slices of more steps than lanes. What is decoded is there again, and the GPU encodes as defined.
#[test]
fn long_streams() {
    let mut random = common::random();
    for device in common::devices() {
        for (rows, cols, n_exponents) in [(20, 700, 11), (16, 520, 3), (3, 16384 + 700, 11), (5, 16384 + 64, 4)] {
            let shape = Shape { rows, cols };
            let weights: Vec<u16> = (0..rows * cols)
                .map(|_| (random.random_range(0..n_exponents) + 110) << 7 | random.random::<u16>() & 0x807f)
                .collect();
            let matrix = load(&device, Layout::Exact11, shape, &weights, None);
            let defined = Exact11::encode(shape, &weights);
            assert!(matrix.contents().expect("copies").1 == defined.escapes);
            let stride = shape.n_steps() * 64;
            let mut decoded = device.zeroed(shape.n_tiles() * 16 * stride / 2).expect("memory");
            assert_eq!(launch::decode(matrix.view(), 0, &mut decoded).expect("a launch"), rows);
            for (row, words) in decoded.to_vec().expect("a copy").chunks(stride / 2).take(rows).enumerate() {
                let found: Vec<u16> = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]).collect();
                assert!(found[..cols] == weights[row * cols..][..cols], "{shape:?} row {row}");
            }
            let x = common::buffer(&device, cols, &common::normal(&mut random, 9 * cols, 1.0));
            for n_tokens in [1, 9] {
                let products = [Layout::Rows, Layout::Exact11].map(|layout| {
                    let matrix = load(&device, layout, shape, &weights, None);
                    let mut out = common::buffer(&device, rows, &vec![f32::NAN; n_tokens * rows]);
                    let parts = [Part { matrix: matrix.view(), out_col: 0 }];
                    launch::linear(&x, n_tokens, &parts, Epilogue::Store, &mut out).expect("a launch");
                    common::bits(&out.floats.to_vec().expect("a copy"))
                });
                assert_eq!(products[0], products[1], "{shape:?} {n_tokens}");
            }
        }
    }
}

/// A matrix that lies in the host's memory, and comes to a slot, multiplies as it did.
#[test]
fn from_a_slot() {
    let mut random = common::random();
    let device = &common::devices()[0];
    let shape = Shape { rows: 50, cols: 330 };
    let (weights, bias) = (weights(&mut random, 50 * 330), common::normal(&mut random, 50, 1.0));
    let x = common::buffer(device, 330, &common::normal(&mut random, 330, 1.0));
    for layout in Layout::ALL {
        let product = |view: View<'_>| {
            let mut out = common::buffer(device, 50, &[f32::NAN; 50]);
            launch::linear(&x, 1, &[Part { matrix: view, out_col: 0 }], Epilogue::Store, &mut out).expect("a launch");
            common::bits(&out.floats.to_vec().expect("a copy"))
        };
        let matrix = load(device, layout, shape, &weights, Some(&bias));
        let expected = product(matrix.view());
        let in_host = HostMatrix::take(matrix).expect("memory");
        let mut slots = Slots::new(device, 1, in_host.len()).expect("memory");
        slots.fetch(0, &in_host).expect("a copy");
        assert_eq!(product(slots.view(0, &in_host).expect("it was fetched")), expected, "{layout:?}");
    }
}
