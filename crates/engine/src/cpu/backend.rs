//! The CPU as a [`Backend`]: goes in what a forward pass asks for, comes out calls of `netweight-kernels-cpu`.
//! Next in the flow: decoder.rs.

use std::sync::Arc;

use netweight_kernels_cpu as kernels;
use netweight_kernels_cpu::{
    Attention, AttentionShape, Input, Isa, Job, KvCache, KvShape, KvType, Pool, Precision, Rows, RowsMut, Scratch,
};
use netweight_layout::{Layout, Matrix};
use netweight_model::{Activation, Attend, Backend, Heads, Kind, Part, Room, Spec};

use super::observe::Observer;
use crate::load::first_attention;
use crate::{Error, Interrupt, Result};

/// Matrices that multiply the same activations at once: q, k and v.
const MAX_JOBS: usize = 4;

/// Steps of a grid.
pub struct Steps {
    /// (rows)
    pub rows: Vec<f32>,
    /// (cols); `None` where all are 1. Matrices that share them share their activations too.
    pub cols: Option<Arc<[f32]>>,
}

/// A weight matrix with its bias.
pub struct CpuLinear {
    /// The tensor's name in the store.
    pub name: String,
    /// (rows, cols)
    pub matrix: Matrix,
    /// Where the matrix has the indices of a grid: its steps.
    pub steps: Option<Steps>,
    /// (rows)
    pub bias: Option<Vec<f32>>,
}

impl CpuLinear {
    fn col_steps(&self) -> Option<&[f32]> {
        self.steps.as_ref()?.cols.as_deref()
    }

    /// Whether both multiply the same scaled activations.
    fn has_input_of(&self, other: &CpuLinear) -> bool {
        let place = |linear: &CpuLinear| linear.col_steps().map(<[f32]>::as_ptr);
        place(self) == place(other)
    }

    fn job(&self, out_col: usize) -> Job<'_> {
        let row_steps = self.steps.as_ref().map(|steps| steps.rows.as_slice());
        Job { matrix: &self.matrix, row_steps, bias: self.bias.as_deref(), out_col }
    }
}

/// Activations.
pub struct CpuBuffer {
    width: usize,
    data: Vec<f32>, // (rows, width)
}

impl CpuBuffer {
    fn rows(&self) -> Rows<'_> {
        Rows { data: &self.data, stride: self.width }
    }

    fn rows_mut(&mut self) -> RowsMut<'_> {
        RowsMut { data: &mut self.data, stride: self.width }
    }
}

/// How the CPU is to compute.
#[derive(Clone, Copy, Debug)]
pub struct CpuPlan {
    /// Instruction set.
    pub isa: Isa,
    /// Threads, at least 1.
    pub n_threads: usize,
    /// What activations are rounded to before a linear layer; int8 where it has indices, and bf16 elsewhere.
    pub precision: Precision,
    /// What keys and values are kept as.
    pub kv_type: KvType,
    /// Tokens of a batch.
    pub max_tokens: usize,
    /// Positions of a sequence.
    pub max_positions: usize,
    /// Sequences.
    pub n_slots: usize,
}

impl CpuPlan {
    /// What activations are rounded to before a matrix of that layout: integers need indices, and others take bf16 then.
    fn precision_for(&self, layout: Layout) -> Precision {
        if self.precision == Precision::Int8 && !layout.is_index() { Precision::Bf16 } else { self.precision }
    }
}

/// The CPU: an instruction set, threads, and all scratch memory.
pub struct Cpu {
    plan: CpuPlan,
    pool: Pool,
    scratch: Scratch,
    input: Input,
    attention: Attention,
    places: Vec<kernels::Place>, // (max_tokens)
    pub(crate) interrupt: Interrupt,
    pub(crate) observer: Option<Observer>,
}

