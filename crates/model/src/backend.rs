//! What a forward pass asks of a machine: [`Backend`], the operations over opaque buffers, and nothing more.
//!
//! Every operation works on the first `n_rows` rows of its buffers, one row for each token. No operation's result for
//! a row may depend on which other rows are there. `reference.rs` is the readable definition of all of them.
//! Next in the flow: forward.rs.

use crate::error::Result;
use crate::spec::{Activation, Attention, Routed};
use crate::weights::{Gated, Part};

/// A token's place: its sequence and where it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The sequence's slot in the cache.
    pub slot: usize,
    /// The token's position in its sequence, from 0.
    pub position: usize,
    /// Tokens that the sequence is to reach, prompt and continuation. It matters to LongRoPE models alone, which
    /// rotate long sequences otherwise: it must not cross [`LongRope::longer_than`](crate::LongRope) while keys that
    /// were rotated for the other side are in the cache. Transformers goes by the tokens so far.
    pub sequence_len: usize,
}

/// Query, key and value columns of a row, and how they are attended with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attend<'a> {
    /// Index of the layer: which keys and values of the cache.
    pub layer_idx: usize,
    /// Heads, scale, softcap, window.
    pub attention: &'a Attention,
    /// Places of the rows. Rows of one slot stand together, at consecutive positions.
    pub places: &'a [Place], // (n_rows)
}

/// RMSNorm of each query and key head.
#[derive(Clone, Copy, Debug)]
pub struct HeadNorms<'a, V> {
    /// Weight for query heads.
    pub q: &'a V, // (head_dim)
    /// Weight for key heads.
    pub k: &'a V, // (head_dim)
    /// `eps` of both.
    pub eps: f32,
}

/// How query and key heads are rotated; see [`Backend::rope`].
#[derive(Clone, Copy, Debug)]
pub struct Rotation<'a, V> {
    /// Dimensions of a head that are.
    pub rotary_dim: usize,
    /// Cosines and sines.
    pub table: &'a V, // (table rows, rotary_dim)
    /// The row of the table that each row takes.
    pub table_rows: &'a [u32], // (n_rows)
}

/// Heads that stand side by side in a row: columns `col..col + n_heads * head_dim`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// First column.
    pub col: usize,
    /// Heads.
    pub n_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

/// How much a cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Sequences.
    pub n_slots: usize,
    /// Positions of each.
    pub n_positions: usize,
}

/// Experts of one layer.
#[derive(Clone, Copy, Debug)]
pub struct Experts<'a, M> {
    /// How rows are sent to them.
    pub routed: &'a Routed,
    /// (n_experts, hidden)
    pub router: &'a Part<M>,
    /// (n_experts)
    pub experts: &'a [Gated<M>],
}

/// The operations of a forward pass.
///
/// Buffers are `(rows, width)` of f32, or of whatever the backend computes with; the model never looks inside but
/// through [`read`](Backend::read). Operations on devices may return before they are done; `read` waits.
pub trait Backend {
    /// A matrix (rows, cols), with a bias (rows) or without.
    type Linear;
    /// A vector of f32, also a table.
    type Vector;
    /// Activations.
    type Buffer;
    /// Keys and values of all layers and slots.
    type Cache;

    /// Allocates a buffer of zeros; called for a workspace only.
    ///
    /// # Errors
    /// Of devices.
    fn buffer(&self, n_rows: usize, width: usize) -> Result<Self::Buffer>;

    /// Takes a vector over; called at load only.
    ///
    /// # Errors
    /// Of devices.
    fn vector(&self, values: &[f32]) -> Result<Self::Vector>;

    /// How much the cache holds; places beyond it are refused before anything is computed.
    fn room(&self, cache: &Self::Cache) -> Room;

    /// `out[i] = table[tokens[i]]`, whole rows.
    fn embed(&mut self, table: &Self::Linear, tokens: &[u32], out: &mut Self::Buffer);

    /// `x *= factor` over columns `..width`.
    fn scale(&mut self, x: &mut Self::Buffer, n_rows: usize, width: usize, factor: f32);

    /// `out[.., out_col..out_col + rows] = W x (+ bias)` for each part; `x` has the matrices' `cols` columns or more.
    /// The backend may round `x` first, the same way whatever the matrices' layouts.
    fn linear(&mut self, x: &Self::Buffer, n_rows: usize, parts: &[Part<Self::Linear>], out: &mut Self::Buffer);

    /// `out += W x (+ bias)`. `scratch` has the matrix's `rows` columns or more, and any content then.
    fn linear_add(
        &mut self,
        x: &Self::Buffer,
        n_rows: usize,
        part: &Part<Self::Linear>,
        width: usize, // the matrix's rows
        scratch: &mut Self::Buffer,
        out: &mut Self::Buffer,
    ) {
        self.linear(x, n_rows, std::slice::from_ref(part), scratch);
        self.add(scratch, n_rows, width, out);
    }

    /// `out = activation(gate x) * up x`. `scratch` has twice the width and any content then.
    fn gated_linear(
        &mut self,
        x: &Self::Buffer,
        n_rows: usize,
        gate_up: &[Part<Self::Linear>],
        (activation, width): (Activation, usize),
        scratch: &mut Self::Buffer,
        out: &mut Self::Buffer,
    ) {
        self.linear(x, n_rows, gate_up, scratch);
        self.gate(activation, scratch, n_rows, width, out);
    }

