//! Every instruction set, index layout and number of tokens against the definition written once more, row by row.

use crate::linear::tests::{Random, assert_same_bits};
use crate::linear::{Job, Scratch, linear};
use crate::{Input, Isa, Pool, Precision};
use netweight_layout::{Layout, Matrix};

/// What indices are drawn from.
#[derive(Clone, Copy, Debug)]
enum Indices {
    /// Normal, of deviation 4.
    Normal,
    /// Any i8.
    Any,
    /// -128 alone: the largest sums.
    Least,
}

/// The definition, on rows as they are.
fn dot(indices: &[i8], x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for (indices, x) in indices.chunks(64).zip(x.chunks(64)) {
        let largest = x.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        if x.iter().any(|x| !x.is_finite()) {
            return f32::NAN;
        }
        let is_zero = largest < 2f32.powi(-100);
        let value = |x: f32| if is_zero { 0 } else { (x * (127.0 / largest)).round_ties_even() as i64 };
        let integer: i64 = indices.iter().zip(x).map(|(&index, &x)| i64::from(index) * value(x)).sum();
        sum = (integer as f32).mul_add(if is_zero { 0.0 } else { largest / 127.0 }, sum);
    }
    sum
}

/// Those of int4 have lost their upper bits.
fn draw(layout: Layout, indices: Indices, n: usize, random: &mut Random) -> Vec<i8> {
    let index = |_| match indices {
        Indices::Normal => (random.normal() * 4.0).round() as i8,
        Indices::Any => random.next() as i8,
        Indices::Least if layout == Layout::Int4 => -8,
        Indices::Least => -128,
    };
    let fit = |index: i8| if layout == Layout::Int4 { index << 4 >> 4 } else { index };
    (0..n).map(index).map(fit).collect()
}

/// All instruction sets and all of `n_tokens` give the definition's bits, in one call of two matrices.
fn check(layout: Layout, indices: Indices, (rows, cols): (usize, usize), all_n_tokens: &[usize], random: &mut Random) {
    let [first, second] = [rows, 5].map(|rows| draw(layout, indices, rows * cols, random));
    let encode = |rows: usize, indices: &[i8]| {
        let bytes: Vec<u8> = indices.iter().map(|&index| index as u8).collect();
        Matrix::encode(layout, rows, cols, &bytes).unwrap()
    };
    let matrices = [encode(rows, &first), encode(5, &second)];
    let max_tokens = *all_n_tokens.iter().max().unwrap();
    let (x_stride, y_stride) = (cols + 3, rows + 7);
    let mut x: Vec<f32> = (0..max_tokens * x_stride).map(|_| random.normal()).collect();
    // Runs of zeros, of tiny numbers, and with an outlier; one token that is not finite.
    x[..cols.min(70)].fill(0.0);
    x[cols / 3] = 1e6;
    if max_tokens > 3 {
        x[2 * x_stride..][..cols].iter_mut().for_each(|x| *x *= 1e-38);
        x[3 * x_stride + cols / 2] = if cols.is_multiple_of(2) { f32::INFINITY } else { f32::NAN };
    }
    let mut step = |_: usize| half::bf16::from_f32(0.5 + random.below(1000) as f32 / 1000.0).to_f32();
    let row_steps: Vec<f32> = (0..rows).map(&mut step).collect();
    let col_steps: Vec<f32> = (0..cols).map(step).collect();
    let bias: Vec<f32> = (0..5).map(|_| random.normal()).collect();
    let untouched = 77.0f32;
    let mut expected = vec![untouched; max_tokens * y_stride];
    for (x, y) in x.chunks(x_stride).zip(expected.chunks_mut(y_stride)) {
        let x: Vec<f32> = x.iter().zip(&col_steps).map(|(x, step)| x * step).collect();
        let rows = first.chunks(cols).zip(&row_steps).zip(&mut y[6..]);
        rows.for_each(|((indices, step), y)| *y = dot(indices, &x) * step);
        let rows = second.chunks(cols).zip(&bias).zip(&mut y[..5]);
        rows.for_each(|((indices, bias), y)| *y = dot(indices, &x) + bias);
    }
    for n_threads in [1, 3] {
        let pool = Pool::new(n_threads);
        let scratch = Scratch::new(&pool, max_tokens, cols);
        let mut input = Input::new(max_tokens, cols);
        for isa in Isa::available() {
            for &n_tokens in all_n_tokens {
                input.set_scaled(isa, &pool, (&x, x_stride), [n_tokens, cols], &col_steps, Precision::Int8);
                let jobs = [
                    Job { matrix: &matrices[0], row_steps: Some(&row_steps), bias: None, out_col: 6 },
                    Job { matrix: &matrices[1], row_steps: None, bias: Some(&bias), out_col: 0 },
                ];
                let mut y = vec![untouched; n_tokens * y_stride];
                linear(isa, &pool, &scratch, &input, &jobs, &mut y, y_stride);
                assert_same_bits(&y, &expected[..y.len()], || {
                    format!("{isa:?} {layout:?} {indices:?} ({rows}, {cols}) {n_tokens} tokens")
                });
            }
        }
    }
}

