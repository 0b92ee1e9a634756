//! Measurements run, and what they measure with is what it should be. How long anything takes on an emulated GPU says
//! nothing.

mod common;

use netweight_cuda_emulator::Options;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::measure::{Effort, Linears, Setup, Way, bandwidth};
use netweight_kernels_cuda::{Layout, Loader, launch, twin};

const EFFORT: Effort = Effort { rounds: 2, seconds: 0.05 };

#[test]
fn random_values_are_the_twins() {
    for device in common::devices() {
        for (first, len, scale) in [(0, 5000, 0.02), (123_456_789_012, 77, 3.0)] {
            let mut found = device.zeroed::<u16>(len + 3).expect("memory");
            launch::random_halves(&mut found, len, (7, first), scale).expect("a launch");
            let found = found.to_vec().expect("a copy");
            let expected: Vec<u16> = (first..first + len as u64).map(|idx| twin::random_half(7, idx, scale)).collect();
            assert!(found[..len] == expected && found[len..] == [0; 3]);
        }
    }
}

#[test]
fn random_values_are_about_normal() {
    let values: Vec<f64> =
        (0..100_000).map(|idx| f64::from(half::bf16::from_bits(twin::random_half(42, idx, 1.0)).to_f32())).collect();
    let mean = |of: &dyn Fn(f64) -> f64| values.iter().map(|&value| of(value)).sum::<f64>() / values.len() as f64;
    assert!(mean(&|value| value).abs() < 0.02);
    assert!((mean(&|value| value * value) - 1.0).abs() < 0.02);
    assert!((mean(&|value| f64::from(value.abs() < 1.0)) - 0.683).abs() < 0.02);
    // A weight in a thousand is as small as that, and none is zero.
    let tiny = mean(&|value| f64::from(value.abs() < 1.0 / 800.0));
    assert!((0.0005..0.0015).contains(&tiny) && values.iter().all(|&value| value != 0.0), "{tiny}");
}

#[test]
fn memory_is_read_and_copied() {
    for device in common::devices() {
        let mut from = device.zeroed::<u16>(8 * 3001).expect("memory");
        launch::random_halves(&mut from, 8 * 3001, (1, 0), 1.0).expect("a launch");
        let values = from.to_vec().expect("a copy");
        let words = values.chunks_exact(2).map(|pair| u32::from(pair[0]) | u32::from(pair[1]) << 16);
        let mut sums = device.zeroed::<u32>(3).expect("memory");
        launch::read_memory(&from, &mut sums).expect("a launch");
        let found = sums.to_vec().expect("a copy").into_iter().fold(0, u32::wrapping_add);
        assert_eq!(found, words.fold(0, u32::wrapping_add));
        let mut to = device.zeroed::<u16>(8 * 3001 + 1).expect("memory");
        launch::copy_memory(&from, &mut to, 3).expect("a launch");
        let copied = to.to_vec().expect("a copy");
        assert!(copied[..values.len()] == values && copied[values.len()] == 0);
        let found = bandwidth(&device, Some(1 << 16), EFFORT).expect("a measurement");
        assert!(found.n_bytes == 1 << 16 && found.read_rate() > 0.0 && found.copy_rate() > 0.0);
    }
}

/// The same weights in every layout, which are those of the sequence.
#[test]
fn random_weights() {
    let shape = Shape { rows: 40, cols: 200 };
    for device in common::devices() {
        let mut loader = Loader::with_chunk(&device, 16 * 200).expect("memory");
        for layout in Layout::ALL {
            let matrix = loader.random(layout, shape, None, (3, 0.02)).expect("a load").expect("it fits");
            let mut rows = device.zeroed(shape.padded_len() / 2).expect("memory");
            launch::decode(matrix.view(), 0, &mut rows).expect("a launch");
            let stride = shape.n_steps() * 64 / 2;
            for (row, words) in rows.to_vec().expect("a copy").chunks(stride).take(shape.rows).enumerate() {
                let decoded = words.iter().flat_map(|&word| [word as u16, (word >> 16) as u16]).take(shape.cols);
                let expected = (0..shape.cols).map(|col| twin::random_half(3, (row * shape.cols + col) as u64, 0.02));
                assert!(decoded.eq(expected), "{layout:?} row {row}");
            }
        }
    }
}

#[test]
fn every_way_is_timed() {
    let emulated = [(true, true), (false, true), (true, false)].map(|(has_gemm, has_graphs)| {
        (common::emulated(Options { has_gemm, has_graphs, memory_bytes: 1 << 28, ..Options::default() }), has_gemm)
    });
    // A real GPU may be without the library; then the ways that need it are left out.
    let real = common::real().map(|device| (device, false));
    for (device, has_gemm) in emulated.into_iter().chain(real) {
        let shape = Shape { rows: 64, cols: 256 };
        let mut loader = Loader::with_chunk(&device, 32 * shape.cols).expect("memory");
        let setup = Setup { max_tokens: 9, max_copies: 2, seed: 1 };
        let linears = Linears::new(&device, &mut loader, shape, setup).expect("memory");
        let layouts: Vec<Layout> = linears.layouts().map(|(layout, _)| layout).collect();
        assert!(layouts.starts_with(&[Layout::Rows]) && layouts.len() > 1, "{layouts:?}");
        for n_tokens in [1, 9] {
            let ways: Vec<Way> =
                Layout::ALL.iter().flat_map(|&layout| [Way::Fused(layout), Way::Vendor(layout)]).collect();
            for (way, timing) in ways.iter().zip(linears.time(n_tokens, &ways, EFFORT).expect("a measurement")) {
                let (Way::Fused(layout) | Way::Vendor(layout)) = way;
                match timing {
                    Some(timing) => assert!(0.0 < timing.least && timing.least <= timing.seconds, "{way:?} {timing:?}"),
                    None => assert!(!has_gemm && *way == Way::Vendor(*layout), "{way:?}"),
                }
            }
        }
        for layout in layouts {
            assert!(linears.time_decode(layout, EFFORT).expect("a measurement").is_some());
        }
    }
}
