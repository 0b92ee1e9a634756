//! Every instruction set, layout and number of tokens against the definition written once more, row by row.

use super::*;
use crate::Precision;
use netweight_layout::Layout;

/// xorshift64*, to need no crate.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    /// About normal, with standard deviation 1.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.below(1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0
    }
}

/// What weights or activations are drawn from.
#[derive(Clone, Copy, Debug)]
enum Values {
    Plain,
    /// Many zeros of both signs, and magnitudes down to 2^-62.
    Sparse,
    /// Magnitudes over the whole range of f32 but not so large that products overflow; subnormals.
    Wide,
    /// Any bits, Inf and NaN too.
    Any,
}

impl Values {
    fn draw(self, random: &mut Random) -> f32 {
        match self {
            Values::Plain => random.normal() * 0.02,
            Values::Sparse => match random.below(4) {
                0 => 0.0,
                1 => -0.0,
                2 => random.normal() * 2f32.powi(-(random.below(56) as i32)),
                _ => random.normal(),
            },
            Values::Wide => match random.below(8) {
                0 => f32::from_bits(random.next() as u32 & 0x80ff_ffff),
                1 => f32::from_bits(random.next() as u32 & 0x807f_ffff),
                _ => f32::from_bits(random.next() as u32 & 0x9fff_ffff | 0x0f80_0000 & random.next() as u32),
            },
            Values::Any => f32::from_bits(random.next() as u32),
        }
    }
}

/// (bytes as the layout's source has them, the same weights as f32)
fn draw_weights(layout: Layout, values: Values, n_weights: usize, random: &mut Random) -> (Vec<u8>, Vec<f32>) {
    let mut bytes = Vec::new();
    let mut weights = Vec::new();
    for _ in 0..n_weights {
        let weight = values.draw(random);
        match layout {
            Layout::F32 => {
                bytes.extend(weight.to_le_bytes());
                weights.push(weight);
            }
            Layout::F16 => {
                let weight = half::f16::from_f32(weight);
                bytes.extend(weight.to_le_bytes());
                weights.push(weight.to_f32());
            }
            _ if layout.is_index() => {
                let index = match values {
                    Values::Plain | Values::Sparse => (random.normal() * 4.0).round() as i8,
                    Values::Wide | Values::Any => random.next() as i8,
                };
                let index = if layout == Layout::Int4 { index << 4 >> 4 } else { index };
                bytes.push(index as u8);
                weights.push(f32::from(index));
            }
            _ => {
                let weight = half::bf16::from_f32(weight);
                bytes.extend(weight.to_le_bytes());
                weights.push(weight.to_f32());
            }
        }
    }
    (bytes, weights)
}

/// The definition, on rows as they are.
fn dot(weights: &[f32], x: &[f32]) -> f32 {
    let mut sum = 0.0f32;
    for (weights, x) in weights.chunks(32).zip(x.chunks(32)) {
        let mut chains = [0.0f32; 2];
        let padded = |values: &[f32], col: usize| values.get(col).copied().unwrap_or(0.0);
        for col in 0..32 {
            chains[col % 2] = padded(weights, col).mul_add(padded(x, col), chains[col % 2]);
        }
        sum += chains[0] + chains[1];
    }
    sum
}

pub(super) fn assert_same_bits(found: &[f32], expected: &[f32], what: impl Fn() -> String) {
    assert_eq!(found.len(), expected.len());
    for (idx, (found, expected)) in found.iter().zip(expected).enumerate() {
        let is_same = found.to_bits() == expected.to_bits() || found.is_nan() && expected.is_nan();
        assert!(is_same, "{}: output {idx} is {found:e}, not {expected:e}", what());
    }
}

struct Case {
    layout: Layout,
    weights: Values,
    activations: Values,
    precision: Precision,
    /// (rows, cols)
    shape: (usize, usize),
}

