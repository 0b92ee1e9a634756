//! Routing against its twin.

mod common;

use netweight_kernels_cuda::launch::{self, Routed, Routing};
use netweight_kernels_cuda::twin;
use netweight_kernels_cuda::twin::routing::Chosen;
use rand::Rng;

/// Few different values, so that many are equal, and some that are not numbers.
fn logits(random: &mut impl Rng, len: usize) -> Vec<f32> {
    let values = [0.0, -0.0, 1.5, 2.25, -3.0, 7.0, f32::NEG_INFINITY, f32::NAN];
    (0..len)
        .map(|_| if random.random() { random.random_range(-4.0..4.0) } else { values[random.random_range(0..8)] })
        .collect()
}

#[test]
fn route() {
    let mut random = common::random();
    let cases = [(1, 1, 1), (1, 128, 8), (5, 3, 3), (70, 8, 2), (3, 60, 4), (259, 33, 6), (2, 100, 33)];
    for device in common::devices() {
        for (n_rows, n_experts, top_k) in cases {
            let (norm_top_k, stride) = (random.random(), n_experts + 1);
            let logits = logits(&mut random, n_rows * stride);
            let mut routing = Routing::new(&device, n_rows + 1, n_experts + 2, top_k).expect("memory");
            let routed = Routed { n_experts, top_k, norm_top_k };
            launch::route(&common::buffer(&device, stride, &logits), n_rows, routed, &mut routing).expect("a launch");

            let chosen: Vec<Vec<Chosen>> =
                logits.chunks(stride).map(|row| twin::routing::choose(&row[..n_experts], top_k, norm_top_k)).collect();
            let (mut starts, mut rows, mut weights, mut places) = (vec![0], vec![], vec![], vec![vec![]; n_rows]);
            for expert in 0..n_experts as u32 {
                for (row, chosen) in chosen.iter().enumerate() {
                    for chosen in chosen.iter().filter(|chosen| chosen.expert == expert) {
                        places[row].push(rows.len() as u32);
                        rows.push(row as u32);
                        weights.push(chosen.weight);
                    }
                }
                starts.push(rows.len() as u32);
            }
            let what = format!("{n_rows} x {n_experts} / {top_k}");
            let n = n_rows * top_k;
            assert_eq!(routing.starts.to_vec().expect("a copy")[..=n_experts], starts, "{what}");
            assert_eq!(routing.rows.to_vec().expect("a copy")[..n], rows, "{what}");
            assert_eq!(common::bits(&routing.weights.to_vec().expect("a copy")[..n]), common::bits(&weights), "{what}");
            assert_eq!(routing.places.to_vec().expect("a copy")[..n], places.concat(), "{what}");
        }
    }
}

#[test]
fn combine_is_zero_then_scatter_add() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_rows, n_experts, top_k, width) in [(1, 4, 2, 64), (9, 5, 3, 257), (40, 40, 1, 3)] {
            let logits = common::buffer(&device, n_experts, &common::normal(&mut random, n_rows * n_experts, 1.0));
            let mut routing = Routing::new(&device, n_rows, n_experts, top_k).expect("memory");
            let routed = Routed { n_experts, top_k, norm_top_k: true };
            launch::route(&logits, n_rows, routed, &mut routing).expect("a launch");
            let x = common::normal(&mut random, n_rows * top_k * width, 1.0);
            let mut out = common::buffer(&device, width, &vec![f32::NAN; n_rows * width]);
            launch::combine(&common::buffer(&device, width, &x), n_rows, width, top_k, &routing, &mut out)
                .expect("a launch");

            let [starts, rows] = [&routing.starts, &routing.rows].map(|memory| memory.to_vec().expect("a copy"));
            let weights = routing.weights.to_vec().expect("a copy");
            let mut expected = common::buffer(&device, width, &vec![0.0; n_rows * width]);
            for expert in starts.windows(2) {
                let range = expert[0] as usize..expert[1] as usize;
                if range.is_empty() {
                    continue;
                }
                let of_expert = common::buffer(&device, width, &x[range.start * width..range.end * width]);
                let rows = device.upload(&rows[range.clone()]).expect("memory");
                let weights = device.upload(&weights[range.clone()]).expect("memory");
                launch::scatter_add(&of_expert, &rows, &weights, range.len(), width, &mut expected).expect("a launch");
            }
            assert_eq!(common::bits(&common::values(&out)), common::bits(&common::values(&expected)));
        }
    }
}
