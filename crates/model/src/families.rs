//! The table of families: a row says what a family's configuration means and what its tensors are called.
//!
//! A family is a difference from another one. Sources: transformers' `configuration_*.py` and `modeling_*.py`.
//! Next in the flow: read.rs, which reads a configuration by its row.

use crate::error::{Error, Result, shortened};
use crate::fields::Fields;
use crate::fields::Preset::{self, Bool, Float, Int, Text};

/// One family.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    /// Name in `architectures`.
    pub architecture: &'static str,
    /// Name in `model_type`, for configurations without `architectures`.
    pub model_type: &'static str,
    /// Where the decoder's configuration stands, if it is part of a larger one.
    pub text_config: Option<&'static str>,
    /// What may stand before `layers.0...` in tensors' names; the usual one first.
    pub prefixes: &'static [&'static str],
    /// What may stand before `lm_head.weight`.
    pub head_prefixes: &'static [&'static str],
    /// What fields are when absent.
    pub defaults: &'static [(&'static str, Preset)],
    pub norms: Norms,
    pub norm_plus_one: bool,
    pub qk_norm: bool,
    /// Whether q, k, v are one matrix, and gate, up another.
    pub is_fused: bool,
    pub attention_bias: Biases,
    /// Field that says whether gate, up and down have biases.
    pub mlp_bias: Option<&'static str>,
    /// Field whose inverse root scales scores; `None`: the size of a head.
    pub query_scalar: Option<&'static str>,
    pub has_attention_softcap: bool,
    pub has_final_softcap: bool,
    pub scales_embeddings: bool,
    pub activation_field: &'static str,
    pub windows: Windows,
    /// Whether `sliding_window_pattern` is read.
    pub reads_pattern: bool,
    pub ropes: Ropes,
    pub experts: Option<Experts>,
}

/// Names of norms within a layer.
#[derive(Debug, PartialEq)]
pub(crate) struct Norms {
    pub before_attention: &'static str,
    pub after_attention: Option<&'static str>,
    pub before_mlp: &'static str,
    pub after_mlp: Option<&'static str>,
}

/// Which projections of an attention have biases.
#[derive(Debug, PartialEq)]
pub(crate) enum Biases {
    None,
    /// q, k and v.
    Qkv,
    /// All four, if the field says so.
    ByField(&'static str),
}

/// Which layers see a window, `sliding_window`, only.
#[derive(Debug, PartialEq)]
pub(crate) enum Windows {
    None,
    All,
    /// All, if `use_sliding_window`.
    AllIfUsed,
    /// By `layer_types`; else those from `max_window_layers` on, if `use_sliding_window`.
    UpperIfUsed,
    /// By `layer_types`; else all but every n-th.
    AllButEvery {
        default: usize,
    },
}

/// How rotary embeddings are configured.
#[derive(Debug, PartialEq)]
pub(crate) enum Ropes {
    /// One for all layers.
    Same {
        /// Whether only a part of each head may be rotated.
        may_be_partial: bool,
        /// Whether "yarn" is an old name of "longrope".
        yarn_is_longrope: bool,
    },
    /// One for layers with a window, one for the others.
    ByWindow,
}

/// How experts are configured and called.
#[derive(Debug, PartialEq)]
pub(crate) struct Experts {
    pub router: &'static str,
    /// `{}` is the expert's number.
    pub gate: &'static str,
    pub up: &'static str,
    pub down: &'static str,
    pub width_field: &'static str,
    /// Field that says whether chosen weights are divided by their sum; `None`: always.
    pub norm_field: Option<&'static str>,
    /// Whether `mlp_only_layers` and `decoder_sparse_step` may make layers dense.
    pub has_dense_layers: bool,
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    text_config: None,
    prefixes: &["model.", ""],
    head_prefixes: &["", "model."],
    defaults: &[
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(2048)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
    ],
    norms: Norms {
        before_attention: "input_layernorm",
        after_attention: None,
        before_mlp: "post_attention_layernorm",
        after_mlp: None,
    },
    norm_plus_one: false,
    qk_norm: false,
    is_fused: false,
    attention_bias: Biases::ByField("attention_bias"),
    mlp_bias: Some("mlp_bias"),
    query_scalar: None,
    has_attention_softcap: false,
    has_final_softcap: false,
    scales_embeddings: false,
    activation_field: "hidden_act",
    windows: Windows::None,
    reads_pattern: false,
    ropes: Ropes::Same { may_be_partial: false, yarn_is_longrope: false },
    experts: None,
};

const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    model_type: "mistral",
    defaults: &[
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(131_072)),
        ("num_key_value_heads", Int(8)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
        ("sliding_window", Int(4096)),
    ],
    attention_bias: Biases::None,
    mlp_bias: None,
    windows: Windows::All,
    ..LLAMA
};

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
    defaults: &[
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(32_768)),
        ("max_window_layers", Int(28)),
        ("num_key_value_heads", Int(32)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
        ("sliding_window", Int(4096)),
    ],
    attention_bias: Biases::Qkv,
    mlp_bias: None,
    windows: Windows::UpperIfUsed,
    ..LLAMA
};