/// All instruction sets and all of `n_tokens` give the definition's bits, in one call of two matrices.
fn check(case: &Case, all_n_tokens: &[usize], random: &mut Random) {
    let (rows, cols) = case.shape;
    let (bytes, weights) = draw_weights(case.layout, case.weights, rows * cols, random);
    let matrix = Matrix::encode(case.layout, rows, cols, &bytes).unwrap();
    let (bytes, other_weights) = draw_weights(case.layout, Values::Plain, 5 * cols, random);
    let other = Matrix::encode(case.layout, 5, cols, &bytes).unwrap();
    let bias: Vec<f32> = (0..5).map(|_| random.normal()).collect();
    let max_tokens = *all_n_tokens.iter().max().unwrap();
    let (x_stride, y_stride) = (cols + 3, rows + 7);
    let x: Vec<f32> = (0..max_tokens * x_stride).map(|_| case.activations.draw(random)).collect();
    let untouched = 77.0f32;
    let mut expected = vec![untouched; max_tokens * y_stride];
    for (x, y) in x.chunks(x_stride).zip(expected.chunks_mut(y_stride)) {
        let x: Vec<f32> = x[..cols].iter().map(|&x| case.precision.round(x)).collect();
        weights.chunks(cols).zip(&mut y[6..]).for_each(|(weights, y)| *y = dot(weights, &x));
        let with_bias = other_weights.chunks(cols).zip(&bias).map(|(weights, bias)| dot(weights, &x) + bias);
        y[..5].iter_mut().zip(with_bias).for_each(|(y, sum)| *y = sum);
    }
    for n_threads in [1, 3] {
        let pool = Pool::new(n_threads);
        let scratch = Scratch::new(&pool, max_tokens, cols);
        let mut input = crate::Input::new(max_tokens, cols);
        for isa in Isa::available() {
            for &n_tokens in all_n_tokens {
                input.set(isa, &pool, &x, x_stride, [n_tokens, cols], case.precision);
                let jobs = [
                    Job { matrix: &matrix, row_steps: None, bias: None, out_col: 6 },
                    Job { matrix: &other, row_steps: None, bias: Some(&bias), out_col: 0 },
                ];
                let mut y = vec![untouched; n_tokens * y_stride];
                linear(isa, &pool, &scratch, &input, &jobs, &mut y, y_stride);
                assert_same_bits(&y, &expected[..y.len()], || {
                    let Case { layout, weights, activations, precision, shape } = case;
                    format!("{isa:?} {layout:?} {weights:?} {activations:?} {precision:?} {shape:?} {n_tokens} tokens")
                });
            }
        }
    }
}

/// Grids: activations are scaled before they are rounded, sums before the bias is added.
#[test]
fn steps_of_rows_and_columns() {
    let mut random = Random(0x7777_1234_5678_9abd);
    let (rows, cols, max_tokens) = (50, 70, 19);
    for layout in Layout::all().filter(|layout| layout.is_index()) {
        let (bytes, indices) = draw_weights(layout, Values::Plain, rows * cols, &mut random);
        let matrix = Matrix::encode(layout, rows, cols, &bytes).unwrap();
        let mut step = |_| half::bf16::from_f32(0.5 + random.below(1000) as f32 / 1000.0).to_f32();
        let (row_steps, col_steps): (Vec<f32>, Vec<f32>) =
            ((0..rows).map(&mut step).collect(), (0..cols).map(step).collect());
        let bias: Vec<f32> = (0..rows).map(|_| random.normal()).collect();
        let x: Vec<f32> = (0..max_tokens * cols).map(|_| random.normal()).collect();
        for precision in [Precision::Bf16, Precision::F32] {
            let scaled =
                |x: &[f32]| x.iter().zip(&col_steps).map(|(x, step)| precision.round(x * step)).collect::<Vec<f32>>();
            let product = |x: &[f32], row: usize| dot(&indices[row * cols..][..cols], x) * row_steps[row] + bias[row];
            let expected: Vec<f32> = x
                .chunks(cols)
                .flat_map(|x| {
                    let x = scaled(x);
                    (0..rows).map(move |row| (row, x.clone())).map(|(row, x)| product(&x, row)).collect::<Vec<f32>>()
                })
                .collect();
            let pool = Pool::new(2);
            let scratch = Scratch::new(&pool, max_tokens, cols);
            let mut input = crate::Input::new(max_tokens, cols);
            for isa in Isa::available() {
                for n_tokens in [1, 2, 9, 19] {
                    input.set_scaled(isa, &pool, (&x, cols), [n_tokens, cols], &col_steps, precision);
                    let jobs = [Job { matrix: &matrix, row_steps: Some(&row_steps), bias: Some(&bias), out_col: 0 }];
                    let mut y = vec![0.0; n_tokens * rows];
                    linear(isa, &pool, &scratch, &input, &jobs, &mut y, rows);
                    assert_same_bits(&y, &expected[..y.len()], || {
                        format!("{isa:?} {layout:?} {precision:?} {n_tokens}")
                    });
                }
            }
        }
        let (pool, row_ids) = (Pool::new(2), [3u32, 49, 0, 17]);
        let scratch = Scratch::new(&pool, 1, cols);
        for (steps, is_scaled) in [(Some(&col_steps[..]), true), (None, false)] {
            let value = |row: usize, col: usize| {
                let step = if is_scaled { col_steps[col] } else { 1.0 };
                half::bf16::from_f32(row_steps[row] * (step * indices[row * cols + col])).to_f32()
            };
            let expected: Vec<f32> = row_ids
                .iter()
                .flat_map(|&row| (0..cols).map(move |col| (row as usize, col)))
                .map(|(row, col)| value(row, col))
                .collect();
            for isa in Isa::available() {
                let mut out = vec![0.0; row_ids.len() * cols];
                grid_rows(isa, &pool, &scratch, &matrix, (&row_steps, steps), &row_ids, &mut out);
                assert_same_bits(&out, &expected, || format!("{isa:?} {layout:?} rows"));
            }
        }
    }
}

/// Fewer where the tests run in an emulator.
const TOKENS: &[usize] =
    if cfg!(target_arch = "aarch64") { &[1, 2, 11] } else { &[1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 33, 40] };

