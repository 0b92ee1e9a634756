//! Element by element. Goes in: rows. Comes out: sums, products, activations and softcaps of their elements. Next:
//! `ops/norm.rs`.

use super::{RowBody, Rows, RowsMut, for_rows, padded};
use crate::isa::Isa;
use crate::lanes::{Lanes, N_LANES, math};
use crate::pool::Pool;

/// What gates a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// GELU in its approximation by tanh.
    GeluTanh,
    /// GELU with erf.
    GeluErf,
}

/// `out[j] = activation(x[j]) * x[width + j]` for `j < width`, in each of `n_rows` rows.
///
/// # Panics
/// If the rows do not have these columns.
pub fn gate(isa: Isa, pool: &Pool, activation: Activation, x: Rows, n_rows: usize, width: usize, out: RowsMut) {
    match activation {
        Activation::Silu => for_rows(isa, pool, out, n_rows, &Gate { x, width, activation: Silu }),
        Activation::GeluTanh => for_rows(isa, pool, out, n_rows, &Gate { x, width, activation: GeluTanh }),
        Activation::GeluErf => for_rows(isa, pool, out, n_rows, &Gate { x, width, activation: GeluErf }),
    }
}

/// `out += x` over columns `..width` of `n_rows` rows.
///
/// # Panics
/// If the rows do not have these columns.
pub fn add(isa: Isa, pool: &Pool, x: Rows, n_rows: usize, width: usize, out: RowsMut) {
    for_rows(isa, pool, out, n_rows, &InPlace { x, width, function: Add });
}

/// `x *= factor` over columns `..width` of `n_rows` rows.
///
/// # Panics
/// If the rows do not have these columns.
pub fn scale(isa: Isa, pool: &Pool, x: RowsMut, n_rows: usize, width: usize, factor: f32) {
    let nothing = Rows { data: &[], stride: 0 };
    for_rows(isa, pool, x, n_rows, &InPlace { x: nothing, width, function: Scale(factor) });
}

/// `x = cap * tanh(x / cap)` over columns `..width` of `n_rows` rows.
///
/// # Panics
/// If the rows do not have these columns.
pub fn softcap(isa: Isa, pool: &Pool, x: RowsMut, n_rows: usize, width: usize, cap: f32) {
    let nothing = Rows { data: &[], stride: 0 };
    for_rows(isa, pool, x, n_rows, &InPlace { x: nothing, width, function: Softcap(cap) });
}

/// `out[rows[i]] += weights[i] * x[i]`, product and sum rounded each, over columns `..width`, row after row.
///
/// # Panics
/// If the rows do not have these columns, or are fewer than `rows` names.
pub fn scatter_add(
    isa: Isa,
    x: Rows,
    rows: &[u32],    // (n)
    weights: &[f32], // (n)
    width: usize,
    out: RowsMut,
) {
    for ((idx, &row), &weight) in rows.iter().enumerate().zip(weights) {
        let x = Rows { data: x.row(idx, width), stride: width };
        let row = &mut out.data[row as usize * out.stride..][..width];
        let body = InPlace { x, width, function: AddScaled(weight) };
        isa.dispatch(super::Each { body: &body, first: 0, data: row, stride: width });
    }
}

/// A function of two numbers, 16 at a time.
trait Pointwise: Sync {
    /// Whether `b` counts.
    const IS_BINARY: bool = true;
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F;
}

struct Gate<'a, A> {
    x: Rows<'a>, // (n_rows, 2 * width)
    width: usize,
    activation: A,
}

impl<A: Pointwise> RowBody for Gate<'_, A> {
    #[inline(always)]
    fn row<L: Lanes>(&self, l: L, row_idx: usize, row: &mut [f32]) {
        let (gate, up) = self.x.row(row_idx, 2 * self.width).split_at(self.width);
        let (gates, gate_rest) = gate.as_chunks::<N_LANES>();
        let (ups, up_rest) = up.as_chunks::<N_LANES>();
        let (outs, out_rest) = row[..self.width].as_chunks_mut::<N_LANES>();
        for ((gate, up), out) in gates.iter().zip(ups).zip(outs) {
            l.store(self.activation.apply(l, l.load(gate), l.load(up)), out);
        }
        if !out_rest.is_empty() {
            let mut lanes = [0.0; N_LANES];
            l.store(self.activation.apply(l, l.load(&padded(gate_rest)), l.load(&padded(up_rest))), &mut lanes);
            out_rest.copy_from_slice(&lanes[..out_rest.len()]);
        }
    }
}

struct InPlace<'a, P> {
    x: Rows<'a>, // (n_rows, width), or nothing for functions of one number
    width: usize,
    function: P,
}

impl<P: Pointwise> RowBody for InPlace<'_, P> {
    #[inline(always)]
    fn row<L: Lanes>(&self, l: L, row_idx: usize, row: &mut [f32]) {
        let x = if P::IS_BINARY { self.x.row(row_idx, self.width) } else { &[] };
        let (xs, x_rest) = x.as_chunks::<N_LANES>();
        let (outs, out_rest) = row[..self.width].as_chunks_mut::<N_LANES>();
        if P::IS_BINARY {
            for (out, x) in outs.iter_mut().zip(xs) {
                l.store(self.function.apply(l, l.load(out), l.load(x)), out);
            }
        } else {
            for out in outs {
                l.store(self.function.apply(l, l.load(out), l.splat(0.0)), out);
            }
        }
        if !out_rest.is_empty() {
            let mut lanes = padded(out_rest);
            l.store(self.function.apply(l, l.load(&lanes), l.load(&padded(x_rest))), &mut lanes);
            out_rest.copy_from_slice(&lanes[..out_rest.len()]);
        }
    }
}

struct Silu;
struct GeluTanh;
struct GeluErf;
struct Add;
struct AddScaled(f32);
struct Scale(f32);
struct Softcap(f32);

impl Pointwise for Silu {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F {
        l.mul(math::silu(l, a), b)
    }
}

impl Pointwise for GeluTanh {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F {
        l.mul(math::gelu_tanh(l, a), b)
    }
}

impl Pointwise for GeluErf {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F {
        l.mul(math::gelu_erf(l, a), b)
    }
}

impl Pointwise for Add {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F {
        l.add(a, b)
    }
}

impl Pointwise for AddScaled {
    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, b: L::F) -> L::F {
        l.add(a, l.mul(l.splat(self.0), b))
    }
}

impl Pointwise for Scale {
    const IS_BINARY: bool = false;

    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, _: L::F) -> L::F {
        l.mul(a, l.splat(self.0))
    }
}

impl Pointwise for Softcap {
    const IS_BINARY: bool = false;

    #[inline(always)]
    fn apply<L: Lanes>(&self, l: L, a: L::F, _: L::F) -> L::F {
        l.mul(l.splat(self.0), math::tanh(l, l.div(a, l.splat(self.0))))
    }
}
