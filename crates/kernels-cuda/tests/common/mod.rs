//! Devices to test on, and fresh random values.
#![allow(dead_code)] // not every test needs all

use std::sync::Arc;

use netweight_cuda_emulator::{Emulator, Options};
use netweight_kernels_cuda::launch::Buffer;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, Layout, Loader, Matrix};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Emulated GPUs whose threads take turns in different orders: a race gives different results on them.
pub fn devices() -> Vec<Device> {
    [0, 1, 2].map(|order| emulated(Options { order, ..Options::default() })).into()
}

pub fn emulated(options: Options) -> Device {
    Device::new(Arc::new(Emulator::new(options)))
}

/// A generator whose seed is printed, so that a failure can be had again.
pub fn random() -> Xoshiro256PlusPlus {
    let seed = std::env::var("TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("TEST_SEED={seed}");
    Xoshiro256PlusPlus::seed_from_u64(seed)
}

/// Normal values, about `scale` large.
pub fn normal(random: &mut impl Rng, len: usize, scale: f32) -> Vec<f32> {
    let sum_of_12 = |random: &mut _| (0..12).map(|_| Rng::random::<f32>(random)).sum::<f32>() - 6.0;
    (0..len).map(|_| scale * sum_of_12(random)).collect()
}

pub fn buffer(device: &Device, width: usize, values: &[f32]) -> Buffer {
    let mut buffer = Buffer::new(device, values.len() / width, width).expect("memory");
    buffer.floats.write(0, values).expect("a copy");
    let stride = buffer.halves_stride();
    for (row, values) in values.chunks_exact(width).enumerate() {
        let rounded: Vec<u16> = values.iter().map(|&value| bf16(value)).collect();
        buffer.halves.write(row * stride, &rounded).expect("a copy");
    }
    buffer
}

/// Rounded as GPUs do.
fn bf16(value: f32) -> u16 {
    if value.is_nan() { 0x7fff } else { half::bf16::from_f32(value).to_bits() }
}

/// A buffer's f32, after a check that its bf16 are those rounded, and what follows them zero.
pub fn values(buffer: &Buffer) -> Vec<f32> {
    let floats = buffer.floats.to_vec().expect("a copy");
    let halves = buffer.halves.to_vec().expect("a copy");
    for (floats, halves) in floats.chunks_exact(buffer.width).zip(halves.chunks_exact(buffer.halves_stride())) {
        let (rounded, rest) = halves.split_at(buffer.width);
        for (float, half) in floats.iter().zip(rounded) {
            assert_eq!(*half, bf16(*float), "{float}");
        }
        assert!(rest.iter().all(|&half| half == 0));
    }
    floats
}

/// Bits, the same of every NaN.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| if value.is_nan() { 0x7fc0_0000 } else { value.to_bits() }).collect()
}

/// Normal values, and some that are not numbers, infinite, huge, tiny or zero.
pub fn odd(random: &mut impl Rng, len: usize, scale: f32) -> Vec<f32> {
    let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 3e38, -3e38, 1e-40, 0.0, -0.0];
    let mut values = normal(random, len, scale);
    for value in &mut values {
        if random.random_range(0..10) == 0 {
            *value = odd[random.random_range(0..odd.len())];
        }
    }
    values
}

/// A matrix on a device, chunk by chunk.
pub fn load(device: &Device, layout: Layout, shape: Shape, weights: &[u16], bias: Option<&[f32]>) -> Matrix {
    let mut loader = Loader::with_chunk(device, 40 * shape.cols).expect("memory"); // two tiles and a half
    let read = |rows: std::ops::Range<usize>, out: &mut [u16]| {
        out.copy_from_slice(&weights[rows.start * shape.cols..rows.end * shape.cols]);
        Ok::<(), netweight_kernels_cuda::Error>(())
    };
    loader.load(layout, shape, bias, read).expect("a load").expect("it fits")
}

/// The bf16 of a row.
pub fn halves(buffer: &Buffer, row: usize) -> Vec<u16> {
    buffer.halves.to_vec().expect("a copy")[row * buffer.halves_stride()..][..buffer.width].to_vec()
}