    /// Routes each row and sums what its experts make of it to `out`, as [`Model::forward`](crate::Model::forward) does
    /// with the operations of this trait; `false` where it is to do so.
    fn experts(
        &mut self,
        x: &Self::Buffer,
        n_rows: usize,
        experts: &Experts<Self::Linear>,
        scratch: [&mut Self::Buffer; 2], // twice the width of an expert; the width
        out: &mut Self::Buffer,
    ) -> bool {
        let _ = (x, n_rows, experts, scratch, out);
        false
    }

    /// `out = x / sqrt(mean(x^2) + eps) * weight` over whole rows, as long as the weight.
    fn rms_norm(
        &mut self,
        x: &Self::Buffer,
        n_rows: usize,
        weight: &Self::Vector, // (width)
        eps: f32,
        out: &mut Self::Buffer,
    );

    /// RMSNorm of each head on its own, in place.
    fn head_norm(
        &mut self,
        x: &mut Self::Buffer,
        n_rows: usize,
        heads: Heads,
        weight: &Self::Vector, // (head_dim)
        eps: f32,
    );

    /// Rotates each head in place. Row `i` takes row `table_rows[i]` of the table, cosines `c` then sines `s`:
    /// `x[j], x[j + h] = x[j] c[j] - x[j + h] s[j], x[j + h] c[j] + x[j] s[j]` for `j < h = rotary_dim / 2`.
    /// Dimensions from `rotary_dim` on stay.
    fn rope(
        &mut self,
        x: &mut Self::Buffer,
        heads: Heads,
        rotary_dim: usize,
        table: &Self::Vector, // (table rows, rotary_dim)
        table_rows: &[u32],   // (n_rows)
    );

    /// Norms query and key heads, if there are norms, rotates them, and attends. What is in `qkv` afterwards is any.
    fn attention(
        &mut self,
        qkv: &mut Self::Buffer, // (n_rows, q | k | v)
        attend: &Attend,
        norms: Option<HeadNorms<Self::Vector>>,
        rotation: Rotation<Self::Vector>,
        cache: &mut Self::Cache,
        out: &mut Self::Buffer, // (n_rows, n_heads * head_dim)
    ) {
        let (n_rows, Attention { n_heads, n_kv_heads, head_dim, .. }) = (attend.places.len(), *attend.attention);
        if let Some(HeadNorms { q, k, eps }) = norms {
            self.head_norm(qkv, n_rows, Heads { col: 0, n_heads, head_dim }, q, eps);
            let keys = Heads { col: attend.attention.q_width(), n_heads: n_kv_heads, head_dim };
            self.head_norm(qkv, n_rows, keys, k, eps);
        }
        // Key heads stand right after query heads and are rotated with them.
        let heads = Heads { col: 0, n_heads: n_heads + n_kv_heads, head_dim };
        self.rope(qkv, heads, rotation.rotary_dim, rotation.table, rotation.table_rows);
        self.attend(qkv, attend, cache, out);
    }

    /// Appends all rows' keys and values to the cache, then attends: for each row and query head, softmax over the
    /// positions that the row sees of `softcap(scale * q . k)`, and the sum of their values with these weights.
    fn attend(
        &mut self,
        qkv: &Self::Buffer, // (n_rows, q | k | v)
        attend: &Attend,
        cache: &mut Self::Cache,
        out: &mut Self::Buffer, // (n_rows, n_heads * head_dim)
    );

    /// `out[j] = activation(x[j]) * x[width + j]` for `j < width`.
    fn gate(&mut self, activation: Activation, x: &Self::Buffer, n_rows: usize, width: usize, out: &mut Self::Buffer);

    /// `out += x` over columns `..width`.
    fn add(&mut self, x: &Self::Buffer, n_rows: usize, width: usize, out: &mut Self::Buffer);

    /// `x = cap * tanh(x / cap)` over columns `..width`.
    fn softcap(&mut self, x: &mut Self::Buffer, n_rows: usize, width: usize, cap: f32);

    /// `x = 0` over columns `..width`.
    fn zero(&mut self, x: &mut Self::Buffer, n_rows: usize, width: usize);

    /// `out[i] = x[rows[i]]` over columns `..width`.
    fn gather(&mut self, x: &Self::Buffer, rows: &[u32], width: usize, out: &mut Self::Buffer);

    /// `out[rows[i]] += weights[i] * x[i]`, product and sum rounded each, over columns `..width`; no row occurs twice.
    fn scatter_add(
        &mut self,
        x: &Self::Buffer,
        rows: &[u32],    // (n)
        weights: &[f32], // (n)
        width: usize,
        out: &mut Self::Buffer,
    );

    /// Copies columns `..width` of the first `n_rows` rows to the host: logits, and routers' logits.
    ///
    /// # Errors
    /// Of devices, also of operations before this one.
    fn read(&mut self, x: &Self::Buffer, n_rows: usize, width: usize, out: &mut [f32]) -> Result<()>;
}