fn index_layouts() -> impl Iterator<Item = Layout> {
    Layout::all().filter(|layout| layout.is_index())
}

/// Fewer where the tests run in an emulator.
const TOKENS: &[usize] =
    if cfg!(target_arch = "aarch64") { &[1, 2, 11] } else { &[1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 31, 33, 40] };

#[test]
fn all_instruction_sets_give_the_same_bits() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for layout in index_layouts() {
        for indices in [Indices::Normal, Indices::Any, Indices::Least] {
            check(layout, indices, (21, 330), TOKENS, &mut random);
        }
    }
}

#[test]
fn shapes() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for layout in index_layouts() {
        for shape in
            [(1, 1), (16, 32), (17, 31), (15, 33), (64, 64), (33, 255), (557, 75), (49, 257), (2000, 40), (70, 2777)]
        {
            check(layout, Indices::Normal, shape, &[1, 6, 18], &mut random);
        }
    }
}

/// Codes in groups are not checked: a cell may ask for more escapes than there are.
#[test]
fn damaged_cells_stay_inside() {
    let mut random = Random(0x5151_5151_7171_7171);
    let (n_rows, cols) = (300, 200);
    let pool = Pool::new(1);
    let scratch = Scratch::new(&pool, 20, cols);
    let mut input = Input::new(20, cols);
    let x = vec![1.0; 20 * cols];
    for layout in index_layouts().filter(|layout| layout.has_palette()) {
        let bytes: Vec<u8> =
            draw(layout, Indices::Normal, n_rows * cols, &mut random).into_iter().map(|index| index as u8).collect();
        let mut group = Vec::new();
        netweight_layout::encode_group(layout, cols, n_rows, &bytes, &mut group).unwrap();
        let cells_at = u32::from_le_bytes(group[24..28].try_into().unwrap()) as usize;
        let cells_len = n_rows.div_ceil(16) * cols.div_ceil(32) * layout.cell_bytes();
        group[cells_at..cells_at + cells_len].fill(0xff);
        let matrix = Matrix::from_groups(layout, n_rows, cols, &[group]).unwrap();
        for isa in Isa::available() {
            for n_tokens in [1, 20] {
                input.set(isa, &pool, &x, cols, [n_tokens, cols], Precision::Int8);
                let jobs = [Job { matrix: &matrix, row_steps: None, bias: None, out_col: 0 }];
                linear(isa, &pool, &scratch, &input, &jobs, &mut vec![0.0; n_tokens * n_rows], n_rows);
            }
        }
    }
}

/// What int8 activations cost: normal activations, and those with an outlier in a hundred.
#[test]
fn the_error_is_small() {
    let mut random = Random(0x0dd0_0dd0_0dd0_0dd1);
    let cols = 4096;
    for (outlier, most) in [(1.0, 0.008), (30.0, 0.02)] {
        let indices = draw(Layout::Index8, Indices::Normal, 200 * cols, &mut random);
        let x: Vec<f32> = (0..cols).map(|col| random.normal() * if col % 100 == 0 { outlier } else { 1.0 }).collect();
        let (mut error, mut power) = (0.0, 0.0);
        for indices in indices.chunks(cols) {
            let exact: f64 = indices.iter().zip(&x).map(|(&index, &x)| f64::from(index) * f64::from(x)).sum();
            error += (f64::from(dot(indices, &x)) - exact).powi(2);
            power += exact.powi(2);
        }
        let relative = (error / power).sqrt();
        assert!(relative < most && relative > most / 4.0, "{relative}");
    }
}
