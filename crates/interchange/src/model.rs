//! What a model is, as far as formats differ in saying it: sizes, rotary embeddings, and what its tensors are called
//! here and there. Next in the flow: keys.rs and config.rs, which read and write it.

use netweight_container::{Error, Result};

/// A family of models that both sides know.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    /// Name in `architectures` of config.json.
    pub(crate) architecture: &'static str,
    /// `model_type` of config.json.
    pub(crate) model_type: &'static str,
    /// `general.architecture` of GGUF.
    pub(crate) gguf: &'static str,
    /// Whether GGUF files have the rows of q and k in pairs of neighbours.
    pub(crate) pairs_rows: bool,
    /// Whether q and k are normed.
    pub(crate) qk_norm: bool,
    pub(crate) biases: Biases,
    pub(crate) has_experts: bool,
    /// What config.json means where it does not say: positions, base of rotary embeddings, size of a head.
    pub(crate) default_positions: u64,
    pub(crate) default_theta: f32,
    pub(crate) default_head_dim: Option<u64>,
    pub(crate) default_kv_heads: Option<u64>,
    pub(crate) default_eps: f32,
}

/// Which projections of an attention may have biases.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Biases {
    Never,
    /// q, k and v, always.
    Qkv,
    /// All four, where `attention_bias` says so.
    IfSaid,
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    gguf: "llama",
    pairs_rows: true,
    qk_norm: false,
    biases: Biases::IfSaid,
    has_experts: false,
    default_positions: 2048,
    default_theta: 1e4,
    default_head_dim: None,
    default_kv_heads: None,
    default_eps: 1e-6,
};

/// The families. Where several have the same name in GGUF, a file is imported as the first that has experts or none,
/// as the file has.
pub(crate) static FAMILIES: [Family; 5] = [
    LLAMA,
    Family {
        architecture: "MixtralForCausalLM",
        model_type: "mixtral",
        biases: Biases::Never,
        has_experts: true,
        default_positions: 131_072,
        default_theta: 1e6,
        default_kv_heads: Some(8),
        default_eps: 1e-5,
        ..LLAMA
    },
    Family {
        architecture: "MistralForCausalLM",
        model_type: "mistral",
        biases: Biases::Never,
        default_positions: 131_072,
        default_kv_heads: Some(8),
        ..LLAMA
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        model_type: "qwen2",
        gguf: "qwen2",
        pairs_rows: false,
        biases: Biases::Qkv,
        default_positions: 32_768,
        default_kv_heads: Some(32),
        ..LLAMA
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        model_type: "qwen3",
        gguf: "qwen3",
        pairs_rows: false,
        qk_norm: true,
        default_positions: 32_768,
        default_head_dim: Some(128),
        default_kv_heads: Some(32),
        ..LLAMA
    },
];

/// How rotary embeddings are stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rope {
    Plain,
    Linear {
        factor: f32,
    },
    /// Llama 3.1 and later.
    Llama3 {
        factor: f32,
        low: f32,
        high: f32,
        original: u64,
    },
    Yarn {
        factor: f32,
        original: u64,
    },
}

/// A model's sizes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    pub(crate) family: &'static Family,
    pub(crate) n_layers: u64,
    pub(crate) hidden: u64,
    pub(crate) feed_forward: u64,
    pub(crate) n_heads: u64,
    pub(crate) n_kv_heads: u64,
    pub(crate) head_dim: u64,
    pub(crate) vocabulary: u64,
    pub(crate) positions: u64,
    /// Experts of a layer, and how many a token goes through; 0 where there are none.
    pub(crate) n_experts: u64,
    pub(crate) n_used_experts: u64,
    pub(crate) eps: f32,
    pub(crate) theta: f32,
    pub(crate) rope: Rope,
    pub(crate) is_tied: bool,
    pub(crate) attention_bias: bool,
    pub(crate) mlp_bias: bool,
}

/// A tensor as both sides call it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    pub(crate) gguf: String,
    /// Names in a checkpoint: one, or one for each expert, which GGUF stacks.
    pub(crate) names: Vec<String>,
    /// Dimensions of each of them, as Hugging Face writes them.
    pub(crate) shape: Vec<u64>,
    /// Whether rows of heads change places.
    pub(crate) pairs_rows: bool,
    /// Whether it is a matrix that may be quantised; everything else stays in full precision in GGUF.
    pub(crate) is_matrix: bool,
}

impl Pair {
    /// Dimensions in GGUF, the one that varies slowest first.
    pub(crate) fn gguf_shape(&self) -> Vec<u64> {
        let is_stacked = self.gguf.contains("_exps.");
        let experts = is_stacked.then_some(self.names.len() as u64);
        experts.into_iter().chain(self.shape.iter().copied()).collect()
    }
}

impl Model {
    /// Every tensor that the model has, in the order of layers.
    pub(crate) fn pairs(&self) -> Vec<Pair> {
        let mut pairs = vec![matrix("token_embd.weight", "model.embed_tokens.weight", [self.vocabulary, self.hidden])];
        pairs.extend((0..self.n_layers).flat_map(|layer_idx| {
            let prefix = format!("model.layers.{layer_idx}.");
            let layer = self.attention().into_iter().chain(self.mlp());
            layer.map(move |pair| Pair {
                gguf: format!("blk.{layer_idx}.{}", pair.gguf),
                names: pair.names.iter().map(|name| format!("{prefix}{name}")).collect(),
                ..pair
            })
        }));
        pairs.push(vector("output_norm.weight", "model.norm.weight", self.hidden));
        if !self.is_tied {
            pairs.push(matrix("output.weight", "lm_head.weight", [self.vocabulary, self.hidden]));
        }
        pairs
    }

