//! The readable definition of [`Backend`]: row-major f32, one loop after the other, no thread and no vector code.
//!
//! Other backends may sum in another order and approximate `exp`; what they compute is written here.

use crate::backend::{Attend, Backend, Heads, Place, Room};
use crate::error::{Error, Result};
use crate::spec::{Activation, Attention, Spec};
use crate::weights::Part;

/// Plain loops.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reference;

/// A row-major matrix with an optional bias.
#[derive(Clone, Debug)]
pub struct Matrix {
    weights: Vec<f32>, // (rows, cols)
    cols: usize,
    bias: Option<Vec<f32>>, // (rows)
}

impl Matrix {
    /// # Errors
    /// `InvalidArgument` where lengths contradict each other.
    pub fn new(weights: Vec<f32>, rows: usize, cols: usize, bias: Option<Vec<f32>>) -> Result<Matrix> {
        let fits = cols > 0 && rows.checked_mul(cols) == Some(weights.len());
        if !fits || bias.as_ref().is_some_and(|bias| bias.len() != rows) {
            let what = format!("{} weights for a matrix of {rows} x {cols}", weights.len());
            return Err(Error::InvalidArgument(what));
        }
        Ok(Matrix { weights, cols, bias })
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.weights[row * self.cols..(row + 1) * self.cols]
    }

    fn rows(&self) -> usize {
        self.weights.len() / self.cols
    }
}

/// A row-major buffer.
#[derive(Clone, Debug)]
pub struct Buffer {
    width: usize,
    data: Vec<f32>, // (rows, width)
}

impl Buffer {
    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.width..(row + 1) * self.width]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.width..(row + 1) * self.width]
    }
}

/// Keys and values of every layer, slot and position, side by side.
#[derive(Clone, Debug)]
pub struct Cache {
    room: Room,
    layers: Vec<Buffer>, // (n_layers), each (n_slots * n_positions, k | v)
}

impl Cache {
    /// A cache for `n_slots` sequences of up to `n_positions` tokens.
    pub fn new(spec: &Spec, n_slots: usize, n_positions: usize) -> Cache {
        let layer = |layer: &crate::Layer| {
            let width = 2 * layer.attention.kv_width();
            Buffer { width, data: vec![0.0; n_slots * n_positions * width] }
        };
        Cache { room: Room { n_slots, n_positions }, layers: spec.layers.iter().map(layer).collect() }
    }
}

impl Backend for Reference {
    type Linear = Matrix;
    type Vector = Vec<f32>;
    type Buffer = Buffer;
    type Cache = Cache;

    fn buffer(&self, n_rows: usize, width: usize) -> Result<Buffer> {
        Ok(Buffer { width, data: vec![0.0; n_rows * width] })
    }

    fn vector(&self, values: &[f32]) -> Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn room(&self, cache: &Cache) -> Room {
        cache.room
    }

    fn embed(&mut self, table: &Matrix, tokens: &[u32], out: &mut Buffer) {
        for (row, token) in tokens.iter().enumerate() {
            out.row_mut(row).copy_from_slice(table.row(*token as usize));
        }
    }

    fn scale(&mut self, x: &mut Buffer, n_rows: usize, width: usize, factor: f32) {
        each(x, n_rows, width, |x| x * factor);
    }

    fn linear(&mut self, x: &Buffer, n_rows: usize, parts: &[Part<Matrix>], out: &mut Buffer) {
        for row in 0..n_rows {
            for Part { linear, out_col } in parts {
                for idx in 0..linear.rows() {
                    let bias = linear.bias.as_ref().map_or(0.0, |bias| bias[idx]);
                    out.row_mut(row)[out_col + idx] = dot(linear.row(idx), x.row(row)) + bias;
                }
            }
        }
    }

    fn rms_norm(&mut self, x: &Buffer, n_rows: usize, weight: &Vec<f32>, eps: f32, out: &mut Buffer) {
        for row in 0..n_rows {
            out.row_mut(row).copy_from_slice(x.row(row));
            norm(out.row_mut(row), weight, eps);
        }
    }

    fn head_norm(&mut self, x: &mut Buffer, n_rows: usize, heads: Heads, weight: &Vec<f32>, eps: f32) {
        for row in 0..n_rows {
            heads_of(x.row_mut(row), heads).for_each(|head| norm(head, weight, eps));
        }
    }

    fn rope(&mut self, x: &mut Buffer, heads: Heads, rotary_dim: usize, table: &Vec<f32>, table_rows: &[u32]) {
        let half = rotary_dim / 2;
        for (row, table_row) in table_rows.iter().enumerate() {
            let (cos, sin) = table[*table_row as usize * rotary_dim..][..rotary_dim].split_at(half);
            for head in heads_of(x.row_mut(row), heads) {
                for j in 0..half {
                    let (a, b) = (head[j], head[j + half]);
                    head[j] = a * cos[j] - b * sin[j];
                    head[j + half] = b * cos[j] + a * sin[j];
                }
            }
        }
    }

