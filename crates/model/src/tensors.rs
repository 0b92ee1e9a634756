//! What a decoder is made of: goes in a [`Spec`], comes out the tree of its tensors, with names and shapes.
//!
//! The engine compares this list with the headers of a checkpoint before any long work. Next in the flow: weights.rs.

use std::convert::Infallible;

use crate::families::{Experts, Family};
use crate::spec::{Layer, Mlp, Spec};
use crate::weights::{Gated, LayerWeights, MlpWeights, Part, Source, Weights};

/// A tensor that a model needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// Names that it may have in a checkpoint, the usual one first.
    pub names: Vec<String>,
    /// What it is for.
    pub kind: Kind,
    /// Rows of a matrix, length of a vector.
    pub rows: usize,
    /// Columns of a matrix; 1 for a vector.
    pub cols: usize,
    /// What becomes of each element at load, in f32.
    pub transform: Transform,
    /// A vector (rows) that is added to the product.
    pub bias: Option<Box<Tensor>>,
}

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Matrix whose rows are looked up; also multiplied with where embeddings are tied.
    Embedding,
    /// Matrix that is multiplied with: `y = W x`.
    Linear,
    /// Vector.
    Vector,
}

/// What becomes of a vector's elements at load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Nothing.
    None,
    /// `1 + w`, in f32.
    AddOne,
}

impl Tensor {
    /// The shape that a checkpoint has to give it.
    pub fn shape(&self) -> Vec<usize> {
        if self.kind == Kind::Vector { vec![self.rows] } else { vec![self.rows, self.cols] }
    }

    /// The usual name.
    pub fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }
}

/// A source that only notes what is asked of it.
struct List(Vec<Tensor>);

impl List {
    fn note(&mut self, tensor: &Tensor) -> Result<(), Infallible> {
        self.0.push(tensor.clone());
        self.0.extend(tensor.bias.as_deref().cloned());
        Ok(())
    }
}

impl Source for List {
    type Linear = ();
    type Vector = ();
    type Error = Infallible;

    fn linear(&mut self, tensor: &Tensor) -> Result<(), Infallible> {
        self.note(tensor)
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<(), Infallible> {
        self.note(tensor)
    }
}

impl Spec {
    /// Every tensor that the model needs, biases included.
    pub fn tensors(&self) -> impl Iterator<Item = Tensor> {
        let mut list = List(Vec::new());
        let Ok(_) = self.weights().load(&mut list);
        list.0.into_iter()
    }

    /// The tree of tensors.
    pub fn weights(&self) -> Weights<Tensor, Tensor> {
        let namer = Namer { spec: self, family: self.family };
        let head = || Part { linear: namer.head(), out_col: 0 };
        Weights {
            embed: Part { linear: namer.embedding(), out_col: 0 },
            layers: self.layers.iter().enumerate().map(|(idx, layer)| namer.layer(idx, layer)).collect(),
            norm: namer.norm("norm.weight", self.hidden),
            head: (!self.is_tied).then(head),
        }
    }
}

/// Gives tensors their names and shapes.
struct Namer<'a> {
    spec: &'a Spec,
    family: &'static Family,
}