const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    model_type: "qwen3",
    defaults: &[
        ("head_dim", Int(128)),
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(32_768)),
        ("max_window_layers", Int(28)),
        ("num_key_value_heads", Int(32)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
        ("sliding_window", Int(4096)),
    ],
    qk_norm: true,
    attention_bias: Biases::ByField("attention_bias"),
    ..QWEN2
};

const PHI3: Family = Family {
    architecture: "Phi3ForCausalLM",
    model_type: "phi3",
    defaults: &[
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(4096)),
        ("original_max_position_embeddings", Int(4096)),
        ("rms_norm_eps", Float(1e-5)),
        ("rope_theta", Float(1e4)),
    ],
    is_fused: true,
    attention_bias: Biases::None,
    mlp_bias: None,
    windows: Windows::All,
    ropes: Ropes::Same { may_be_partial: true, yarn_is_longrope: true },
    ..LLAMA
};

const GEMMA2: Family = Family {
    architecture: "Gemma2ForCausalLM",
    model_type: "gemma2",
    defaults: &[
        ("attn_logit_softcapping", Float(50.0)),
        ("final_logit_softcapping", Float(30.0)),
        ("head_dim", Int(256)),
        ("hidden_activation", Text("gelu_pytorch_tanh")),
        ("max_position_embeddings", Int(8192)),
        ("num_key_value_heads", Int(4)),
        ("query_pre_attn_scalar", Int(256)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
        ("sliding_window", Int(4096)),
        ("tie_word_embeddings", Bool(true)),
    ],
    norms: Norms {
        before_attention: "input_layernorm",
        after_attention: Some("post_attention_layernorm"),
        before_mlp: "pre_feedforward_layernorm",
        after_mlp: Some("post_feedforward_layernorm"),
    },
    norm_plus_one: true,
    mlp_bias: None,
    query_scalar: Some("query_pre_attn_scalar"),
    has_attention_softcap: true,
    has_final_softcap: true,
    scales_embeddings: true,
    activation_field: "hidden_activation",
    windows: Windows::AllButEvery { default: 2 },
    ..LLAMA
};

/// Transformers reads `attn_logit_softcapping` here too, and then does not use it; neither does this row.
const GEMMA3: Family = Family {
    architecture: "Gemma3ForCausalLM",
    model_type: "gemma3_text",
    prefixes: &["model.", "language_model.model.", "model.language_model.", "language_model.", ""],
    head_prefixes: &["", "language_model.", "model."],
    defaults: &[
        ("head_dim", Int(256)),
        ("hidden_activation", Text("gelu_pytorch_tanh")),
        ("hidden_size", Int(2304)),
        ("intermediate_size", Int(9216)),
        ("max_position_embeddings", Int(131_072)),
        ("num_attention_heads", Int(8)),
        ("num_hidden_layers", Int(26)),
        ("num_key_value_heads", Int(4)),
        ("query_pre_attn_scalar", Int(256)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_local_base_freq", Float(1e4)),
        ("rope_theta", Float(1e6)),
        ("sliding_window", Int(4096)),
        ("tie_word_embeddings", Bool(true)),
        ("vocab_size", Int(262_208)),
    ],
    qk_norm: true,
    has_attention_softcap: false,
    windows: Windows::AllButEvery { default: 6 },
    reads_pattern: true,
    ropes: Ropes::ByWindow,
    ..GEMMA2
};

const GEMMA3_NESTED: Family = Family {
    architecture: "Gemma3ForConditionalGeneration",
    model_type: "gemma3",
    text_config: Some("text_config"),
    prefixes: &["language_model.model.", "model.language_model.", "model.", "language_model.", ""],
    head_prefixes: &["language_model.", "", "model."],
    ..GEMMA3
};

const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    model_type: "mixtral",
    defaults: &[
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(131_072)),
        ("num_experts_per_tok", Int(2)),
        ("num_key_value_heads", Int(8)),
        ("num_experts", Int(8)),
        ("rms_norm_eps", Float(1e-5)),
        ("rope_theta", Float(1e6)),
    ],
    experts: Some(Experts {
        router: "block_sparse_moe.gate.weight",
        gate: "block_sparse_moe.experts.{}.w1.weight",
        up: "block_sparse_moe.experts.{}.w3.weight",
        down: "block_sparse_moe.experts.{}.w2.weight",
        width_field: "intermediate_size",
        norm_field: None,
        has_dense_layers: false,
    }),
    ..MISTRAL
};

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    defaults: &[
        ("decoder_sparse_step", Int(1)),
        ("hidden_act", Text("silu")),
        ("max_position_embeddings", Int(32_768)),
        ("moe_intermediate_size", Int(768)),
        ("num_experts", Int(128)),
        ("num_experts_per_tok", Int(8)),
        ("num_key_value_heads", Int(4)),
        ("rms_norm_eps", Float(1e-6)),
        ("rope_theta", Float(1e4)),
        ("sliding_window", Int(4096)),
    ],
    windows: Windows::AllIfUsed,
    experts: Some(Experts {
        router: "mlp.gate.weight",
        gate: "mlp.experts.{}.gate_proj.weight",
        up: "mlp.experts.{}.up_proj.weight",
        down: "mlp.experts.{}.down_proj.weight",
        width_field: "moe_intermediate_size",
        norm_field: Some("norm_topk_prob"),
        has_dense_layers: true,
    }),
    ..QWEN3
};

static FAMILIES: [Family; 10] = [LLAMA, MISTRAL, QWEN2, QWEN3, PHI3, GEMMA2, GEMMA3, GEMMA3_NESTED, MIXTRAL, QWEN3_MOE];

/// Names of all families, as in `architectures`.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.architecture)
}

/// The row that a configuration names in `architectures`, or in `model_type` where it names no architecture.
pub(crate) fn find(fields: &Fields) -> Result<&'static Family> {
    let first = fields.get("architectures").and_then(|list| list.get(0).cloned());
    let by_architecture = first.as_ref().and_then(|name| name.as_str());
    let model_type = fields.text("model_type")?;
    let family = match (by_architecture, &model_type) {
        (Some(name), _) => FAMILIES.iter().find(|family| family.architecture == name),
        (None, Some(name)) => FAMILIES.iter().find(|family| family.model_type == name),
        (None, None) => return Err(Error::Missing { field: fields.path("architectures") }),
    };
    let found = shortened(by_architecture.or(model_type.as_deref()).unwrap_or_default());
    family.ok_or_else(|| Error::UnknownArchitecture { found, known: architectures().collect() })
}
