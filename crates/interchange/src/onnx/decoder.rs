//! The forward pass as a graph: goes in a declaration, come out nodes from token ids to logits. The order of operations
//! is that of `netweight_model`'s forward, and of the reference models in transformers. Hidden states are (tokens,
//! width) for all sequences together; inside attention they are (batch, heads, positions, dimensions).
//! Next in the flow: weights.rs, which multiplies.

use std::collections::BTreeMap;

use netweight_container::{Error, Result};
use netweight_model::{Activation, Attention, Gated, LayerWeights, Mlp, MlpWeights, Part, Rope, Spec, Tensor};

use super::graph::{Attribute, Dim, Graph};
use super::proto::data_type::{BOOL, FLOAT, INT64};
use super::weights::Weights;

const BATCH: Dim = Dim::Named("batch_size");
const SEQUENCE: Dim = Dim::Named("sequence_length");
const PAST: Dim = Dim::Named("past_sequence_length");
const TOTAL: Dim = Dim::Named("past_sequence_length + sequence_length");

/// Refuses what the graph does not spell.
///
/// # Errors
/// `Unsupported`.
pub(crate) fn check(spec: &Spec) -> Result<()> {
    if spec.layers.iter().any(|layer| matches!(layer.mlp, Mlp::Experts(_))) {
        return Err(Error::unsupported("layers with experts; to ONNX go models whose layers are dense"));
    }
    if spec.ropes.iter().any(|rope| rope.long.is_some()) {
        let what = "rotary embeddings that depend on the length of a text (longrope); ONNX gets those that do not";
        return Err(Error::unsupported(what));
    }
    Ok(())
}

/// What all layers share.
struct Shared {
    /// (batch, 1, group * sequence, total): which keys each query sees, by window and by the query heads that share a
    /// key head.
    masks: BTreeMap<(Option<usize>, usize), String>,
    /// (batch, 1, sequence, rotary_dim / 2): cosines and sines of each rotary embedding.
    rotations: Vec<[String; 2]>, // (ropes)
    /// The sizes of batch and sequence, (2,)
    sizes: String,
}

/// Builds the graph of a model that [`check`] lets through.
///
/// # Errors
/// What `weights` says.
pub(crate) fn build(spec: &Spec, weights: &mut Weights) -> Result<Graph> {
    let mut graph = Graph::default();
    inputs(spec, &mut graph);
    let shared = shared(spec, &mut graph);
    let tensors = spec.weights();
    graph.enter("/embed/");
    let ids = graph.reshape("input_ids", &[-1]);
    let mut hidden = weights.embedding(&mut graph, &ids, &tensors.embed.linear)?;
    if let Some(factor) = spec.embed_scale {
        let factor = graph.float(factor);
        hidden = graph.op("Mul", &[&hidden, &factor]);
    }
    let mut layers = Layers { spec, graph, weights, shared };
    for (layer_idx, layer) in tensors.layers.iter().enumerate() {
        hidden = layers.attention(layer_idx, layer, &hidden)?;
        hidden = layers.mlp(layer_idx, layer, &hidden)?;
    }
    layers.graph.enter("/head/");
    let normed = layers.norm(&hidden, &tensors.norm)?;
    layers.logits(&normed, &tensors.head.as_ref().unwrap_or(&tensors.embed).linear)?;
    Ok(layers.graph)
}

fn inputs(spec: &Spec, graph: &mut Graph) {
    graph.input("input_ids", INT64, &[BATCH, SEQUENCE]);
    graph.input("attention_mask", INT64, &[BATCH, TOTAL]);
    graph.input("position_ids", INT64, &[BATCH, SEQUENCE]);
    graph.output("logits", FLOAT, &[BATCH, SEQUENCE, Dim::Fixed(spec.vocab)]);
    for (layer_idx, layer) in spec.layers.iter().enumerate() {
        let (heads, head_dim) = (Dim::Fixed(layer.attention.n_kv_heads), Dim::Fixed(layer.attention.head_dim));
        for which in ["key", "value"] {
            let name = format!("past_key_values.{layer_idx}.{which}");
            graph.input(&name, FLOAT, &[BATCH, heads, PAST, head_dim]);
            graph.output(&format!("present.{layer_idx}.{which}"), FLOAT, &[BATCH, heads, TOTAL, head_dim]);
        }
    }
}

