//! Experts at once against each on its own.

mod common;

use common::{halves, load};
use netweight_kernels_cuda::launch::{self, Activation, Buffer, ExpertTable, Routed, Routing, Sent};
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Layout, Matrix, View, twin};

#[test]
fn experts() {
    let mut random = common::random();
    for device in common::devices() {
        for (n_experts, top_k, n_rows) in [(4, 2, 1), (5, 3, 12), (2, 1, 40)] {
            let (hidden, width) = (96, 40);
            let up = Shape { rows: width, cols: hidden };
            let down = Shape { rows: hidden, cols: width };
            let weights: Vec<[Vec<u16>; 3]> = (0..n_experts)
                .map(|_| {
                    [(); 3].map(|()| {
                        common::normal(&mut random, width * hidden, 0.05)
                            .iter()
                            .map(|&w| half::bf16::from_f32(w).to_bits())
                            .collect()
                    })
                })
                .collect();
            let logits = common::buffer(&device, n_experts, &common::normal(&mut random, n_rows * n_experts, 1.0));
            let mut routing = Routing::new(&device, n_rows, n_experts, top_k).unwrap();
            launch::route(&logits, n_rows, Routed { n_experts, top_k, norm_top_k: true }, &mut routing).unwrap();
            let (starts, rows) = (routing.starts.to_vec().unwrap(), routing.rows.to_vec().unwrap());
            let row_weights = routing.weights.to_vec().unwrap();
            let sent = Sent { routing: &routing, n_rows, top_k };
            let x = common::buffer(&device, hidden, &common::normal(&mut random, n_rows * hidden, 1.0));
            for layout in Layout::ALL {
                let shapes = [up, up, down];
                let loaded: Vec<[Matrix; 3]> = weights
                    .iter()
                    .map(|of| std::array::from_fn(|i| load(&device, layout, shapes[i], &of[i], None)))
                    .collect();
                let table = |range: std::ops::Range<usize>| {
                    let views: Vec<Vec<View<'_>>> =
                        loaded.iter().map(|of| of[range.clone()].iter().map(Matrix::view).collect()).collect();
                    ExpertTable::new(&device, &views).expect("alike")
                };
                let (gate_up, downs) = (table(0..2), table(2..3));
                let mut gated = Buffer::new(&device, n_rows * top_k, width).unwrap();
                let mut output = Buffer::new(&device, n_rows * top_k, hidden).unwrap();
                let mut out = common::buffer(&device, hidden, &vec![f32::NAN; n_rows * hidden]);
                gate_up.gated_linear(&x, sent, Activation::Silu, &mut gated).unwrap();
                downs.linear(&gated, sent, &mut output).unwrap();
                launch::combine(&output, n_rows, hidden, top_k, &routing, &mut out).unwrap();
                // One by one.
                let mut expected_outputs = Vec::new();
                for expert in 0..n_experts {
                    let entries = starts[expert] as usize..starts[expert + 1] as usize;
                    for (entry, &row) in rows.iter().enumerate().skip(entries.start).take(entries.len()) {
                        let x = &x.floats.to_vec().unwrap()[row as usize * hidden..][..hidden];
                        let x = common::buffer(&device, hidden, x);
                        let mut one = Buffer::new(&device, 1, width).unwrap();
                        let views = [loaded[expert][0].view(), loaded[expert][1].view()];
                        launch::gated_linear(&x, 1, &views, Activation::Silu, &mut one).unwrap();
                        assert_eq!(halves(&one, 0), halves(&gated, entry));
                        expected_outputs.push(twin::linear(down, &weights[expert][2], None, &halves(&one, 0)));
                    }
                }
                let mut expected = vec![0f32; n_rows * hidden];
                for ((output, &row), weight) in expected_outputs.iter().zip(&rows).zip(&row_weights) {
                    let sums = &mut expected[row as usize * hidden..][..hidden];
                    sums.iter_mut()
                        .zip(output)
                        .for_each(|(sum, y)| *sum = twin::pointwise::add_scaled(*sum, *weight, *y));
                }
                let found = out.floats.to_vec().unwrap();
                common::assert_close(&device, &found, &expected, 1e-4, &format!("{layout:?} {n_experts} {n_rows}"));
            }
        }
    }
}