impl Cpu {
    /// Allocates all that the operations need for models of `spec`.
    ///
    /// # Errors
    /// `InvalidArgument` for heads that the kernels do not know.
    pub fn new(spec: &Spec, plan: CpuPlan) -> Result<Cpu> {
        let pool = Pool::new(plan.n_threads);
        let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
        let max_cols = matrices.map(|tensor| tensor.cols).max().unwrap_or(1);
        let attention = &first_attention(spec)?;
        let shape = AttentionShape {
            n_heads: attention.n_heads,
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
        };
        let attention = Attention::new(shape, plan.max_tokens, plan.max_positions, pool.n_threads());
        Ok(Cpu {
            plan,
            scratch: Scratch::new(&pool, plan.max_tokens, max_cols),
            input: Input::new(plan.max_tokens, max_cols),
            attention: attention.map_err(|error| Error::invalid(error.to_string()))?,
            places: Vec::with_capacity(plan.max_tokens),
            pool,
            interrupt: Interrupt::new(),
            observer: None,
        })
    }

    /// A cache for as many sequences and positions as planned. Memory is taken as positions are written.
    ///
    /// # Errors
    /// `InvalidArgument` where the cache would not fit into an address space.
    pub fn cache(&self, spec: &Spec) -> Result<KvCache> {
        let attention = first_attention(spec)?;
        KvCache::new(KvShape {
            n_layers: spec.layers.len(),
            n_kv_heads: attention.n_kv_heads,
            head_dim: attention.head_dim,
            n_slots: self.plan.n_slots,
            max_positions: self.plan.max_positions,
            kv_type: self.plan.kv_type,
        })
        .map_err(|error| Error::invalid(error.to_string()))
    }

    /// How it computes; `n_threads` are those that the system gave.
    pub fn plan(&self) -> CpuPlan {
        CpuPlan { n_threads: self.pool.n_threads(), ..self.plan }
    }
}

fn heads_of(heads: Heads) -> kernels::Heads {
    kernels::Heads { col: heads.col, n_heads: heads.n_heads, head_dim: heads.head_dim }
}

impl Backend for Cpu {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Buffer = CpuBuffer;
    type Cache = KvCache;

    fn buffer(&self, n_rows: usize, width: usize) -> netweight_model::Result<CpuBuffer> {
        Ok(CpuBuffer { width, data: vec![0.0; n_rows * width] })
    }

    fn vector(&self, values: &[f32]) -> netweight_model::Result<Vec<f32>> {
        Ok(values.to_vec())
    }

    fn room(&self, cache: &KvCache) -> Room {
        Room { n_slots: cache.shape().n_slots, n_positions: cache.shape().max_positions }
    }

    fn embed(&mut self, table: &CpuLinear, tokens: &[u32], out: &mut CpuBuffer) {
        let out = &mut out.data[..tokens.len() * table.matrix.cols()];
        let (isa, scratch) = (self.plan.isa, &self.scratch);
        match &table.steps {
            None => kernels::rows(isa, &self.pool, scratch, &table.matrix, tokens, out),
            Some(Steps { rows, cols }) => {
                kernels::grid_rows(isa, &self.pool, scratch, &table.matrix, (rows, cols.as_deref()), tokens, out);
            }
        }
    }

    fn scale(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize, factor: f32) {
        kernels::scale(self.plan.isa, &self.pool, x.rows_mut(), n_rows, width, factor);
    }

    /// Does nothing once interrupted, so that a forward pass comes to its end, which is [`Backend::read`], soon.
    fn linear(&mut self, x: &CpuBuffer, n_rows: usize, parts: &[Part<CpuLinear>], out: &mut CpuBuffer) {
        let Some(first) = parts.first() else { return };
        if self.interrupt.is_set() {
            return;
        }
        if let Some(observer) = &mut self.observer {
            observer.see(parts, &x.data, [n_rows, x.width]);
        }
        let isa = self.plan.isa;
        let cols = first.linear.matrix.cols();
        let precision_for = |linear: &CpuLinear| self.plan.precision_for(linear.matrix.layout());
        let is_alike = |a: &CpuLinear, b: &CpuLinear| a.has_input_of(b) && precision_for(a) == precision_for(b);
        for parts in parts.chunk_by(|a, b| is_alike(&a.linear, &b.linear)) {
            let precision = precision_for(&parts[0].linear);
            let scales = parts[0].linear.col_steps().unwrap_or_default();
            self.input.set_scaled(isa, &self.pool, (&x.data, x.width), [n_rows, cols], scales, precision);
            for parts in parts.chunks(MAX_JOBS) {
                let mut jobs = [parts[0].linear.job(0); MAX_JOBS];
                for (job, Part { linear, out_col }) in jobs.iter_mut().zip(parts) {
                    *job = linear.job(*out_col);
                }
                let jobs = &jobs[..parts.len()];
                kernels::linear(isa, &self.pool, &self.scratch, &self.input, jobs, &mut out.data, out.width);
            }
        }
    }

