//! Matrices in memory of somebody else's: what was packed on one GPU comes back on another, by tiles and by rows.

mod common;

use netweight_kernels_cuda::launch::{
    self, Buffer, Epilogue, Part, decode_foreign, embed_foreign, foreign_len, linear_foreign,
};
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Layout, Packed};
use rand::Rng;

/// The stream that everybody has.
const DEFAULT_STREAM: u64 = 0;

/// bf16 of nine exponents.
fn weights(random: &mut impl Rng, len: usize) -> Vec<u16> {
    (0..len).map(|_| (random.random_range(0..9) + 110) << 7 | random.random::<u16>() & 0x807f).collect()
}

#[test]
fn packed_matrices() {
    let mut random = common::random();
    for device in common::devices() {
        for (layout, (rows, cols)) in Layout::ALL.into_iter().zip([(40, 200), (33, 129), (64, 256)]) {
            let shape = Shape { rows, cols };
            let weights = weights(&mut random, rows * cols);
            let matrix = common::load(&device, layout, shape, &weights, None);
            let mut words = vec![0; matrix.packed().n_words()];
            let packed = matrix.pack(&mut words).expect("a copy");
            drop(matrix);
            assert_eq!(Packed::of(layout, shape, packed.n_words()).expect("as many"), packed);
            assert!(Packed::of(layout, shape, packed.n_words() / 2).is_err());
            let words = device.upload(&words).expect("memory");
            let place = (&packed, words.address());
            let tiles = 1..shape.n_tiles();
            let out = device.zeroed::<u16>(foreign_len(&packed, tiles.len())).expect("memory");
            device.synchronize().expect("no error"); // zeros are there, too
            // SAFETY: all memory stays until the device is done, and is as long as it must be.
            unsafe { decode_foreign(&device, DEFAULT_STREAM, place, tiles, out.address()) }.expect("a launch");
            device.synchronize_foreign(DEFAULT_STREAM).expect("no error");
            let stride = shape.n_steps() * 64;
            for (row, found) in (16..rows).zip(out.to_vec().expect("a copy").chunks(stride)) {
                assert!(found[..cols] == weights[row * cols..][..cols], "{layout:?} row {row}");
            }
            let tokens = device.upload(&[rows as u32 - 1, 0, 17]).expect("memory");
            let (out, wide) = (device.zeroed::<u16>(3 * cols), device.zeroed::<f32>(3 * cols));
            let (out, wide) = (out.expect("memory"), wide.expect("memory"));
            let outs = (out.address(), wide.address());
            device.synchronize().expect("no error");
            // SAFETY: as above.
            unsafe { embed_foreign(&device, DEFAULT_STREAM, place, (tokens.address(), 3), outs) }.expect("a launch");
            device.synchronize_foreign(DEFAULT_STREAM).expect("no error");
            let (out, wide) = (out.to_vec().expect("a copy"), wide.to_vec().expect("a copy"));
            for (idx, row) in [rows - 1, 0, 17].into_iter().enumerate() {
                assert!(out[idx * cols..][..cols] == weights[row * cols..][..cols], "{layout:?} row {row}");
            }
            assert!(wide.iter().zip(&out).all(|(wide, half)| wide.to_bits() == u32::from(*half) << 16));
        }
    }
}

/// The bits of the same product in memory of ours.
#[test]
fn products() {
    let mut random = common::random();
    for device in common::devices() {
        for (layout, (rows, cols), n_tokens) in
            [(Layout::Exact12, (40, 200), 1), (Layout::Exact12, (33, 136), 9), (Layout::Exact11, (64, 256), 70)]
        {
            let shape = Shape { rows, cols };
            let weights = weights(&mut random, rows * cols);
            let matrix = common::load(&device, layout, shape, &weights, None);
            let mut words = vec![0; matrix.packed().n_words()];
            let packed = matrix.pack(&mut words).expect("a copy");
            let words = device.upload(&words).expect("memory");
            let x = common::buffer(&device, cols, &common::normal(&mut random, n_tokens * cols, 1.0));
            let mut expected = Buffer::new(&device, n_tokens, rows).expect("memory");
            let parts = [Part { matrix: matrix.view(), out_col: 0 }];
            launch::linear(&x, n_tokens, &parts, Epilogue::Store, &mut expected).expect("a launch");
            let out = device.zeroed::<f32>(n_tokens * rows).expect("memory");
            device.synchronize().expect("no error");
            let x = (x.halves.address(), x.halves_stride(), n_tokens);
            // SAFETY: all memory stays until the device is done, and is as long as it must be.
            unsafe { linear_foreign(&device, DEFAULT_STREAM, (&packed, words.address()), x, out.address()) }
                .expect("a launch");
            device.synchronize_foreign(DEFAULT_STREAM).expect("no error");
            let (found, expected) = (out.to_vec().expect("a copy"), expected.floats.to_vec().expect("a copy"));
            assert_eq!(common::bits(&found), common::bits(&expected), "{layout:?}");
        }
    }
}

#[test]
#[should_panic(expected = "no tiles 2..4")]
fn tiles_that_are_not_there() {
    let device = common::emulated(Default::default());
    let matrix = common::load(&device, Layout::Exact12, Shape { rows: 48, cols: 64 }, &vec![0x3f80; 48 * 64], None);
    // SAFETY: it refuses before it looks at memory.
    let _ = unsafe { decode_foreign(&device, DEFAULT_STREAM, (&matrix.packed(), 0), 2..4, 0) };
}
