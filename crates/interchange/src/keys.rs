//! A model in the words of GGUF: metadata in, a [`Model`] out, and back. Next in the flow: config.rs, which does that
//! for config.json.

use netweight_container::{Error, Result};

use crate::gguf::{Gguf, MetaValue, Metadata};
use crate::model::{Biases, FAMILIES, Family, Model, Rope, known};

/// Keys after the architecture's name that are understood. Others are refused: they may say that a model computes
/// something else.
const KEYS: [&str; 22] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.sliding_window",
    "attention.causal",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "tensor_data_layout",
];

/// Parameters of Llama 3's rotary embeddings that models were published with: a GGUF file has divisors instead.
const LLAMA3_SETS: [Rope; 2] = [
    Rope::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192 }, // Llama 3.1
    Rope::Llama3 { factor: 32.0, low: 1.0, high: 4.0, original: 8192 }, // Llama 3.2
];

/// Values of metadata under the architecture's name.
struct Scope<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
}

impl Scope<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn number(&self, key: &str) -> Result<Option<u64>> {
        self.metadata.number(&self.key(key))
    }

    fn needed(&self, key: &str) -> Result<u64> {
        self.number(key)?.ok_or_else(|| Error::corrupt(format!("there is no {}", self.key(key))))
    }

    fn float(&self, key: &str) -> Result<Option<f32>> {
        self.metadata.float(&self.key(key))
    }

    /// Refuses keys that nobody here understands, and values that would be another model.
    fn check(&self, family: &Family) -> Result<()> {
        let prefix = self.key("");
        for key in self.metadata.keys().filter_map(|key| key.strip_prefix(&prefix)) {
            if !KEYS.contains(&key) {
                return Err(Error::unsupported(format!("models with {prefix}{key}")));
            }
        }
        let window = self.number("attention.sliding_window")?;
        if window.is_some_and(|window| window > 0) && window < Some(self.needed("context_length")?) {
            return Err(Error::unsupported(format!("a sliding window in the architecture {}", family.gguf)));
        }
        if self.metadata.flag(&self.key("attention.causal"))? == Some(false) {
            return Err(Error::unsupported("attention that is not causal"));
        }
        let layout = self.metadata.text(&self.key("tensor_data_layout"))?;
        if layout.is_some_and(|layout| family.pairs_rows && layout != "Meta AI original pth") {
            return Err(Error::unsupported(format!("tensors laid out as {layout:?}")));
        }
        Ok(())
    }
}

/// The model that a file holds.
///
/// # Errors
/// `Unsupported` for what is not in the tables; `Corrupt`.
pub(crate) fn read(gguf: &Gguf) -> Result<Model> {
    let metadata = &gguf.metadata;
    if metadata.number("split.count")?.is_some_and(|n_files| n_files > 1) {
        return Err(Error::unsupported("one of several files; join them first with llama-gguf-split --merge"));
    }
    if let Some(kind) = metadata.text("general.type")?.filter(|kind| *kind != "model") {
        return Err(Error::unsupported(format!("a file that holds no model but {kind:?}")));
    }
    let architecture = metadata.text("general.architecture")?;
    let architecture = architecture.ok_or_else(|| Error::corrupt("there is no general.architecture"))?;
    let scope = Scope { metadata, architecture };
    let n_experts = scope.number("expert_count")?.unwrap_or(0);
    let mut named = FAMILIES.iter().filter(|family| family.gguf == architecture).peekable();
    if named.peek().is_none() {
        let known = known(|family| family.gguf);
        return Err(Error::unsupported(format!("the architecture {architecture:?}; known are {known}")));
    }
    let family = named.find(|family| family.has_experts == (n_experts > 0));
    let family = family.ok_or_else(|| Error::unsupported(format!("experts in the architecture {architecture}")))?;
    scope.check(family)?;
    let model = sizes(&scope, gguf, family, n_experts)?.checked()?;
    let rope = rope(&scope, gguf, &model)?;
    Ok(Model { rope, ..model })
}

fn sizes(scope: &Scope, gguf: &Gguf, family: &'static Family, n_experts: u64) -> Result<Model> {
    let has = |name: &str| gguf.tensors.contains_key(name);
    let embedding = gguf.tensors.get("token_embd.weight").map(|info| info.shape.as_slice());
    let Some(&[vocabulary, _]) = embedding else { return Err(Error::corrupt("there is no matrix token_embd.weight")) };
    let (hidden, n_heads) = (scope.needed("embedding_length")?, scope.needed("attention.head_count")?);
    let whole_heads = if n_heads > 0 && hidden.is_multiple_of(n_heads) { Some(hidden / n_heads) } else { None };
    let rotated = scope.number("rope.dimension_count")?;
    let head_dim = scope.number("attention.key_length")?.or(whole_heads).or(rotated).unwrap_or(0);
    if rotated.is_some_and(|rotated| rotated != head_dim) {
        return Err(Error::unsupported("heads of which only a part is rotated"));
    }
    if scope.number("attention.value_length")?.is_some_and(|n| n != head_dim) {
        return Err(Error::unsupported("values of another size than keys"));
    }
    let feed_forward = scope.needed("feed_forward_length")?;
    if n_experts > 0 && scope.number("expert_feed_forward_length")?.is_some_and(|n| n != feed_forward) {
        return Err(Error::unsupported("experts of another size than feed_forward_length"));
    }
    Ok(Model {
        family,
        n_layers: scope.needed("block_count")?,
        hidden,
        feed_forward,
        n_heads,
        n_kv_heads: scope.number("attention.head_count_kv")?.unwrap_or(n_heads),
        head_dim,
        vocabulary,
        positions: scope.needed("context_length")?,
        n_experts,
        n_used_experts: if n_experts > 0 { scope.needed("expert_used_count")? } else { 0 },
        eps: scope.float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5),
        theta: scope.float("rope.freq_base")?.unwrap_or(1e4),
        rope: Rope::Plain,
        is_tied: !has("output.weight"),
        attention_bias: family.biases == Biases::Qkv || has("blk.0.attn_q.bias"),
        mlp_bias: has("blk.0.ffn_gate.bias"),
    })
}