    fn attention(&self) -> Vec<Pair> {
        let (queries, keys) = (self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim);
        let hidden = self.hidden;
        let paired = |pair: Pair| Pair { pairs_rows: self.family.pairs_rows, ..pair };
        let mut pairs = vec![
            vector("attn_norm.weight", "input_layernorm.weight", hidden),
            paired(matrix("attn_q.weight", "self_attn.q_proj.weight", [queries, hidden])),
            paired(matrix("attn_k.weight", "self_attn.k_proj.weight", [keys, hidden])),
            matrix("attn_v.weight", "self_attn.v_proj.weight", [keys, hidden]),
            matrix("attn_output.weight", "self_attn.o_proj.weight", [hidden, queries]),
        ];
        if self.attention_bias {
            pairs.push(paired(vector("attn_q.bias", "self_attn.q_proj.bias", queries)));
            pairs.push(paired(vector("attn_k.bias", "self_attn.k_proj.bias", keys)));
            pairs.push(vector("attn_v.bias", "self_attn.v_proj.bias", keys));
        }
        if self.attention_bias && self.family.biases == Biases::IfSaid {
            pairs.push(vector("attn_output.bias", "self_attn.o_proj.bias", hidden));
        }
        if self.family.qk_norm {
            pairs.push(vector("attn_q_norm.weight", "self_attn.q_norm.weight", self.head_dim));
            pairs.push(vector("attn_k_norm.weight", "self_attn.k_norm.weight", self.head_dim));
        }
        pairs
    }

    fn mlp(&self) -> Vec<Pair> {
        let (wide, hidden) = (self.feed_forward, self.hidden);
        let mut pairs = vec![vector("ffn_norm.weight", "post_attention_layernorm.weight", hidden)];
        if self.n_experts > 0 {
            let router = matrix("ffn_gate_inp.weight", "block_sparse_moe.gate.weight", [self.n_experts, hidden]);
            pairs.push(Pair { is_matrix: false, ..router });
            let experts =
                [("gate", "w1", [wide, hidden]), ("down", "w2", [hidden, wide]), ("up", "w3", [wide, hidden])];
            pairs.extend(experts.map(|(gguf, name, shape)| {
                let name_of = |expert: u64| format!("block_sparse_moe.experts.{expert}.{name}.weight");
                let names = (0..self.n_experts).map(name_of).collect();
                Pair { names, ..matrix(&format!("ffn_{gguf}_exps.weight"), "", shape) }
            }));
            return pairs;
        }
        for (name, shape) in [("gate", [wide, hidden]), ("up", [wide, hidden]), ("down", [hidden, wide])] {
            pairs.push(matrix(&format!("ffn_{name}.weight"), &format!("mlp.{name}_proj.weight"), shape));
            if self.mlp_bias {
                pairs.push(vector(&format!("ffn_{name}.bias"), &format!("mlp.{name}_proj.bias"), shape[0]));
            }
        }
        pairs
    }

    /// Refuses sizes that no model has, before anything is computed with them.
    pub(crate) fn checked(self) -> Result<Model> {
        const MOST: u64 = 1 << 31;
        let sizes = [
            ("layers", self.n_layers),
            ("hidden size", self.hidden),
            ("feed-forward size", self.feed_forward),
            ("heads", self.n_heads),
            ("key and value heads", self.n_kv_heads),
            ("size of a head", self.head_dim),
            ("vocabulary", self.vocabulary),
        ];
        for (what, n) in sizes {
            if n == 0 || n > MOST {
                return Err(Error::corrupt(format!("the {what} cannot be {n}")));
            }
        }
        if self.n_layers.saturating_mul(self.n_experts.max(1)) > 100_000 {
            return Err(Error::corrupt("more than 100,000 layers, or experts of layers"));
        }
        if self.family.pairs_rows && !self.head_dim.is_multiple_of(2) {
            return Err(Error::corrupt("heads have an odd number of rows"));
        }
        let is_usable = |value: f32| value.is_finite() && value > 0.0;
        if !is_usable(self.eps) || !is_usable(self.theta) {
            return Err(Error::corrupt("the norms' epsilon or the base of rotary embeddings is not positive"));
        }
        Ok(self)
    }

    /// What frequencies of rotary embeddings are divided by, as `rope_freqs.weight` has them; (head_dim / 2,)
    pub(crate) fn rope_divisors(&self) -> Option<Vec<f32>> {
        let Rope::Llama3 { factor, low, high, original } = self.rope else { return None };
        let original = original as f64;
        let (factor, low, high) = (f64::from(factor), f64::from(low), f64::from(high));
        let divisor = |pair_idx: u64| {
            let exponent = 2.0 * pair_idx as f64 / self.head_dim as f64;
            let wavelength = std::f64::consts::TAU * f64::from(self.theta).powf(exponent);
            if wavelength < original / high {
                return 1.0;
            }
            if wavelength > original / low {
                return factor as f32;
            }
            let smooth = (original / wavelength - low) / (high - low);
            (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
        };
        Some((0..self.head_dim / 2).map(divisor).collect())
    }
}

fn matrix(gguf: &str, name: &str, shape: [u64; 2]) -> Pair {
    Pair {
        gguf: gguf.to_owned(),
        names: vec![name.to_owned()],
        shape: shape.to_vec(),
        pairs_rows: false,
        is_matrix: true,
    }
}

fn vector(gguf: &str, name: &str, len: u64) -> Pair {
    Pair { gguf: gguf.to_owned(), names: vec![name.to_owned()], shape: vec![len], pairs_rows: false, is_matrix: false }
}

/// Names of families, for messages.
pub(crate) fn known(name: impl Fn(&Family) -> &'static str) -> String {
    let mut names: Vec<&str> = FAMILIES.iter().map(name).collect();
    names.dedup();
    names.join(", ")
}
