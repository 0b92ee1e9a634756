//! Speed of encoding and decoding groups of 2^19 bf16 weights: one group again and again, so that it stays in the
//! caches, and 64 different ones. GB of bf16 a second, the median and the best of interleaved rounds. `NETWEIGHT_ISA`
//! picks the kernels.

use netweight_layout::{Geometry, Histogram, Layout, decode_group, encode_group};
use std::time::{Duration, Instant};

const N_ROUNDS: usize = 11;
/// Groups in a round.
const N_REPEATS: usize = 64;
const LAYOUTS: [Layout; 3] = [Layout::Bf16, Layout::Exact11, Layout::Exact12];

fn main() {
    for (n_rows, cols) in [(128, 4096), (32, 14336), (2048, 256)] {
        assert_eq!(Geometry::new(Layout::Bf16, n_rows, cols).map(|geometry| geometry.n_groups()), Ok(1));
        let group = weights(n_rows * cols);
        measure("cached", n_rows, cols, &group);
        measure("memory", n_rows, cols, &group.repeat(N_REPEATS));
    }
}

/// Prints a line for each way of working through `src`, one group or `N_REPEATS` of them.
fn measure(place: &str, n_rows: usize, cols: usize, src: &[u8]) {
    let group_bytes = 2 * n_rows * cols;
    let source = |repeat: usize| &src[repeat * group_bytes % src.len()..][..group_bytes];
    let mut groups = LAYOUTS.map(|_| Vec::new());
    let mut back = vec![0; group_bytes];
    let mut times = vec![Vec::new(); 1 + 2 * LAYOUTS.len()];
    for _ in 0..N_ROUNDS {
        times[0].push(time(|repeat| Histogram::default().count(cols, n_rows, source(repeat))));
        for (idx, (layout, group)) in LAYOUTS.into_iter().zip(&mut groups).enumerate() {
            let encode = |repeat| encode_group(layout, cols, n_rows, source(repeat), group).expect("a group");
            times[1 + 2 * idx].push(time(encode));
            let decode = |_| decode_group(layout, cols, n_rows, group, &mut back).expect("weights");
            times[2 + 2 * idx].push(time(decode));
        }
    }
    assert!(back == source(0));
    let names = ["count", "bf16", "  back", "exact11", "  back", "exact12", "  back"];
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort();
        let speed = |time: Duration| (group_bytes * N_REPEATS) as f64 / time.as_secs_f64() / 1e9;
        println!(
            "({n_rows}, {cols}) {place} {name:10} {:6.2} ({:.2}) GB/s",
            speed(times[N_ROUNDS / 2]),
            speed(times[0])
        );
    }
}

fn time(work: impl FnMut(usize)) -> Duration {
    let start = Instant::now();
    (0..N_REPEATS).for_each(work);
    start.elapsed()
}

/// Nearly normal weights from sums of uniform numbers (xorshift64*), little-endian bf16.
fn weights(n: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut uniform = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 40) as f32 / 16_777_216.0
    };
    (0..n).flat_map(|_| half_of(((0..6).map(|_| uniform()).sum::<f32>() - 3.0) * 0.03)).collect()
}

fn half_of(weight: f32) -> [u8; 2] {
    half::bf16::from_f32(weight).to_le_bytes()
}