fn shared(spec: &Spec, graph: &mut Graph) -> Shared {
    graph.enter("/shared/");
    let sizes = graph.op("Shape", &["input_ids"]);
    let rotations = spec.ropes.iter().map(|rope| rotation(graph, rope)).collect();
    let mut masks = BTreeMap::new();
    for attention in spec.layers.iter().map(|layer| &layer.attention) {
        let key = (attention.window, attention.n_heads / attention.n_kv_heads);
        masks.entry(key).or_insert_with(|| mask(graph, &sizes, key.0, key.1));
    }
    Shared { masks, rotations, sizes }
}

/// Cosines and sines of positions, (batch, 1, sequence, rotary_dim / 2).
fn rotation(graph: &mut Graph, rope: &Rope) -> [String; 2] {
    let positions = graph.cast("position_ids", FLOAT);
    let axes = graph.ints(&[1, 3]);
    let positions = graph.op("Unsqueeze", &[&positions, &axes]);
    let inv_freq = graph.floats("inv_freq", &rope.inv_freq);
    let angles = graph.op("Mul", &[&positions, &inv_freq]);
    ["Cos", "Sin"].map(|op| {
        let values = graph.op(op, &[&angles]);
        if rope.attention_factor == 1.0 {
            return values;
        }
        let factor = graph.float(rope.attention_factor);
        graph.op("Mul", &[&values, &factor])
    })
}

/// A token sees the keys up to its own, or the last `window` of those, where `attention_mask` has not 0.
fn mask(graph: &mut Graph, sizes: &str, window: Option<usize>, group: usize) -> String {
    let (zero, one) = (graph.int(0), graph.int(1));
    let n_new = graph.op("Gather", &[sizes, &one]);
    let all_sizes = graph.op("Shape", &["attention_mask"]);
    let n_all = graph.op("Gather", &[&all_sizes, &one]);
    let n_past = graph.op("Sub", &[&n_all, &n_new]);
    let keys = graph.op("Range", &[&zero, &n_all, &one]);
    let queries = graph.op("Range", &[&n_past, &n_all, &one]);
    let axes = graph.ints(&[1]);
    let queries = graph.op("Unsqueeze", &[&queries, &axes]);
    let mut sees = graph.op("LessOrEqual", &[&keys, &queries]);
    if let Some(window) = window {
        let window = graph.int(window as i64);
        let before = graph.op("Sub", &[&queries, &window]);
        let is_near = graph.op("Greater", &[&keys, &before]);
        sees = graph.op("And", &[&sees, &is_near]);
    }
    let is_there = graph.cast("attention_mask", BOOL);
    let axes = graph.ints(&[1, 2]);
    let is_there = graph.op("Unsqueeze", &[&is_there, &axes]);
    let sees = graph.op("And", &[&sees, &is_there]);
    if group == 1 { sees } else { graph.concat(&vec![sees.as_str(); group], 2) }
}

/// Layers in the making.
struct Layers<'a, 'w> {
    spec: &'a Spec,
    graph: Graph,
    weights: &'a mut Weights<'w>,
    shared: Shared,
}

impl Layers<'_, '_> {
    /// `hidden + o(attend(rope(norm(qkv(norm(hidden))))))`
    fn attention(&mut self, layer_idx: usize, layer: &LayerWeights<Tensor, Tensor>, hidden: &str) -> Result<String> {
        let attention = self.spec.layers[layer_idx].attention;
        self.graph.enter(&format!("/layers.{layer_idx}/attention/"));
        let normed = self.norm(hidden, &layer.before_attention)?;
        let [query, key, value] = self.projections(&attention, &layer.qkv, &normed)?;
        let norms = layer.qk_norms.as_ref();
        let query = self.heads(&query, attention.n_heads, &attention, norms.map(|norms| &norms[0]))?;
        let key = self.heads(&key, attention.n_kv_heads, &attention, norms.map(|norms| &norms[1]))?;
        let value = self.heads(&value, attention.n_kv_heads, &attention, None)?;
        let (query, key) = (self.rotate(&query, &attention), self.rotate(&key, &attention));
        let key = self.cached(layer_idx, "key", &key);
        let value = self.cached(layer_idx, "value", &value);
        let mixed = self.attend(&attention, &query, &key, &value);
        let out = self.weights.linear(&mut self.graph, &mixed, &layer.o.linear)?;
        self.add(hidden, out, layer.after_attention.as_ref())
    }

