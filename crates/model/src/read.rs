//! Reads a declaration: go in the fields of `config.json` and their family's row, comes out a [`Spec`].
//!
//! Each rule is that of transformers' `configuration_*.py`. Next in the flow: rope.rs, then tensors.rs.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::families::{Biases, Experts, Family, Windows};
use crate::fields::{Fields, integer};
use crate::spec::limits::{
    MAX_EXPERTS, MAX_EXPERTS_IN_ALL, MAX_HEAD_DIM, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH,
};
use crate::spec::{Activation, Attention, Layer, Mlp, Routed, Spec};

/// `outer` is the configuration around this one, if it is part of a larger one.
pub(crate) fn read(family: &'static Family, fields: &Fields, outer: Option<&Fields>) -> Result<Spec> {
    let hidden = fields.count("hidden_size", MAX_WIDTH)?;
    let n_layers = fields.count("num_hidden_layers", MAX_LAYERS)?;
    let max_positions = fields.count("max_position_embeddings", MAX_POSITIONS)?;
    let attention = attention(family, fields, hidden)?;
    let windows = windows(family, fields, n_layers)?;
    let (ropes, rope_of) = crate::rope::read(family, fields, &windows, attention.head_dim, max_positions)?;
    let mut layers = Vec::with_capacity(n_layers);
    for (layer_idx, (window, rope_idx)) in windows.into_iter().zip(rope_of).enumerate() {
        let attention = Attention { window, rope_idx, ..attention };
        let mlp = mlp(family, fields, layer_idx)?;
        layers.push(Layer { attention, mlp, post_norms: family.norms.after_attention.is_some() });
    }
    let spec = Spec {
        vocab: fields.count("vocab_size", MAX_VOCAB)?,
        hidden,
        max_positions,
        norm_eps: fields.positive("rms_norm_eps")? as f32,
        norm_plus_one: family.norm_plus_one,
        embed_scale: family.scales_embeddings.then(|| (hidden as f64).sqrt() as f32),
        final_softcap: family
            .has_final_softcap
            .then(|| softcap(fields, "final_logit_softcapping"))
            .transpose()?
            .flatten(),
        // A model within a model says it outside, where it says it.
        is_tied: outer
            .filter(|outer| outer.has("tie_word_embeddings"))
            .unwrap_or(fields)
            .bool("tie_word_embeddings")?,
        ropes,
        layers,
        family,
    };
    if spec.routed().map(|routed| routed.n_experts).sum::<usize>() > MAX_EXPERTS_IN_ALL {
        return Err(Error::unsupported(fields.path("num_hidden_layers"), "too many experts in all"));
    }
    Ok(spec)
}

fn softcap(fields: &Fields, name: &str) -> Result<Option<f32>> {
    Ok(fields.positive_if_any(name)?.map(|cap| cap as f32))
}

/// The attention of every layer, but for window and rotary embedding.
fn attention(family: &Family, fields: &Fields, hidden: usize) -> Result<Attention> {
    if fields.bool("use_bidirectional_attention")? {
        return Err(Error::unsupported(fields.path("use_bidirectional_attention"), true));
    }
    let n_heads = fields.count("num_attention_heads", MAX_HEADS)?;
    let n_kv_heads = fields.count_if_any("num_key_value_heads", MAX_HEADS)?.unwrap_or(n_heads);
    if !n_heads.is_multiple_of(n_kv_heads) {
        let expected = format!("a divisor of num_attention_heads, {n_heads}");
        return Err(Error::invalid(fields.path("num_key_value_heads"), n_kv_heads, expected));
    }
    let head_dim = match fields.count_if_any("head_dim", MAX_HEAD_DIM)? {
        Some(head_dim) => head_dim,
        None if hidden.is_multiple_of(n_heads) && hidden / n_heads <= MAX_HEAD_DIM => hidden / n_heads,
        None => {
            let expected = format!("a multiple of num_attention_heads, {n_heads}, as there is no head_dim");
            return Err(Error::invalid(fields.path("hidden_size"), hidden, expected));
        }
    };
    if head_dim % 2 != 0 {
        return Err(Error::invalid(fields.path("head_dim"), head_dim, "an even number"));
    }
    if n_heads * head_dim > MAX_WIDTH {
        let expected = format!("at most {MAX_WIDTH} dimensions in all heads");
        return Err(Error::invalid(fields.path("num_attention_heads"), n_heads, expected));
    }
    let scaled_by = match family.query_scalar {
        Some(name) => fields.positive(name)?,
        None => head_dim as f64,
    };
    let (qkv_bias, o_bias) = match family.attention_bias {
        Biases::None => (false, false),
        Biases::Qkv => (true, false),
        Biases::ByField(name) => (fields.bool(name)?, fields.bool(name)?),
    };
    let softcap = if family.has_attention_softcap { softcap(fields, "attn_logit_softcapping")? } else { None };
    let scale = (1.0 / scaled_by.sqrt()) as f32;
    let qk_norm = family.qk_norm;
    Ok(Attention {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        softcap,
        window: None,
        rope_idx: 0,
        qk_norm,
        qkv_bias,
        o_bias,
    })
}