/// Every kernel, layout, number of tokens and kind of value.
#[test]
fn all_instruction_sets_give_the_same_bits() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for layout in Layout::all() {
        for weights in [Values::Plain, Values::Sparse, Values::Wide, Values::Any] {
            for activations in [Values::Plain, Values::Sparse, Values::Wide, Values::Any] {
                for precision in [Precision::Bf16, Precision::F32] {
                    let case = Case { layout, weights, activations, precision, shape: (21, 70) };
                    check(&case, TOKENS, &mut random);
                }
            }
        }
    }
}

#[test]
fn shapes() {
    let mut random = Random(0x1234_5678_9abc_def1);
    for layout in Layout::all() {
        for shape in
            [(1, 1), (16, 32), (17, 31), (15, 33), (64, 64), (33, 255), (48, 256), (49, 257), (2000, 40), (5, 2777)]
        {
            for precision in [Precision::Bf16, Precision::F32] {
                let case = Case { layout, weights: Values::Plain, activations: Values::Plain, precision, shape };
                check(&case, &[1, 6, 18], &mut random);
            }
        }
    }
}

/// Enough rows for kernels that take four or eight tiles at once, and some more.
#[test]
fn many_tiles_of_every_kind_of_value() {
    let mut random = Random(0x2b99_2ddf_a232_49d6);
    for layout in Layout::all() {
        for values in [Values::Sparse, Values::Wide, Values::Any] {
            for precision in [Precision::Bf16, Precision::F32] {
                let case = Case { layout, weights: values, activations: values, precision, shape: (557, 75) };
                check(&case, &[1, 2, 16, 17], &mut random);
            }
        }
    }
}

#[test]
fn all_numbers_of_tokens() {
    let mut random = Random(0x0dd0_0dd0_0dd0_0dd1);
    let n_tokens: Vec<usize> = (1..=*TOKENS.last().unwrap()).chain([64, 65]).collect();
    for layout in Layout::all() {
        let (weights, activations) = (Values::Plain, Values::Plain);
        let case = Case { layout, weights, activations, precision: Precision::Bf16, shape: (34, 330) };
        check(&case, &n_tokens, &mut random);
    }
}

#[test]
fn rows_are_the_weights() {
    let mut random = Random(0xabcd_ef01_2345_6789);
    let (n_rows, cols) = (70, 301);
    let pool = Pool::new(2);
    let scratch = Scratch::new(&pool, 1, cols);
    for layout in Layout::all() {
        let (bytes, weights) = draw_weights(layout, Values::Wide, n_rows * cols, &mut random);
        let matrix = Matrix::encode(layout, n_rows, cols, &bytes).unwrap();
        let row_ids = [0, 69, 13, 16, 15, 16, 42];
        let expected: Vec<f32> =
            row_ids.iter().flat_map(|&row| weights[row as usize * cols..][..cols].to_vec()).collect();
        for isa in Isa::available() {
            let mut out = vec![0.0; expected.len()];
            rows(isa, &pool, &scratch, &matrix, &row_ids, &mut out);
            assert_same_bits(&out, &expected, || format!("{isa:?} {layout:?}"));
        }
    }
}

/// Groups are checked when they are opened, the codes in them are not: a cell may ask for more escapes than there are.
#[test]
fn damaged_cells_stay_inside() {
    let mut random = Random(0x5151_5151_7171_7171);
    let (n_rows, cols) = (300, 200);
    let pool = Pool::new(1);
    let scratch = Scratch::new(&pool, 20, cols);
    let mut input = crate::Input::new(20, cols);
    let x = vec![1.0; 20 * cols];
    for layout in Layout::all().filter(|layout| layout.has_palette()) {
        for fill in [None, Some(0xff), Some(0x00)] {
            let (bytes, _) = draw_weights(layout, Values::Plain, n_rows * cols, &mut random);
            let mut group = Vec::new();
            netweight_layout::encode_group(layout, cols, n_rows, &bytes, &mut group).unwrap();
            let cells_at = u32::from_le_bytes(group[24..28].try_into().unwrap()) as usize;
            let cells_len = n_rows.div_ceil(16) * cols.div_ceil(32) * layout.cell_bytes();
            for byte in &mut group[cells_at..cells_at + cells_len] {
                *byte = fill.unwrap_or(random.next() as u8);
            }
            let matrix = Matrix::from_groups(layout, n_rows, cols, &[group]).unwrap();
            for isa in Isa::available() {
                for n_tokens in [1, 20] {
                    input.set(isa, &pool, &x, cols, [n_tokens, cols], Precision::Bf16);
                    let jobs = [Job { matrix: &matrix, row_steps: None, bias: None, out_col: 0 }];
                    linear(isa, &pool, &scratch, &input, &jobs, &mut vec![0.0; n_tokens * n_rows], n_rows);
                    rows(isa, &pool, &scratch, &matrix, &[299], &mut vec![0.0; cols]);
                }
            }
        }
    }
}
