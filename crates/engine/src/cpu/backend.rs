//! The CPU as a [`Backend`]: goes in what a forward pass asks for, comes out calls of `netweight-kernels-cpu`.
//! Next in the flow: decoder.rs.

use netweight_kernels_cpu::{Input, Isa, Job, Pool, Precision, Scratch, linear, rows};
use netweight_layout::Matrix;
use netweight_model::{Activation, Attend, Attention, Backend, Heads, Part, Place, Room, Spec};

use crate::Interrupt;

/// A weight matrix with its bias.
pub struct CpuLinear {
    /// (rows, cols)
    pub matrix: Matrix,
    /// (rows)
    pub bias: Option<Vec<f32>>,
}

/// Activations.
pub struct CpuBuffer {
    width: usize,
    data: Vec<f32>, // (rows, width)
}

/// Keys and values.
pub struct CpuCache {
    room: Room,
    layers: Vec<CpuBuffer>,
}

impl CpuCache {
    /// A cache for `n_slots` sequences of up to `n_positions` tokens.
    pub fn new(spec: &Spec, n_slots: usize, n_positions: usize) -> CpuCache {
        let layer = |layer: &netweight_model::Layer| {
            let width = 2 * layer.attention.kv_width();
            CpuBuffer { width, data: vec![0.0; n_slots * n_positions * width] }
        };
        CpuCache { room: Room { n_slots, n_positions }, layers: spec.layers.iter().map(layer).collect() }
    }
}

/// Sizes that a [`Cpu`] is made for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens of a batch.
    pub max_tokens: usize,
    /// Columns of the widest matrix.
    pub max_cols: usize,
}

/// The CPU: an instruction set, threads, and all scratch memory.
pub struct Cpu {
    isa: Isa,
    pool: Pool,
    scratch: Scratch,
    input: Input,
    precision: Precision,
    pub(crate) interrupt: Interrupt,
}

impl Cpu {
    /// Allocates all that the operations need.
    pub fn new(isa: Isa, n_threads: usize, precision: Precision, sizes: Sizes) -> Cpu {
        let pool = Pool::new(n_threads);
        let scratch = Scratch::new(&pool, sizes.max_tokens, sizes.max_cols);
        let input = Input::new(sizes.max_tokens, sizes.max_cols);
        Cpu { isa, pool, scratch, input, precision, interrupt: Interrupt::new() }
    }

    /// Threads.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    /// The instruction set.
    pub fn isa(&self) -> Isa {
        self.isa
    }
}

impl CpuBuffer {
    fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.width..(row + 1) * self.width]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.width..(row + 1) * self.width]
    }
}

impl Backend for Cpu {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Buffer = CpuBuffer;
    type Cache = CpuCache;

    fn buffer(&self, n_rows: usize, width: usize) -> netweight_model::Result<CpuBuffer> {
        Ok(CpuBuffer { width, data: vec![0.0; n_rows * width] })
    }

    fn vector(&self, values: &[f32]) -> netweight_model::Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn room(&self, cache: &CpuCache) -> Room {
        cache.room
    }

    fn embed(&mut self, table: &CpuLinear, tokens: &[u32], out: &mut CpuBuffer) {
        let out = &mut out.data[..tokens.len() * table.matrix.cols()];
        rows(self.isa, &self.pool, &self.scratch, &table.matrix, tokens, out);
    }

    fn scale(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize, factor: f32) {
        each(x, n_rows, width, |x| x * factor);
    }

    fn linear(&mut self, x: &CpuBuffer, n_rows: usize, parts: &[Part<CpuLinear>], out: &mut CpuBuffer) {
        let Some(first) = parts.first() else { return };
        if self.interrupt.is_set() {
            return; // `read` says so; what is in the buffers no longer matters.
        }
        let cols = first.linear.matrix.cols();
        self.input.set(self.isa, &self.pool, &x.data, x.width, [n_rows, cols], self.precision);
        for parts in parts.chunks(MAX_JOBS) {
            let mut jobs = [Job { matrix: &first.linear.matrix, bias: None, out_col: 0 }; MAX_JOBS];
            for (job, part) in jobs.iter_mut().zip(parts) {
                *job = Job { matrix: &part.linear.matrix, bias: part.linear.bias.as_deref(), out_col: part.out_col };
            }
            let jobs = &jobs[..parts.len()];
            linear(self.isa, &self.pool, &self.scratch, &self.input, jobs, &mut out.data, out.width);
        }
    }

