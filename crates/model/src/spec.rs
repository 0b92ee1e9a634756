//! What a decoder is: goes in `config.json`, comes out a [`Spec`], the whole declaration that the forward pass reads.
//!
//! Next in the flow: read.rs, which fills it, and tensors.rs.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::families::{self, Family};
use crate::fields::Fields;
use crate::read::read;
use crate::rope::Rope;

/// Limits on what a configuration may ask for. They are far above every published model and keep a damaged file from
/// reaching an allocation.
pub mod limits {
    /// Layers.
    pub const MAX_LAYERS: usize = 1024;
    /// Query heads.
    pub const MAX_HEADS: usize = 4096;
    /// Dimensions of one head.
    pub const MAX_HEAD_DIM: usize = 4096;
    /// Dimensions of hidden states, of all heads together, and of a feed-forward layer.
    pub const MAX_WIDTH: usize = 1 << 20;
    /// Tokens in the vocabulary.
    pub const MAX_VOCAB: usize = 1 << 24;
    /// Experts of one layer.
    pub const MAX_EXPERTS: usize = 4096;
    /// Experts of all layers together.
    pub const MAX_EXPERTS_IN_ALL: usize = 1 << 17;
    /// Positions of a context.
    pub const MAX_POSITIONS: usize = 1 << 30;
}

/// The declaration of one decoder.
///
/// All fields are there to be read. What [`Spec::from_config`] returns holds together; one that was changed by hand may
/// fail to load, or panic in a forward pass.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Tokens in the vocabulary.
    pub vocab: usize,
    /// Dimensions of a hidden state.
    pub hidden: usize,
    /// Longest context that the model was made for, in tokens.
    pub max_positions: usize,
    /// `eps` of every RMSNorm.
    pub norm_eps: f32,
    /// Whether norms multiply by `1 + w` and not by `w`.
    pub norm_plus_one: bool,
    /// What embeddings are multiplied with.
    pub embed_scale: Option<f32>,
    /// `cap * tanh(logit / cap)` over the logits.
    pub final_softcap: Option<f32>,
    /// Whether logits are computed with the matrix of the embeddings.
    pub is_tied: bool,
    /// Rotary embeddings; layers name theirs by index.
    pub ropes: Vec<Rope>,
    /// Layers, first to last.
    pub layers: Vec<Layer>,
    pub(crate) family: &'static Family,
}

/// One layer: attention, then a feed-forward part, each with a norm before and the residual around it.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// The attention.
    pub attention: Attention,
    /// The feed-forward part.
    pub mlp: Mlp,
    /// Whether a norm follows attention and feed-forward part too, before the residual is added.
    pub post_norms: bool,
}

/// Grouped-query attention. Query head `h` reads key and value head `h / (n_heads / n_kv_heads)`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Dimensions of a head; even.
    pub head_dim: usize,
    /// What scores `q . k` are multiplied with.
    pub scale: f32,
    /// `cap * tanh(score / cap)` over the scaled scores.
    pub softcap: Option<f32>,
    /// How many positions a token sees, its own included; `None`: all up to its own.
    pub window: Option<usize>,
    /// Index into [`Spec::ropes`].
    pub rope_idx: usize,
    /// Whether each head of q and k has an RMSNorm before it is rotated.
    pub qk_norm: bool,
    /// Biases of q, k and v.
    pub qkv_bias: bool,
    /// Bias of the output projection.
    pub o_bias: bool,
}

impl Attention {
    /// Columns of a row `q | k | v`.
    pub fn qkv_width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim
    }

    /// Columns of all query heads.
    pub fn q_width(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    pub fn kv_width(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }
}

/// The feed-forward part of a layer: `down(activation(gate x) * up x)`, once, or a weighted sum over the experts that a
/// token is sent to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mlp {
    /// One for all tokens.
    Dense {
        /// Columns of gate, and of up.
        width: usize,
        /// Biases of gate, up and down.
        bias: bool,
        /// The activation.
        activation: Activation,
    },
    /// Experts behind a router.
    Experts(Routed),
}

/// Experts behind a router: softmax over the router's logits, the `top_k` largest, lowest index first among equals.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routed {
    /// Experts.
    pub n_experts: usize,
    /// Experts that a token is sent to; at most `n_experts`.
    pub top_k: usize,
    /// Columns of an expert's gate, and of its up.
    pub width: usize,
    /// Whether the chosen experts' weights are divided by their sum.
    pub norm_top_k: bool,
    /// The activation.
    pub activation: Activation,
}

/// What the gate goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`
    Silu,
    /// `x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`
    GeluTanh,
    /// `x / 2 * (1 + erf(x / sqrt(2)))`
    GeluErf,
}

impl Spec {
    /// Reads `config.json`, as transformers 4 or 5 writes it.
    ///
    /// # Errors
    /// `NotJson`, `UnknownArchitecture`, `Missing`, `Invalid`, `Unsupported`. No text panics.
    pub fn from_config(json: &str) -> Result<Spec> {
        let value: Value = serde_json::from_str(json).map_err(|error| Error::NotJson(error.to_string()))?;
        let top = value.as_object().ok_or_else(|| Error::NotJson("not an object".to_owned()))?;
        let family = families::find(&Fields::new(top, &[], ""))?;
        let Some(part) = family.text_config else { return read(family, &Fields::new(top, family.defaults, ""), None) };
        let outer = Fields::new(top, family.defaults, "");
        let inner = outer.object(part)?.ok_or_else(|| Error::Missing { field: part.to_owned() })?;
        read(family, &Fields::new(inner, family.defaults, part), Some(&outer))
    }

    /// The name of the family, as `LlamaForCausalLM`.
    pub fn architecture(&self) -> &'static str {
        self.family.architecture
    }

    /// Largest number of experts that one token is sent to in a layer; 0 where all layers are dense.
    pub fn max_top_k(&self) -> usize {
        self.routed().map(|routed| routed.top_k).max().unwrap_or(0)
    }

    /// The routed layers' declarations.
    pub(crate) fn routed(&self) -> impl Iterator<Item = &Routed> {
        self.layers.iter().filter_map(|layer| match &layer.mlp {
            Mlp::Experts(routed) => Some(routed),
            Mlp::Dense { .. } => None,
        })
    }
}
