//! Chunks in and out, over every instruction set that this CPU runs.

use crate::kernels::{self, Kernels};
use crate::{Decoder, Encoder, Error, Level, describe_chunk};
use netweight_tensor::{DTYPES, Dtype};
use proptest::prelude::*;

/// A small generator of pseudo-random numbers (xorshift64*), so that failures repeat.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Roughly normal, by a sum of uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / 16_777_216.0).sum::<f32>() - 6.0
    }
}

fn bf16(x: f32) -> [u8; 2] {
    (((x.to_bits() + 0x8000) >> 16) as u16).to_le_bytes()
}

fn round_trip(dtype: &str, raw: &[u8], level: Level, kernels: &'static Kernels) -> Vec<u8> {
    let dtype = Dtype::from_name(dtype);
    let mut chunk = vec![];
    Encoder::with(level, kernels).encode_chunk(dtype, raw, &mut chunk).unwrap();
    assert!(chunk.len() <= raw.len() + 1 + 5 * dtype.element_bytes(), "{} > {}", chunk.len(), raw.len());
    for kernels in kernels::available() {
        let mut back = vec![0xaa; raw.len()];
        Decoder::with(kernels).decode_chunk(dtype, &chunk, &mut back).unwrap();
        assert!(back == raw, "{} {:?} {} bytes, {}", dtype.name(), level, raw.len(), kernels.name);
        let mut room = vec![0xaa; raw.len() + 64];
        let begin = room.as_ptr().align_offset(64);
        let back = &mut room[begin..][..raw.len()];
        Decoder::with(kernels).past_caches(true).decode_chunk(dtype, &chunk, back).unwrap();
        assert!(back == raw, "past caches: {} {:?} {} bytes, {}", dtype.name(), level, raw.len(), kernels.name);
    }
    chunk
}

/// Encodes with every instruction set (equal bytes), decodes with every one (equal input).
fn check(dtype: &str, raw: &[u8]) -> Vec<[usize; 2]> {
    let levels = [Level::Default, Level::Max];
    let sizes = levels.map(|level| {
        let mut chunks = kernels::available().map(|kernels| round_trip(dtype, raw, level, kernels));
        let first = chunks.next().unwrap();
        assert!(chunks.all(|chunk| chunk == first), "{dtype} {level:?}: bytes depend on the instruction set");
        first.len()
    });
    vec![sizes]
}

#[test]
fn every_length_up_to_three_steps() {
    let mut random = Random(1);
    let weights: Vec<u8> = (0..400).flat_map(|_| bf16(random.normal() * 0.02)).collect();
    for n in 1..=384 {
        check("BF16", &weights[..2 * n]);
        check("F16", &weights[..2 * n]);
        check("U8", &weights[..n]);
    }
}

#[test]
fn lengths_around_blocks_and_steps() {
    let mut random = Random(2);
    let weights: Vec<u8> = (0..21_000).flat_map(|_| bf16(random.normal() * 0.02)).collect();
    for n in [4095, 4096, 4097, 8191, 8192, 8320, 16384, 16385, 20_480, 20_607, 20_999] {
        check("BF16", &weights[..2 * n]);
        check("F32", &weights[..4 * (n / 2)]);
        check("F64", &weights[..8 * (n / 4)]);
        check("F8_E4M3", &weights[..n]);
    }
}

#[test]
fn all_bit_patterns() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    check("BF16", &all);
    check("F16", &all);
    check("I16", &all);
    let bytes: Vec<u8> = (0..=255).cycle().take(4096).collect();
    DTYPES.iter().for_each(|row| drop(check(row.name, &bytes)));
}

#[test]
fn odd_contents() {
    let mut random = Random(3);
    let n = 30_000;
    let zero_half: Vec<u8> = (0..n).flat_map(|i| bf16(if i % 2 == 0 { 0.0 } else { random.normal() })).collect();
    let outliers: Vec<u8> = (0..n).flat_map(|i| bf16(if i % 999 == 0 { f32::NAN } else { random.normal() })).collect();
    let two_scales: Vec<u8> =
        (0..n).flat_map(|i| bf16(if i % 2 == 0 { 1e-30 } else { 1e30 } * random.normal())).collect();
    let late_surprise: Vec<u8> = (0..n).flat_map(|i| bf16(if i == n - 1 { -1e-38 } else { 1.0 })).collect();
    let noise: Vec<u8> = (0..n).flat_map(|_| (random.next() as u16).to_le_bytes()).collect();
    let counting: Vec<u8> = (0..n).flat_map(|i| (i as u16).to_le_bytes()).collect();
    for raw in [zero_half, outliers, two_scales, late_surprise, noise, counting, vec![0; 60_000], vec![7; 60_000]] {
        for dtype in ["BF16", "F16", "F32", "F64", "C64", "F8_E5M2", "I32", "I64", "BOOL", "NEW"] {
            check(dtype, &raw[..raw.len() / 8 * 8]);
        }
    }
}