    /// `hidden + down(activation(gate(norm(hidden))) * up(norm(hidden)))`
    fn mlp(&mut self, layer_idx: usize, layer: &LayerWeights<Tensor, Tensor>, hidden: &str) -> Result<String> {
        self.graph.enter(&format!("/layers.{layer_idx}/mlp/"));
        let normed = self.norm(hidden, &layer.before_mlp)?;
        let (Mlp::Dense { width, activation, .. }, MlpWeights::Dense(dense)) =
            (self.spec.layers[layer_idx].mlp, &layer.mlp)
        else {
            unreachable!("layers are dense: check");
        };
        let [gate, up] = self.gate_up(width, dense, &normed)?;
        let gate = self.activate(&gate, activation);
        let gated = self.graph.op("Mul", &[&gate, &up]);
        let out = self.weights.linear(&mut self.graph, &gated, &dense.down.linear)?;
        self.add(hidden, out, layer.after_mlp.as_ref())
    }

    /// q, k and v, (tokens, width): three matrices, or one of all.
    fn projections(&mut self, attention: &Attention, parts: &[Part<Tensor>], normed: &str) -> Result<[String; 3]> {
        let (queries, keys) = (attention.q_width(), attention.kv_width());
        if let [q, k, v] = parts {
            let [q, k, v] = [q, k, v].map(|part| self.weights.linear(&mut self.graph, normed, &part.linear));
            return Ok([q?, k?, v?]);
        }
        let fused = self.weights.linear(&mut self.graph, normed, &parts[0].linear)?;
        Ok(self.graph.split(&fused, [queries, keys, keys]))
    }

    /// gate and up, (tokens, width): two matrices, or one of both.
    fn gate_up(&mut self, width: usize, dense: &Gated<Tensor>, normed: &str) -> Result<[String; 2]> {
        if let [gate, up] = dense.gate_up.as_slice() {
            let [gate, up] = [gate, up].map(|part| self.weights.linear(&mut self.graph, normed, &part.linear));
            return Ok([gate?, up?]);
        }
        let fused = self.weights.linear(&mut self.graph, normed, &dense.gate_up[0].linear)?;
        Ok(self.graph.split(&fused, [width, width]))
    }

    /// (tokens, n_heads * head_dim) to (batch, n_heads, sequence, head_dim), normed where there is a norm.
    fn heads(&mut self, rows: &str, n_heads: usize, of: &Attention, norm: Option<&Tensor>) -> Result<String> {
        let last = self.graph.ints(&[n_heads as i64, of.head_dim as i64]);
        let shape = self.graph.concat(&[&self.shared.sizes.clone(), &last], 0);
        let mut heads = self.graph.op("Reshape", &[rows, &shape]);
        if let Some(norm) = norm {
            heads = self.norm(&heads, norm)?;
        }
        Ok(self.graph.transpose(&heads, &[0, 2, 1, 3]))
    }

    /// Rotates the first dimensions of each head in pairs (i, i + rotary_dim / 2).
    fn rotate(&mut self, heads: &str, attention: &Attention) -> String {
        let [cos, sin] = self.shared.rotations[attention.rope_idx].clone();
        let rotary_dim = self.spec.ropes[attention.rope_idx].rotary_dim;
        let (half, rest) = (rotary_dim / 2, attention.head_dim - rotary_dim);
        let graph = &mut self.graph;
        let (first, second, rest) = if rest == 0 {
            let [first, second] = graph.split(heads, [half, half]);
            (first, second, None)
        } else {
            let [first, second, rest] = graph.split(heads, [half, half, rest]);
            (first, second, Some(rest))
        };
        let mut mul = |a: &str, b: &str| graph.op("Mul", &[a, b]);
        let (first_cos, second_sin) = (mul(&first, &cos), mul(&second, &sin));
        let (second_cos, first_sin) = (mul(&second, &cos), mul(&first, &sin));
        let first = graph.op("Sub", &[&first_cos, &second_sin]);
        let second = graph.op("Add", &[&second_cos, &first_sin]);
        let parts: Vec<&str> = [&first, &second].into_iter().chain(&rest).map(String::as_str).collect();
        graph.concat(&parts, -1)
    }

    /// What was cached, then what is new.
    fn cached(&mut self, layer_idx: usize, which: &str, new: &str) -> String {
        let (past, present) = (format!("past_key_values.{layer_idx}.{which}"), format!("present.{layer_idx}.{which}"));
        self.graph.op_named("Concat", &[&past, new], &[("axis", Attribute::Int(2))], &present);
        present
    }