    fn rms_norm(&mut self, x: &CpuBuffer, n_rows: usize, weight: &Vec<f32>, eps: f32, out: &mut CpuBuffer) {
        kernels::rms_norm(self.plan.isa, &self.pool, x.rows(), n_rows, weight, eps, out.rows_mut());
    }

    fn head_norm(&mut self, x: &mut CpuBuffer, n_rows: usize, heads: Heads, weight: &Vec<f32>, eps: f32) {
        kernels::head_norm(self.plan.isa, &self.pool, x.rows_mut(), n_rows, heads_of(heads), weight, eps);
    }

    fn rope(&mut self, x: &mut CpuBuffer, heads: Heads, rotary_dim: usize, table: &Vec<f32>, table_rows: &[u32]) {
        kernels::rope(self.plan.isa, &self.pool, x.rows_mut(), heads_of(heads), rotary_dim, table, table_rows);
    }

    fn attend(&mut self, qkv: &CpuBuffer, attend: &Attend, cache: &mut KvCache, out: &mut CpuBuffer) {
        if self.interrupt.is_set() {
            return;
        }
        let attention = attend.attention;
        self.places.clear();
        self.places.extend(attend.places.iter().map(|at| kernels::Place { slot: at.slot, position: at.position }));
        let from = |col: usize| Rows { data: &qkv.data[col..], stride: qkv.width };
        let (k_col, v_col) = (attention.q_width(), attention.q_width() + attention.kv_width());
        cache.append(attend.layer_idx, &self.places, from(k_col), from(v_col));
        let how = kernels::Attend { scale: attention.scale, window: attention.window, softcap: attention.softcap };
        let (layer, isa) = (attend.layer_idx, self.plan.isa);
        self.attention.run(isa, &self.pool, cache, layer, &how, &self.places, qkv.rows(), out.rows_mut());
    }

    fn gate(&mut self, activation: Activation, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut CpuBuffer) {
        let activation = match activation {
            Activation::Silu => kernels::Activation::Silu,
            Activation::GeluTanh => kernels::Activation::GeluTanh,
            Activation::GeluErf => kernels::Activation::GeluErf,
        };
        kernels::gate(self.plan.isa, &self.pool, activation, x.rows(), n_rows, width, out.rows_mut());
    }

    fn add(&mut self, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut CpuBuffer) {
        kernels::add(self.plan.isa, &self.pool, x.rows(), n_rows, width, out.rows_mut());
    }

    fn softcap(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize, cap: f32) {
        kernels::softcap(self.plan.isa, &self.pool, x.rows_mut(), n_rows, width, cap);
    }

    fn zero(&mut self, x: &mut CpuBuffer, n_rows: usize, width: usize) {
        x.data.chunks_exact_mut(x.width).take(n_rows).for_each(|row| row[..width].fill(0.0));
    }

    fn gather(&mut self, x: &CpuBuffer, rows: &[u32], width: usize, out: &mut CpuBuffer) {
        for (out, &row) in out.data.chunks_exact_mut(out.width).zip(rows) {
            out[..width].copy_from_slice(&x.data[row as usize * x.width..][..width]);
        }
    }

    fn scatter_add(&mut self, x: &CpuBuffer, rows: &[u32], weights: &[f32], width: usize, out: &mut CpuBuffer) {
        kernels::scatter_add(self.plan.isa, x.rows(), rows, weights, width, out.rows_mut());
    }

    fn read(&mut self, x: &CpuBuffer, n_rows: usize, width: usize, out: &mut [f32]) -> netweight_model::Result<()> {
        self.interrupt.check().map_err(|error| netweight_model::Error::Backend(Box::new(error)))?;
        for (row, out) in x.data.chunks_exact(x.width).zip(out.chunks_exact_mut(width)).take(n_rows) {
            out.copy_from_slice(&row[..width]);
        }
        Ok(())
    }
}