#[test]
fn sizes_near_the_entropy() {
    let mut random = Random(4);
    let values: Vec<f32> = (0..1 << 18).map(|_| random.normal() * 0.02).collect();
    let weights: Vec<u8> = values.iter().flat_map(|&x| bf16(x)).collect();
    let [default, max] = check("BF16", &weights)[0];
    let percent = |size: usize, raw: usize| 100.0 * size as f64 / raw as f64;
    assert!(percent(default, weights.len()) < 66.6, "default {}", percent(default, weights.len()));
    assert!(max < default, "max {}", percent(max, weights.len()));
    // f32 that holds bf16 values costs half the share; so does nothing of its lower half.
    let widened: Vec<u8> = values.iter().flat_map(|&x| [[0, 0], bf16(x)].concat()).collect();
    let [default, _] = check("F32", &widened)[0];
    assert!(percent(default, widened.len()) < 33.4, "{}", percent(default, widened.len()));
    let [zeros, _] = check("F32", &vec![0; 1 << 20])[0];
    assert!(zeros < 64, "{zeros}");
}

#[test]
fn damage_is_an_error_or_changes_the_bytes() {
    // Without the checksum that the container adds, a flipped raw bit decodes to other bytes; nothing may panic.
    let mut random = Random(5);
    let weights: Vec<u8> = (0..3000).flat_map(|_| bf16(random.normal())).collect();
    let dtype = Dtype::from_name("BF16");
    for level in [Level::Default, Level::Max] {
        let mut chunk = vec![];
        Encoder::new(level).encode_chunk(dtype, &weights, &mut chunk).unwrap();
        for kernels in kernels::available() {
            let (mut decoder, mut back) = (Decoder::with(kernels), vec![0; weights.len()]);
            for len in 0..chunk.len() {
                let result = decoder.decode_chunk(dtype, &chunk[..len], &mut back);
                assert!(matches!(result, Err(Error::Truncated { .. } | Error::Corrupt(_))), "{len}: {result:?}");
            }
            for at in 0..chunk.len() {
                for pattern in [1, 2, 4, 8, 16, 32, 64, 128, 255, chunk[at]] {
                    let mut bad = chunk.clone();
                    bad[at] ^= pattern;
                    let result = decoder.decode_chunk(dtype, &bad, &mut back);
                    assert!(bad == chunk || result.is_err() || back != weights, "byte {at} ^ {pattern}");
                    let _ = describe_chunk(dtype, &bad);
                }
            }
        }
    }
}

#[test]
fn wrong_arguments() {
    let (mut encoder, mut decoder) = (Encoder::new(Level::Default), Decoder::new());
    let dtype = Dtype::from_name("F32");
    for len in [0, 1, 3, 5] {
        let result = encoder.encode_chunk(dtype, &vec![0; len], &mut vec![]);
        assert!(matches!(result, Err(Error::InvalidArgument(_))));
        let result = decoder.decode_chunk(dtype, &[0; 30], &mut vec![0; len]);
        assert!(matches!(result, Err(Error::InvalidArgument(_))));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_round_trip(raw in prop::collection::vec(any::<u8>(), 1..3000), dtype in 0..DTYPES.len()) {
        let row = &DTYPES[dtype];
        let len = raw.len() / row.element_bytes * row.element_bytes;
        if len > 0 {
            check(row.name, &raw[..len]);
        }
    }

    #[test]
    fn any_chunk_is_refused_or_decoded(chunk in prop::collection::vec(any::<u8>(), 0..3000), dtype in 0..DTYPES.len(), n in 1usize..500) {
        let dtype = Dtype::from_name(DTYPES[dtype].name);
        for kernels in kernels::available() {
            let _ = Decoder::with(kernels).decode_chunk(dtype, &chunk, &mut vec![0; n * dtype.element_bytes()]);
        }
    }
}