    fn rms_norm(&mut self, x: &CpuBuffer, n_rows: usize, weight: &Vec<f32>, eps: f32, out: &mut CpuBuffer) {
        for row in 0..n_rows {
            let width = weight.len();
            out.row_mut(row)[..width].copy_from_slice(&x.row(row)[..width]);
            norm(&mut out.row_mut(row)[..width], weight, eps);
        }
    }

    fn head_norm(&mut self, x: &mut CpuBuffer, n_rows: usize, heads: Heads, weight: &Vec<f32>, eps: f32) {
        for row in 0..n_rows {
            heads_of(x.row_mut(row), heads).for_each(|head| norm(head, weight, eps));
        }
    }

    fn rope(&mut self, x: &mut CpuBuffer, heads: Heads, rotary_dim: usize, table: &Vec<f32>, table_rows: &[u32]) {
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

    fn attend(&mut self, qkv: &CpuBuffer, attend: &Attend, cache: &mut CpuCache, out: &mut CpuBuffer) {
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

    fn gate(&mut self, activation: Activation, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut CpuBuffer) {
        for row in 0..n_rows {
            let (gate, up) = x.row(row)[..2 * width].split_at(width);
            for ((out, gate), up) in out.row_mut(row).iter_mut().zip(gate).zip(up) {
                *out = activate(activation, *gate) * up;
            }
        }
    }

    fn add(&mut self, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut CpuBuffer) {
        for row in 0..n_rows {
            for (out, x) in out.row_mut(row)[..width].iter_mut().zip(x.row(row)) {
                *out += x;
            }
        }
    }

    fn softcap(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize, cap: f32) {
        each(x, n_rows, width, |x| cap * (x / cap).tanh());
    }

    fn zero(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize) {
        each(x, n_rows, width, |_| 0.0);
    }

    fn gather(&mut self, x: &CpuBuffer, rows: &[u32], width: usize, out: &mut CpuBuffer) {
        for (idx, row) in rows.iter().enumerate() {
            out.row_mut(idx)[..width].copy_from_slice(&x.row(*row as usize)[..width]);
        }
    }

    fn scatter_add(&mut self, x: &CpuBuffer, rows: &[u32], weights: &[f32], width: usize, out: &mut CpuBuffer) {
        for (idx, (row, weight)) in rows.iter().zip(weights).enumerate() {
            for (out, x) in out.row_mut(*row as usize)[..width].iter_mut().zip(x.row(idx)) {
                *out += weight * x;
            }
        }
    }

    fn read(&mut self, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut [f32]) -> netweight_model::Result<()> {
        if let Err(error) = self.interrupt.check() {
            return Err(netweight_model::Error::Backend(Box::new(error)));
        }
        for (row, out) in out.chunks_exact_mut(width).take(n_rows).enumerate() {
            out.copy_from_slice(&x.row(row)[..width]);
        }
        Ok(())
    }
}

/// Matrices that multiply the same activations at once: q, k and v.
const MAX_JOBS: usize = 4;

fn mix(attention: &Attention, head_idx: usize, query: &[f32], seen: &[&[f32]], out: &mut [f32]) {
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
        _ => {
            let inner = (2.0 / std::f32::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

fn heads_of(row: &mut [f32], heads: Heads) -> impl Iterator<Item = &mut [f32]> {
    row[heads.col..][..heads.n_heads * heads.head_dim].chunks_exact_mut(heads.head_dim)
}

fn each(x: &mut CpuBuffer, n_rows: usize, width: usize, f: impl Fn(f32) -> f32) {
    for row in 0..n_rows {
        x.row_mut(row)[..width].iter_mut().for_each(|x| *x = f(*x));
    }
}