    fn attend(&mut self, qkv: &Buffer, attend: &Attend, cache: &mut Cache, out: &mut Buffer) {
        let (attention, n_positions) = (attend.attention, cache.room.n_positions);
        let layer = &mut cache.layers[attend.layer_idx];
        let cache_row = |place: &Place| place.slot * n_positions + place.position;
        for (row, place) in attend.places.iter().enumerate() {
            let keys_and_values = &qkv.row(row)[attention.q_width()..attention.qkv_width()];
            layer.row_mut(cache_row(place)).copy_from_slice(keys_and_values);
        }
        for (row, place) in attend.places.iter().enumerate() {
            let first = attention.window.map_or(0, |window| (place.position + 1).saturating_sub(window));
            let start = place.slot * n_positions;
            let seen: Vec<&[f32]> = (start + first..=start + place.position).map(|row| layer.row(row)).collect();
            for (head_idx, head) in out.row_mut(row)[..attention.q_width()].chunks_mut(attention.head_dim).enumerate() {
                let query = &qkv.row(row)[head_idx * attention.head_dim..][..attention.head_dim];
                mix(attention, head_idx, query, &seen, head);
            }
        }
    }

    fn gate(&mut self, activation: Activation, x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) {
        for row in 0..n_rows {
            let (gate, up) = x.row(row)[..2 * width].split_at(width);
            for ((out, gate), up) in out.row_mut(row).iter_mut().zip(gate).zip(up) {
                *out = activate(activation, *gate) * up;
            }
        }
    }

    fn add(&mut self, x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) {
        for row in 0..n_rows {
            for (out, x) in out.row_mut(row)[..width].iter_mut().zip(x.row(row)) {
                *out += x;
            }
        }
    }

    fn softcap(&mut self, x: &mut Buffer, n_rows: usize, width: usize, cap: f32) {
        each(x, n_rows, width, |x| cap * (x / cap).tanh());
    }

    fn zero(&mut self, x: &mut Buffer, n_rows: usize, width: usize) {
        each(x, n_rows, width, |_| 0.0);
    }

    fn gather(&mut self, x: &Buffer, rows: &[u32], width: usize, out: &mut Buffer) {
        for (idx, row) in rows.iter().enumerate() {
            out.row_mut(idx)[..width].copy_from_slice(&x.row(*row as usize)[..width]);
        }
    }

    fn scatter_add(&mut self, x: &Buffer, rows: &[u32], weights: &[f32], width: usize, out: &mut Buffer) {
        for (idx, (row, weight)) in rows.iter().zip(weights).enumerate() {
            for (out, x) in out.row_mut(*row as usize)[..width].iter_mut().zip(x.row(idx)) {
                *out += weight * x;
            }
        }
    }

    fn read(&mut self, x: &Buffer, n_rows: usize, width: usize, out: &mut [f32]) -> Result<()> {
        for (row, out) in out.chunks_exact_mut(width).take(n_rows).enumerate() {
            out.copy_from_slice(&x.row(row)[..width]);
        }
        Ok(())
    }
}

/// One query head over the positions that it sees.
fn mix(
    attention: &Attention,
    head_idx: usize,
    query: &[f32],   // (head_dim)
    seen: &[&[f32]], // (n_seen), each (k | v)
    out: &mut [f32], // (head_dim)
) {
    let head_dim = attention.head_dim;
    let key_col = head_idx / (attention.n_heads / attention.n_kv_heads) * head_dim;
    let value_col = attention.kv_width() + key_col;
    let score = |row: &&[f32]| {
        let score = attention.scale * dot(query, &row[key_col..][..head_dim]);
        attention.softcap.map_or(score, |cap| cap * (score / cap).tanh())
    };
    let scores: Vec<f32> = seen.iter().map(score).collect();
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = scores.iter().map(|score| (score - max).exp()).collect();
    let total: f32 = weights.iter().sum();
    out.fill(0.0);
    for (weight, row) in weights.iter().zip(seen) {
        for (out, value) in out.iter_mut().zip(&row[value_col..][..head_dim]) {
            *out += weight / total * value;
        }
    }
}

/// Ascending index, eight sums: a plain loop waits for each addition.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0; 8];
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum()
}

fn norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = dot(x, x) / x.len() as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (x, weight) in x.iter_mut().zip(weight) {
        *x = *x * scale * weight;
    }
}

fn activate(activation: Activation, x: f32) -> f32 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        Activation::GeluErf => 0.5 * x * (1.0 + libm::erff(x * std::f32::consts::FRAC_1_SQRT_2)),
    }
}

fn heads_of(row: &mut [f32], heads: Heads) -> impl Iterator<Item = &mut [f32]> {
    row[heads.col..][..heads.n_heads * heads.head_dim].chunks_exact_mut(heads.head_dim)
}

fn each(x: &mut Buffer, n_rows: usize, width: usize, f: impl Fn(f32) -> f32) {
    for row in 0..n_rows {
        x.row_mut(row)[..width].iter_mut().for_each(|x| *x = f(*x));
    }
}