fn rope(scope: &Scope, gguf: &Gguf, model: &Model) -> Result<Rope> {
    let factor = scope.float("rope.scaling.factor")?.filter(|factor| *factor > 0.0);
    let kind = scope.metadata.text(&scope.key("rope.scaling.type"))?.unwrap_or("none");
    let no_factor = || Error::corrupt("there is no rope.scaling.factor above 0");
    let said = match kind {
        "none" => Rope::Plain,
        "linear" if factor.is_none_or(|factor| factor == 1.0) => Rope::Plain,
        "linear" => Rope::Linear { factor: factor.ok_or_else(no_factor)? },
        "yarn" => Rope::Yarn {
            factor: factor.ok_or_else(no_factor)?,
            original: scope.needed("rope.scaling.original_context_length")?,
        },
        _ => return Err(Error::unsupported(format!("rotary embeddings stretched by {kind:?}"))),
    };
    if !gguf.tensors.contains_key("rope_freqs.weight") {
        return Ok(said);
    }
    if said != Rope::Plain {
        return Err(Error::unsupported("rotary embeddings with both a scaling and rope_freqs.weight"));
    }
    Ok(Rope::Llama3 { factor: 0.0, low: 0.0, high: 0.0, original: model.positions }) // To be found by `find_llama3`.
}

/// Which published parameters give the divisors of `rope_freqs.weight`.
///
/// # Errors
/// `Unsupported` where none do.
pub(crate) fn find_llama3(model: &Model, divisors: &[f32]) -> Result<Rope> {
    if divisors.iter().all(|divisor| *divisor == 1.0) {
        return Ok(Rope::Plain);
    }
    let is_close = |ours: &f32, theirs: &f32| (ours - theirs).abs() <= 1e-3 * ours;
    let found = LLAMA3_SETS.into_iter().find(|rope| {
        let ours = Model { rope: *rope, ..model.clone() }.rope_divisors().unwrap_or_default();
        ours.len() == divisors.len() && ours.iter().zip(divisors).all(|(ours, theirs)| is_close(ours, theirs))
    });
    found.ok_or_else(|| {
        let what = "rotary embeddings that are not those of Llama 3.1 (factor 8) or 3.2 (factor 32)";
        Error::unsupported(what).in_tensor("rope_freqs.weight")
    })
}

/// Metadata that says what the model is.
pub(crate) fn write(model: &Model) -> Vec<(String, MetaValue)> {
    let architecture = model.family.gguf;
    let mut values = vec![("general.architecture".to_owned(), MetaValue::Text(architecture.to_owned()))];
    let mut put = |key: &str, value: MetaValue| values.push((format!("{architecture}.{key}"), value));
    let number = |n: u64| MetaValue::U32(u32::try_from(n).unwrap_or(u32::MAX)); // Sizes are below 2^31: `checked`.
    put("block_count", number(model.n_layers));
    put("context_length", number(model.positions));
    put("embedding_length", number(model.hidden));
    put("feed_forward_length", number(model.feed_forward));
    put("attention.head_count", number(model.n_heads));
    put("attention.head_count_kv", number(model.n_kv_heads));
    put("attention.key_length", number(model.head_dim));
    put("attention.value_length", number(model.head_dim));
    put("attention.layer_norm_rms_epsilon", MetaValue::F32(model.eps));
    put("rope.dimension_count", number(model.head_dim));
    put("rope.freq_base", MetaValue::F32(model.theta));
    put("vocab_size", number(model.vocabulary));
    if model.n_experts > 0 {
        put("expert_count", number(model.n_experts));
        put("expert_used_count", number(model.n_used_experts));
    }
    match model.rope {
        Rope::Plain | Rope::Llama3 { .. } => {}
        Rope::Linear { factor } => {
            put("rope.scaling.type", MetaValue::Text("linear".to_owned()));
            put("rope.scaling.factor", MetaValue::F32(factor));
        }
        Rope::Yarn { factor, original } => {
            put("rope.scaling.type", MetaValue::Text("yarn".to_owned()));
            put("rope.scaling.factor", MetaValue::F32(factor));
            put("rope.scaling.original_context_length", number(original));
        }
    }
    values
}
