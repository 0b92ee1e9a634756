//! Resident layouts: groups of tiles from nowhere. What multiplies with broken ones is tested in `kernels-cpu`.

use netweight_layout::{GroupView, Layout, Matrix, decode_group, encode_group};

use crate::input::Input;
use crate::make;

/// Weights of groups that are decoded.
const MAX_WEIGHTS: usize = 1 << 16;
/// Longest seed: what libFuzzer is told to try.
const MAX_SEED_BYTES: usize = 16384;

/// Input: layout, columns (u16), rows (u16), the group.
pub(crate) fn decode(input: &[u8]) {
    let mut parts = Input::new(input);
    let layout = layout(parts.u8());
    let (cols, n_rows) = (usize::from(parts.u16()), usize::from(parts.u16()));
    let group = parts.rest();
    let view = GroupView::parse(layout, cols, group);
    if let Ok(view) = &view {
        touch(view);
    }
    if cols * n_rows > MAX_WEIGHTS {
        return;
    }
    let decode = |memory: u8| {
        let mut back = vec![memory; cols * n_rows * layout.element_bytes()];
        decode_group(layout, cols, n_rows, group, &mut back).is_ok().then_some(back)
    };
    let decoded = decode(0);
    assert!(decoded == decode(0xff), "the output depends on what was in memory");
    let matrix = Matrix::from_groups(layout, n_rows, cols, &[group]);
    assert!(decoded.is_none() || matrix.is_ok(), "decoded, but no matrix");
    let Ok(matrix) = matrix else { return };
    assert!(view.is_ok(), "a matrix, but no group");
    if let Some(weights) = &decoded {
        encode_again(&matrix, weights);
    }
}

fn layout(number: u8) -> Layout {
    let layouts: Vec<Layout> = Layout::all().collect();
    layouts[usize::from(number) % layouts.len()]
}

/// Reads what a multiplication may read.
fn touch(view: &GroupView<'_>) {
    for tile in (0..view.n_tiles()).map(|tile_idx| view.tile(tile_idx)) {
        assert_eq!(tile.cells.len(), view.n_cells() * view.layout().cell_bytes());
        let bytes = [tile.cells, tile.nibbles, tile.raw].into_iter().flatten();
        std::hint::black_box(bytes.map(|&byte| u64::from(byte)).sum::<u64>());
    }
}

/// What decodes can be encoded, and is then what it was.
fn encode_again(matrix: &Matrix, weights: &[u8]) {
    let again = Matrix::encode(matrix.layout(), matrix.rows(), matrix.cols(), weights).expect("the same shape");
    for matrix in [matrix, &again] {
        let mut back = vec![0xaa; weights.len()];
        matrix.decode(&mut back).expect("what decodes");
        assert!(back == weights, "other weights came back");
    }
}

pub(crate) fn decode_seeds() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..20_000u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut seeds = vec![];
    for (number, layout) in Layout::all().enumerate() {
        for (n_rows, cols) in [(1, 1), (16, 32), (20, 40), (40, 70), (33, 128)] {
            let len = n_rows * cols * layout.element_bytes();
            // Weights alone, and some with every high byte among them.
            let weights = make::weights(len, 11);
            let mixed = [&weights[..len / 2], &noise[..len - len / 2]].concat();
            for mut src in [weights, mixed] {
                if layout == Layout::Int4 {
                    src.iter_mut().for_each(|byte| *byte = (byte.cast_signed() >> 4).cast_unsigned());
                }
                let mut group = vec![];
                encode_group(layout, cols, n_rows, &src, &mut group).expect("a good shape");
                let [cols, n_rows] = [cols, n_rows].map(|n| (n as u16).to_le_bytes());
                seeds.push([&[number as u8], &cols[..], &n_rows, &group].concat());
            }
        }
    }
    seeds.retain(|seed| seed.len() <= MAX_SEED_BYTES);
    seeds
}