/// The window of each layer, by the family's rule.
fn windows(family: &Family, fields: &Fields, n_layers: usize) -> Result<Vec<Option<usize>>> {
    let window = || fields.count_if_any("sliding_window", MAX_POSITIONS);
    match family.windows {
        Windows::None => Ok(vec![None; n_layers]),
        Windows::All => Ok(vec![window()?; n_layers]),
        Windows::AllIfUsed => {
            let window = if fields.bool("use_sliding_window")? { window()? } else { None };
            Ok(vec![window; n_layers])
        }
        Windows::UpperIfUsed => {
            let window = if fields.bool("use_sliding_window")? { window()? } else { None };
            let first = fields.get("max_window_layers");
            let is_sliding = match &first {
                Some(first) => {
                    let expected = || Error::invalid(fields.path("max_window_layers"), first, "a number of layers");
                    let first = integer(first).ok_or_else(expected)?;
                    (0..n_layers).map(|layer_idx| window.is_some() && layer_idx >= first).collect()
                }
                None => return Err(Error::Missing { field: fields.path("max_window_layers") }),
            };
            typed_windows(fields, window, n_layers, is_sliding)
        }
        Windows::AllButEvery { default } => {
            let every = fields.count_if_any("sliding_window_pattern", MAX_LAYERS)?;
            let every = every.filter(|_| family.reads_pattern).unwrap_or(default);
            let is_sliding = (1..=n_layers).map(|number| number % every != 0).collect();
            typed_windows(fields, window()?, n_layers, is_sliding)
        }
    }
}

/// Windows by `layer_types`; where there is none, by the rule that stood in for it, `is_sliding`.
fn typed_windows(
    fields: &Fields,
    window: Option<usize>,
    n_layers: usize,
    is_sliding: Vec<bool>, // (n_layers)
) -> Result<Vec<Option<usize>>> {
    let name = "layer_types";
    let is_sliding = match fields.get(name) {
        None => is_sliding,
        Some(types) => {
            let expected = || Error::invalid(fields.path(name), &types, format!("a list of {n_layers} types"));
            let list = types.as_array().filter(|list| list.len() == n_layers).ok_or_else(expected)?;
            let of_type = |item: &Value| match item.as_str() {
                Some("sliding_attention") => Ok(true),
                Some("full_attention") => Ok(false),
                _ => Err(Error::unsupported(fields.path(name), item)),
            };
            list.iter().map(of_type).collect::<Result<Vec<bool>>>()?
        }
    };
    if window.is_none() && is_sliding.contains(&true) {
        return Err(Error::Missing { field: fields.path("sliding_window") });
    }
    Ok(is_sliding.into_iter().map(|is_sliding| window.filter(|_| is_sliding)).collect())
}

fn mlp(family: &Family, fields: &Fields, layer_idx: usize) -> Result<Mlp> {
    let activation = activation(family, fields)?;
    if let Some(experts) = &family.experts
        && is_routed(experts, fields, layer_idx)?
    {
        return routed(experts, fields, activation).map(Mlp::Experts);
    }
    let bias = family.mlp_bias.map(|name| fields.bool(name)).transpose()?.unwrap_or(false);
    Ok(Mlp::Dense { width: fields.count("intermediate_size", MAX_WIDTH)?, bias, activation })
}

fn activation(family: &Family, fields: &Fields) -> Result<Activation> {
    let name = family.activation_field;
    let found = fields.text(name)?.ok_or_else(|| Error::Missing { field: fields.path(name) })?;
    let row = ACTIVATIONS.iter().find(|(known, _)| *known == found);
    row.map(|(_, activation)| *activation).ok_or_else(|| Error::unsupported(fields.path(name), found))
}

fn is_routed(experts: &Experts, fields: &Fields, layer_idx: usize) -> Result<bool> {
    if !experts.has_dense_layers {
        return Ok(true);
    }
    let is_dense = match fields.get("mlp_only_layers") {
        None => false,
        Some(dense) => {
            let expected = || Error::invalid(fields.path("mlp_only_layers"), &dense, "a list of layers");
            let layers: Option<Vec<usize>> = dense.as_array().ok_or_else(expected)?.iter().map(integer).collect();
            layers.ok_or_else(expected)?.contains(&layer_idx)
        }
    };
    let step = fields.count("decoder_sparse_step", MAX_LAYERS)?;
    Ok(!is_dense && (layer_idx + 1).is_multiple_of(step))
}

fn routed(experts: &Experts, fields: &Fields, activation: Activation) -> Result<Routed> {
    // Both names are about: transformers maps one to the other.
    let written = ["num_local_experts", "num_experts"].into_iter().find(|name| fields.has(name));
    let n_experts = fields.count(written.unwrap_or("num_experts"), MAX_EXPERTS)?;
    let top_k = fields.count("num_experts_per_tok", MAX_EXPERTS)?;
    if top_k > n_experts {
        let expected = format!("at most the number of experts, {n_experts}");
        return Err(Error::invalid(fields.path("num_experts_per_tok"), top_k, expected));
    }
    let norm_top_k = experts.norm_field.map(|name| fields.bool(name)).transpose()?.unwrap_or(true);
    Ok(Routed { n_experts, top_k, width: fields.count(experts.width_field, MAX_WIDTH)?, norm_top_k, activation })
}

/// Names of activations in configurations.
const ACTIVATIONS: [(&str, Activation); 7] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_python_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::GeluErf),
];
