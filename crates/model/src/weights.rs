//! What a decoder is made of: goes in a [`Spec`], comes out the tree of its tensors, and later the same tree of loaded
//! matrices and vectors. Next in the flow: model.rs.

use std::convert::Infallible;

use crate::families::{Experts, Family};
use crate::spec::{Layer, Mlp, Spec};

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

/// A matrix and where its product goes: columns `out_col..out_col + rows` of an output row.
#[derive(Clone, Debug)]
pub struct Part<M> {
    /// The matrix, with its bias.
    pub linear: M,
    /// First column of the output.
    pub out_col: usize,
}

/// All weights of a model: matrices `M` and vectors `V`.
#[derive(Clone, Debug)]
pub struct Weights<M, V> {
    /// (vocab, hidden)
    pub embed: Part<M>,
    /// First to last.
    pub layers: Vec<LayerWeights<M, V>>,
    /// (hidden)
    pub norm: V,
    /// (vocab, hidden); `None`: `embed`.
    pub head: Option<Part<M>>,
}

/// Weights of one layer.
#[derive(Clone, Debug)]
pub struct LayerWeights<M, V> {
    /// (hidden)
    pub before_attention: V,
    /// Together (q | k | v columns, hidden).
    pub qkv: Vec<Part<M>>,
    /// Norms of query and key heads: (head_dim) each.
    pub qk_norms: Option<[V; 2]>,
    /// (hidden, q columns)
    pub o: Part<M>,
    /// (hidden)
    pub after_attention: Option<V>,
    /// (hidden)
    pub before_mlp: V,
    /// The feed-forward part.
    pub mlp: MlpWeights<M>,
    /// (hidden)
    pub after_mlp: Option<V>,
}

/// Weights of a feed-forward part.
#[derive(Clone, Debug)]
pub enum MlpWeights<M> {
    /// One for all tokens.
    Dense(Gated<M>),
    /// Experts behind a router.
    Experts {
        /// (n_experts, hidden)
        router: Part<M>,
        /// (n_experts)
        experts: Vec<Gated<M>>,
    },
}

/// A gated feed-forward network.
#[derive(Clone, Debug)]
pub struct Gated<M> {
    /// Together (gate | up columns, hidden).
    pub gate_up: Vec<Part<M>>,
    /// (hidden, width)
    pub down: Part<M>,
}

/// Where weights come from.
pub trait Source {
    /// A loaded matrix with its bias, a backend's `Linear`.
    type Linear;
    /// A loaded vector, a backend's `Vector`.
    type Vector;
    /// What loading can fail with.
    type Error;

    /// Loads a matrix, and its bias if it has one.
    ///
    /// # Errors
    /// The source's own.
    fn linear(&mut self, tensor: &Tensor) -> Result<Self::Linear, Self::Error>;

    /// Loads a vector and transforms it.
    ///
    /// # Errors
    /// The source's own.
    fn vector(&mut self, tensor: &Tensor) -> Result<Self::Vector, Self::Error>;
}

impl Weights<Tensor, Tensor> {
    /// The same tree, loaded in the order of the forward pass.
    ///
    /// # Errors
    /// The source's own.
    pub fn load<S: Source>(&self, source: &mut S) -> Result<Weights<S::Linear, S::Vector>, S::Error> {
        Ok(Weights {
            embed: load_part(&self.embed, source)?,
            layers: self.layers.iter().map(|layer| layer.load(source)).collect::<Result<_, S::Error>>()?,
            norm: source.vector(&self.norm)?,
            head: self.head.as_ref().map(|head| load_part(head, source)).transpose()?,
        })
    }
}

impl LayerWeights<Tensor, Tensor> {
    fn load<S: Source>(&self, source: &mut S) -> Result<LayerWeights<S::Linear, S::Vector>, S::Error> {
        let before_attention = source.vector(&self.before_attention)?;
        let qkv = load_parts(&self.qkv, source)?;
        let qk_norms = match &self.qk_norms {
            Some([q, k]) => Some([source.vector(q)?, source.vector(k)?]),
            None => None,
        };
        Ok(LayerWeights {
            before_attention,
            qkv,
            qk_norms,
            o: load_part(&self.o, source)?,
            after_attention: self.after_attention.as_ref().map(|norm| source.vector(norm)).transpose()?,
            before_mlp: source.vector(&self.before_mlp)?,
            mlp: self.mlp.load(source)?,
            after_mlp: self.after_mlp.as_ref().map(|norm| source.vector(norm)).transpose()?,
        })
    }
}

impl MlpWeights<Tensor> {
    fn load<S: Source>(&self, source: &mut S) -> Result<MlpWeights<S::Linear>, S::Error> {
        match self {
            MlpWeights::Dense(gated) => gated.load(source).map(MlpWeights::Dense),
            MlpWeights::Experts { router, experts } => {
                let router = load_part(router, source)?;
                let experts = experts.iter().map(|expert| expert.load(source)).collect::<Result<_, S::Error>>()?;
                Ok(MlpWeights::Experts { router, experts })
            }
        }
    }
}

impl Gated<Tensor> {
    fn load<S: Source>(&self, source: &mut S) -> Result<Gated<S::Linear>, S::Error> {
        Ok(Gated { gate_up: load_parts(&self.gate_up, source)?, down: load_part(&self.down, source)? })
    }
}

fn load_part<S: Source>(part: &Part<Tensor>, source: &mut S) -> Result<Part<S::Linear>, S::Error> {
    Ok(Part { linear: source.linear(&part.linear)?, out_col: part.out_col })
}

fn load_parts<S: Source>(parts: &[Part<Tensor>], source: &mut S) -> Result<Vec<Part<S::Linear>>, S::Error> {
    parts.iter().map(|part| load_part(part, source)).collect()
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