impl Namer<'_> {
    fn tensor(&self, kind: Kind, prefixes: &[&str], name: &str, rows: usize, cols: usize) -> Tensor {
        let names = prefixes.iter().map(|prefix| format!("{prefix}{name}")).collect();
        Tensor { names, kind, rows, cols, transform: Transform::None, bias: None }
    }

    fn vector(&self, name: &str, len: usize) -> Tensor {
        self.tensor(Kind::Vector, self.family.prefixes, name, len, 1)
    }

    fn norm(&self, name: &str, len: usize) -> Tensor {
        let transform = if self.spec.norm_plus_one { Transform::AddOne } else { Transform::None };
        Tensor { transform, ..self.vector(name, len) }
    }

    fn embedding(&self) -> Tensor {
        let (rows, cols) = (self.spec.vocab, self.spec.hidden);
        self.tensor(Kind::Embedding, self.family.prefixes, "embed_tokens.weight", rows, cols)
    }

    fn head(&self) -> Tensor {
        let (rows, cols) = (self.spec.vocab, self.spec.hidden);
        self.tensor(Kind::Linear, self.family.head_prefixes, "lm_head.weight", rows, cols)
    }

    /// A matrix `{stem}.weight` and, with a bias, `{stem}.bias`.
    fn linear(&self, stem: &str, rows: usize, cols: usize, bias: bool) -> Tensor {
        let bias = bias.then(|| Box::new(self.vector(&format!("{stem}.bias"), rows)));
        Tensor { bias, ..self.matrix(&format!("{stem}.weight"), rows, cols) }
    }

    fn matrix(&self, name: &str, rows: usize, cols: usize) -> Tensor {
        self.tensor(Kind::Linear, self.family.prefixes, name, rows, cols)
    }

    fn layer(&self, layer_idx: usize, layer: &Layer) -> LayerWeights<Tensor, Tensor> {
        let (hidden, norms, attention) = (self.spec.hidden, &self.family.norms, &layer.attention);
        let norm = |name: &str, len: usize| self.norm(&format!("layers.{layer_idx}.{name}.weight"), len);
        let attn = format!("layers.{layer_idx}.self_attn");
        let widths = [attention.q_width(), attention.kv_width(), attention.kv_width()];
        let split = [("q_proj", widths[0]), ("k_proj", widths[1]), ("v_proj", widths[2])];
        let fused = [("qkv_proj", attention.qkv_width())];
        let projections: &[(&str, usize)] = if self.family.is_fused { &fused } else { &split };
        let project =
            |stem: &str, rows: usize| self.linear(&format!("{attn}.{stem}"), rows, hidden, attention.qkv_bias);
        let post = |name: Option<&'static str>| name.filter(|_| layer.post_norms).map(|name| norm(name, hidden));
        let qk_norm = |name: &str| norm(&format!("self_attn.{name}"), attention.head_dim);
        let o = self.linear(&format!("{attn}.o_proj"), hidden, attention.q_width(), attention.o_bias);
        LayerWeights {
            before_attention: norm(norms.before_attention, hidden),
            qkv: side_by_side(projections.iter().map(|(stem, rows)| project(stem, *rows))),
            qk_norms: attention.qk_norm.then(|| [qk_norm("q_norm"), qk_norm("k_norm")]),
            o: Part { linear: o, out_col: 0 },
            after_attention: post(norms.after_attention),
            before_mlp: norm(norms.before_mlp, hidden),
            mlp: self.mlp(layer_idx, &layer.mlp),
            after_mlp: post(norms.after_mlp),
        }
    }

    fn mlp(&self, layer_idx: usize, mlp: &Mlp) -> MlpWeights<Tensor> {
        let hidden = self.spec.hidden;
        match (mlp, &self.family.experts) {
            (Mlp::Experts(routed), Some(experts)) => {
                let router = self.matrix(&format!("layers.{layer_idx}.{}", experts.router), routed.n_experts, hidden);
                let expert = |expert_idx| self.expert(experts, layer_idx, expert_idx, routed.width);
                let experts = (0..routed.n_experts).map(expert).collect();
                MlpWeights::Experts { router: Part { linear: router, out_col: 0 }, experts }
            }
            (Mlp::Experts(_), None) => unreachable!("only families with experts declare routed layers"),
            (Mlp::Dense { width, bias, .. }, _) => {
                let split = [("gate_proj", *width), ("up_proj", *width)];
                let fused = [("gate_up_proj", 2 * width)];
                let stems: &[(&str, usize)] = if self.family.is_fused { &fused } else { &split };
                let linear = |stem: &str, rows: usize, cols: usize| {
                    self.linear(&format!("layers.{layer_idx}.mlp.{stem}"), rows, cols, *bias)
                };
                let gate_up = side_by_side(stems.iter().map(|(stem, rows)| linear(stem, *rows, hidden)));
                let down = Part { linear: linear("down_proj", hidden, *width), out_col: 0 };
                MlpWeights::Dense(Gated { gate_up, down })
            }
        }
    }

    fn expert(&self, names: &Experts, layer_idx: usize, expert_idx: usize, width: usize) -> Gated<Tensor> {
        let hidden = self.spec.hidden;
        let matrix = |name: &str, rows: usize, cols: usize| {
            let name = name.replace("{}", &expert_idx.to_string());
            self.matrix(&format!("layers.{layer_idx}.{name}"), rows, cols)
        };
        let gate_up = [matrix(names.gate, width, hidden), matrix(names.up, width, hidden)];
        let down = Part { linear: matrix(names.down, hidden, width), out_col: 0 };
        Gated { gate_up: side_by_side(gate_up.into_iter()), down }
    }
}

fn side_by_side(tensors: impl Iterator<Item = Tensor>) -> Vec<Part<Tensor>> {
    let mut next_col = 0;
    let place = |linear: Tensor| {
        let out_col = next_col;
        next_col += linear.rows;
        Part { linear, out_col }
    };
    tensors.map(place).collect()
}
