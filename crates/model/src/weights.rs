//! The tree of a decoder's weights: goes in the tree of its tensors, comes out the same tree of loaded matrices and
//! vectors. Next in the flow: model.rs.

use crate::tensors::Tensor;

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

impl<M, V> Weights<M, V> {
    /// Every matrix, in the order of the forward pass.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = &mut M> {
        let layers = self.layers.iter_mut().flat_map(LayerWeights::parts_mut);
        std::iter::once(&mut self.embed).chain(layers).chain(&mut self.head).map(|part| &mut part.linear)
    }
}

impl<M, V> LayerWeights<M, V> {
    fn parts_mut(&mut self) -> impl Iterator<Item = &mut Part<M>> {
        let (router, gated): (Option<&mut Part<M>>, &mut [Gated<M>]) = match &mut self.mlp {
            MlpWeights::Dense(gated) => (None, std::slice::from_mut(gated)),
            MlpWeights::Experts { router, experts } => (Some(router), experts),
        };
        let gated = gated.iter_mut().flat_map(|gated| gated.gate_up.iter_mut().chain(std::iter::once(&mut gated.down)));
        self.qkv.iter_mut().chain(std::iter::once(&mut self.o)).chain(router).chain(gated)
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
