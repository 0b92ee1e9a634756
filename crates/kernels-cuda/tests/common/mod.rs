//! Devices to test on, and fresh random values.
//!
//! `REQUIRE_GPU=1` makes it a failure that there is no real GPU; `NETWEIGHT_TEST_DEVICES=gpu` leaves the emulated ones
//! out, for a sanitizer that watches the real one.
#![allow(dead_code)] // not every test needs all

use std::sync::Arc;

use netweight_cuda_emulator::{Emulator, Options};
use netweight_kernels_cuda::launch::Buffer;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, Layout, Loader, Matrix, driver};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Emulated GPUs whose threads take turns in different orders: a race gives different results on them. And the real
/// GPU, if there is one.
pub fn devices() -> Vec<Device> {
    let orders = if std::env::var("NETWEIGHT_TEST_DEVICES").is_ok_and(|only| only == "gpu") { 0..0 } else { 0..3 };
    let emulated = orders.map(|order| emulated(Options { order, ..Options::default() }));
    emulated.chain(real()).collect()
}

/// The first real GPU. Without one, says so, or fails where `REQUIRE_GPU=1` asks for that.
pub fn real() -> Option<Device> {
    match driver::open(0) {
        Ok(device) => Some(device),
        Err(error) if std::env::var("REQUIRE_GPU").is_ok_and(|value| value == "1") => panic!("no GPU: {error}"),
        Err(error) => {
            println!("skipped: no GPU: {error}");
            None
        }
    }
}

/// Whether a device is emulated: then even tensor cores give the twin's bits.
pub fn is_emulated(device: &Device) -> bool {
    device.properties().name == "emulated GPU"
}

/// Whether a device is a GPU, and not emulated behind a driver's interface either: fast enough for many tries.
pub fn is_real(device: &Device) -> bool {
    !is_emulated(device) && !device.properties().name.starts_with("stub GPU")
}

/// Fails where a value is not the twin's: in its bits on an emulated device; on a real one, whose tensor cores round in
/// their own way, by more than `tolerance` times the largest of the twin's values.
pub fn assert_close(device: &Device, actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    if is_emulated(device) {
        return assert_eq!(bits(actual), bits(expected), "{what}");
    }
    let largest = expected.iter().fold(0f32, |largest, value| largest.max(value.abs()));
    for (idx, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let is_same = actual.to_bits() == expected.to_bits() || actual.is_nan() && expected.is_nan();
        let is_close = is_same || (actual - expected).abs() <= tolerance * largest;
        assert!(is_close, "{what}: value {idx} is {actual}, not {expected}; the largest is {largest}");
    }
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
