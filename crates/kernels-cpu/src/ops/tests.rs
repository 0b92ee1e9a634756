//! Every operation against its definition in f64, and all rows of the table against the scalar one bit for bit, for
//! widths around 16, strides beyond the width, one row and many, one thread and several.

use super::*;

/// Numbers between -4 and 4 from a counter.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * 8.0
    };
    (0..n).map(|_| next()).collect()
}

const WIDTHS: [usize; 8] = [2, 14, 16, 18, 64, 80, 130, 1000];

/// Runs `operation(isa, pool, width, n_rows, x, out)` everywhere; `expected(width, row of x, row of out, column)` is
/// what comes out of row `row` in f64. Rows of `x` are twice as wide and 3 longer, rows of `out` 5 longer.
fn check(
    tolerance: f64,
    operation: impl Fn(Isa, &Pool, usize, usize, Rows, RowsMut),
    expected: impl Fn(usize, usize, &[f32], &[f32], usize) -> f64,
) {
    let pools = [Pool::new(1), Pool::new(3)];
    for width in WIDTHS {
        for n_rows in [1, 3, 50] {
            let (x_stride, stride) = (2 * width + 3, width + 5);
            let (x, before) = (noise(n_rows * x_stride, 1), noise(n_rows * stride, 2));
            let run = |isa, pool| {
                let mut out = before.clone();
                let rows = RowsMut { data: &mut out, stride };
                operation(isa, pool, width, n_rows, Rows { data: &x, stride: x_stride }, rows);
                out
            };
            let scalar = run(Isa::scalar(), &pools[0]);
            for (row, (out, before)) in scalar.chunks(stride).zip(before.chunks(stride)).enumerate() {
                assert_eq!(out[width..], before[width..], "columns beyond the width");
                for (col, &got) in out[..width].iter().enumerate() {
                    let wanted = expected(width, row, &x[row * x_stride..][..x_stride], before, col);
                    let error = (f64::from(got) - wanted).abs() / wanted.abs().max(1.0);
                    assert!(error <= tolerance, "{width} {row} {col}: {got} {wanted}");
                }
            }
            for isa in Isa::available() {
                for pool in &pools {
                    let same = run(isa, pool).iter().zip(&scalar).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{isa:?} {width} {n_rows}");
                }
            }
        }
    }
}

fn f64s(x: &[f32]) -> impl Iterator<Item = f64> {
    x.iter().map(|&x| f64::from(x))
}

#[test]
fn rms_norm_is_its_formula() {
    let weights = noise(1000, 3);
    check(
        2e-6,
        |isa, pool, width, n_rows, x, out| rms_norm(isa, pool, x, n_rows, &weights[..width], 1e-5, out),
        |width, _, x, _, col| {
            let mean = f64s(&x[..width]).map(|x| x * x).sum::<f64>() / width as f64;
            f64::from(x[col]) / (mean + 1e-5).sqrt() * f64::from(weights[col])
        },
    );
}

/// The last two quarters of a row as two heads.
fn two_heads(width: usize) -> Heads {
    let head_dim = width / 4;
    Heads { col: width - 2 * head_dim, n_heads: 2, head_dim }
}

#[test]
fn head_norm_is_its_formula() {
    let weights = noise(1000, 3);
    check(
        2e-6,
        |isa, pool, width, n_rows, _, out| {
            let heads = two_heads(width);
            if heads.head_dim > 0 {
                head_norm(isa, pool, out, n_rows, heads, &weights[..heads.head_dim], 1e-5);
            }
        },
        |width, _, _, before, col| {
            let heads = two_heads(width);
            let Some(place) = col.checked_sub(heads.col).filter(|_| heads.head_dim > 0) else {
                return f64::from(before[col]);
            };
            let head = &before[heads.col + place / heads.head_dim * heads.head_dim..][..heads.head_dim];
            let mean = f64s(head).map(|x| x * x).sum::<f64>() / heads.head_dim as f64;
            f64::from(before[col]) / (mean + 1e-5).sqrt() * f64::from(weights[place % heads.head_dim])
        },
    );
}

#[test]
fn rope_is_its_formula() {
    let table = noise(60 * 500, 3);
    let table_rows: Vec<u32> = (0..50).map(|row| 59 - row).collect();
    // Three quarters of a head are rotated, rounded down to pairs.
    let rotary_dim = |head_dim: usize| head_dim * 3 / 4 / 2 * 2;
    check(
        2e-6,
        |isa, pool, width, n_rows, _, out| {
            let heads = two_heads(width);
            if heads.head_dim > 0 {
                rope(isa, pool, out, heads, rotary_dim(heads.head_dim), &table, &table_rows[..n_rows]);
            }
        },
        |width, row, _, before, col| {
            let heads = two_heads(width);
            let unchanged = f64::from(before[col]);
            let Some(place) = col.checked_sub(heads.col).filter(|_| heads.head_dim > 0) else { return unchanged };
            let (head, dim) = (place / heads.head_dim, place % heads.head_dim);
            let n_pairs = rotary_dim(heads.head_dim) / 2;
            if dim >= 2 * n_pairs {
                return unchanged;
            }
            let x = |dim: usize| f64::from(before[heads.col + head * heads.head_dim + dim]);
            let angle = |idx: usize| f64::from(table[table_rows[row] as usize * 2 * n_pairs + idx]);
            let (pair, sign, other) =
                if dim < n_pairs { (dim, -1.0, dim + n_pairs) } else { (dim - n_pairs, 1.0, dim - n_pairs) };
            x(dim) * angle(pair) + sign * x(other) * angle(n_pairs + pair)
        },
    );
}

#[test]
fn pointwise_operations_are_their_formulas() {
    let copy = |_: Isa, _: &Pool, _: usize, _: usize, _: Rows, _: RowsMut| ();
    check(0.0, copy, |_, _, _, before, col| f64::from(before[col]));
    check(
        2e-6,
        |isa, pool, width, n_rows, x, out| add(isa, pool, x, n_rows, width, out),
        |_, _, x, before, col| f64::from(x[col]) + f64::from(before[col]),
    );
    check(
        2e-6,
        |isa, pool, width, n_rows, _, out| scale(isa, pool, out, n_rows, width, 0.3),
        |_, _, _, before, col| f64::from(before[col]) * 0.3,
    );
    check(
        2e-6,
        |isa, pool, width, n_rows, _, out| softcap(isa, pool, out, n_rows, width, 1.5),
        |_, _, _, before, col| 1.5 * (f64::from(before[col]) / 1.5).tanh(),
    );
    check(
        2e-6,
        |isa, _, width, n_rows, x, out| {
            let rows: Vec<u32> = (0..n_rows as u32).rev().collect();
            scatter_add(isa, Rows { data: x.data, stride: 0 }, &rows, &vec![0.7; n_rows], width, out);
        },
        |width, _, _, before, col| f64::from(before[col]) + 0.7 * f64::from(noise(width, 1)[col]),
    );
}

#[test]
fn gates_are_their_formulas() {
    let check = |activation, formula: fn(f64) -> f64| {
        check(
            3e-6,
            |isa, pool, width, n_rows, x, out| gate(isa, pool, activation, x, n_rows, width, out),
            |width, _, x, _, col| formula(f64::from(x[col])) * f64::from(x[width + col]),
        );
    };
    check(Activation::Silu, |x| x / (1.0 + (-x).exp()));
    check(Activation::GeluTanh, |x| {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
    });
}