    /// Query heads that share a key head stand below each other: (batch, n_kv_heads, group * sequence, head_dim). Comes
    /// out (tokens, n_heads * head_dim).
    fn attend(&mut self, attention: &Attention, query: &str, key: &str, value: &str) -> String {
        let (n_heads, n_kv_heads) = (attention.n_heads as i64, attention.n_kv_heads as i64);
        let head_dim = attention.head_dim as i64;
        let group = attention.n_heads / attention.n_kv_heads;
        let mask = self.shared.masks[&(attention.window, group)].clone();
        let graph = &mut self.graph;
        let scale = graph.float(attention.scale);
        let mut query = graph.op("Mul", &[query, &scale]);
        if group > 1 {
            query = graph.reshape(&query, &[0, n_kv_heads, -1, head_dim]);
        }
        let key = graph.transpose(key, &[0, 1, 3, 2]);
        let scores = graph.op("MatMul", &[&query, &key]);
        let scores = softcap(graph, scores, attention.softcap);
        let least = graph.float(f32::MIN);
        let scores = graph.op("Where", &[&mask, &scores, &least]);
        let shares = graph.op_with("Softmax", &[&scores], &[("axis", Attribute::Int(-1))]);
        let mut mixed = graph.op("MatMul", &[&shares, value]);
        if group > 1 {
            mixed = graph.reshape(&mixed, &[0, n_heads, -1, head_dim]);
        }
        let mixed = graph.transpose(&mixed, &[0, 2, 1, 3]);
        graph.reshape(&mixed, &[-1, n_heads * head_dim])
    }

    fn activate(&mut self, gate: &str, activation: Activation) -> String {
        let graph = &mut self.graph;
        let (half, one) = (graph.float(0.5), graph.float(1.0));
        let inner = match activation {
            Activation::Silu => {
                let sigmoid = graph.op("Sigmoid", &[gate]);
                return graph.op("Mul", &[gate, &sigmoid]);
            }
            Activation::GeluErf => {
                let root = graph.float(std::f32::consts::FRAC_1_SQRT_2);
                let inner = graph.op("Mul", &[gate, &root]);
                graph.op("Erf", &[&inner])
            }
            Activation::GeluTanh => {
                let (three, cubic) = (graph.float(3.0), graph.float(0.044_715));
                let root = graph.float((2.0 / std::f64::consts::PI).sqrt() as f32);
                let cube = graph.op("Pow", &[gate, &three]);
                let cube = graph.op("Mul", &[&cube, &cubic]);
                let sum = graph.op("Add", &[gate, &cube]);
                let inner = graph.op("Mul", &[&sum, &root]);
                graph.op("Tanh", &[&inner])
            }
        };
        let plus_one = graph.op("Add", &[&inner, &one]);
        let halved = graph.op("Mul", &[gate, &half]);
        graph.op("Mul", &[&halved, &plus_one])
    }

    /// RMSNorm over the last dimension, in the operators that ONNX Runtime joins to one.
    fn norm(&mut self, input: &str, weight: &Tensor) -> Result<String> {
        let weight = self.weights.vector(&mut self.graph, weight)?;
        let graph = &mut self.graph;
        let (two, eps) = (graph.float(2.0), graph.float(self.spec.norm_eps));
        let square = graph.op("Pow", &[input, &two]);
        let mean = graph.op_with("ReduceMean", &[&square], &[("axes", Attribute::Ints(&[-1]))]);
        let sum = graph.op("Add", &[&mean, &eps]);
        let root = graph.op("Sqrt", &[&sum]);
        let normed = graph.op("Div", &[input, &root]);
        Ok(graph.op("Mul", &[&normed, &weight]))
    }

    /// The residual, with a norm before it where the family has one.
    fn add(&mut self, hidden: &str, mut out: String, norm: Option<&Tensor>) -> Result<String> {
        if let Some(norm) = norm {
            out = self.norm(&out, norm)?;
        }
        Ok(self.graph.op("Add", &[hidden, &out]))
    }

    fn logits(&mut self, normed: &str, head: &Tensor) -> Result<()> {
        let logits = self.weights.linear(&mut self.graph, normed, head)?;
        let graph = &mut self.graph;
        let logits = softcap(graph, logits, self.spec.final_softcap);
        let last = graph.ints(&[self.spec.vocab as i64]);
        let shape = graph.concat(&[&self.shared.sizes, &last], 0);
        graph.op_named("Reshape", &[&logits, &shape], &[], "logits");
        Ok(())
    }
}

/// `cap * tanh(x / cap)`
fn softcap(graph: &mut Graph, values: String, cap: Option<f32>) -> String {
    let Some(cap) = cap else { return values };
    let cap = graph.float(cap);
    let divided = graph.op("Div", &[&values, &cap]);
    let bent = graph.op("Tanh", &[&divided]);
    graph.op("Mul", &[&bent, &cap])
}
