//! Packed matrices from nowhere: one string of bytes, of which nothing is known.

use netweight_layout::{Geometry, Layout, PackedHead, PackedView, encode_group};

use crate::input::Input;
use crate::make;

/// Weights that are decoded.
const MAX_WEIGHTS: usize = 1 << 16;
/// Longest seed: what libFuzzer is told to try.
const MAX_SEED_BYTES: usize = 16384;

/// Input: first row (u16), number of rows (u16), the packed matrix.
pub(crate) fn decode(input: &[u8]) {
    let mut parts = Input::new(input);
    let (begin, n_rows) = (usize::from(parts.u16()), usize::from(parts.u16()));
    let Ok(view) = PackedView::parse(parts.rest()) else { return };
    let geometry = view.geometry();
    let row_bytes = geometry.cols() * geometry.layout().element_bytes();
    if n_rows * geometry.cols() > MAX_WEIGHTS {
        return;
    }
    let decode = |memory: u8| {
        let (mut back, mut scratch) = (vec![memory; n_rows * row_bytes], vec![memory; 1000]);
        view.decode_rows(begin..begin + n_rows, &mut scratch, &mut back).is_ok().then_some(back)
    };
    let decoded = decode(0);
    assert!(decoded == decode(0xff), "the output depends on what was in memory");
    assert!(decoded.is_none() || begin + n_rows <= geometry.rows(), "rows that are not there");
}

pub(crate) fn decode_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![];
    for layout in [Layout::Bf16, Layout::Exact11, Layout::Exact12] {
        for (n_rows, cols) in [(1, 1), (20, 40), (40, 70), (33, 128)] {
            let geometry = Geometry::new(layout, n_rows, cols).expect("a good shape");
            let weights = make::weights(n_rows * cols * layout.element_bytes(), 12);
            let mut group = vec![];
            encode_group(layout, cols, n_rows, &weights, &mut group).expect("a good shape");
            let mut head = PackedHead::new(geometry);
            let mut packed = vec![0; head.len_bytes()];
            head.push(group.len());
            packed.extend(group);
            head.write(&mut packed).expect("all groups");
            for rows in [0..n_rows, n_rows / 2..n_rows] {
                let [begin, n_rows] = [rows.start, rows.len()].map(|n| (n as u16).to_le_bytes());
                seeds.push([&begin[..], &n_rows, &packed].concat());
            }
        }
    }
    seeds.retain(|seed| seed.len() <= MAX_SEED_BYTES);
    seeds
}
