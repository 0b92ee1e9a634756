//! A model in the words of Hugging Face: config.json in, a [`Model`] out, and back. Next in the flow: tokens/mod.rs,
//! which does that for vocabularies.

use netweight_container::{Error, Result};
use serde_json::{Map, Value, json};

use crate::model::{Biases, FAMILIES, Model, Rope, known};
use crate::types::Type;

/// Which tokens config.json names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SpecialIds {
    pub(crate) bos: Option<u32>,
    /// The first is the end of a text; others end a turn.
    pub(crate) eos: Vec<u32>,
    pub(crate) pad: Option<u32>,
}

impl SpecialIds {
    /// `eos_token_id` as config.json spells it.
    pub(crate) fn eos_json(&self) -> Value {
        match self.eos.as_slice() {
            [] => Value::Null,
            [only] => json!(only),
            several => json!(several),
        }
    }
}

/// The shortest decimal that is this float: 1e-5 and not 9.999999747378752e-6.
fn decimal(value: f32) -> Value {
    format!("{value:e}").parse::<f64>().map_or(Value::Null, |value| json!(value))
}

/// config.json of a model whose weights are of type `dtype`.
pub(crate) fn write(model: &Model, dtype: Type, ids: &SpecialIds) -> Value {
    let family = model.family;
    let dtype = match dtype.name() {
        "BF16" => "bfloat16",
        "F16" => "float16",
        _ => "float32",
    };
    let mut config = json!({
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "bos_token_id": ids.bos,
        "eos_token_id": ids.eos_json(),
        "pad_token_id": ids.pad,
        "head_dim": model.head_dim,
        "hidden_act": "silu",
        "hidden_size": model.hidden,
        "initializer_range": 0.02,
        "intermediate_size": model.feed_forward,
        "max_position_embeddings": model.positions,
        "num_attention_heads": model.n_heads,
        "num_hidden_layers": model.n_layers,
        "num_key_value_heads": model.n_kv_heads,
        "rms_norm_eps": decimal(model.eps),
        "rope_theta": decimal(model.theta),
        "rope_scaling": rope_scaling(model.rope),
        "tie_word_embeddings": model.is_tied,
        "torch_dtype": dtype,
        "use_cache": true,
        "vocab_size": model.vocabulary,
    });
    match family.biases {
        Biases::IfSaid => config["attention_bias"] = json!(model.attention_bias),
        Biases::Qkv => config["use_sliding_window"] = json!(false),
        Biases::Never => config["sliding_window"] = Value::Null,
    }
    if family.model_type == "llama" {
        config["mlp_bias"] = json!(model.mlp_bias);
    }
    if family.has_experts {
        config["num_local_experts"] = json!(model.n_experts);
        config["num_experts_per_tok"] = json!(model.n_used_experts);
    }
    config
}

fn rope_scaling(rope: Rope) -> Value {
    match rope {
        Rope::Plain => Value::Null,
        Rope::Linear { factor } => json!({"rope_type": "linear", "factor": decimal(factor)}),
        Rope::Llama3 { factor, low, high, original } => json!({
            "rope_type": "llama3",
            "factor": decimal(factor),
            "low_freq_factor": decimal(low),
            "high_freq_factor": decimal(high),
            "original_max_position_embeddings": original,
        }),
        Rope::Yarn { factor, original } => json!({
            "rope_type": "yarn",
            "factor": decimal(factor),
            "original_max_position_embeddings": original,
        }),
    }
}

/// Fields of config.json.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    /// A field that is there and not null.
    fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    fn number(&self, name: &str) -> Result<Option<u64>> {
        let wrong = || Error::corrupt(format!("{name} is not a whole number"));
        self.get(name).map(|value| value.as_u64().ok_or_else(wrong)).transpose()
    }

    fn needed(&self, name: &str) -> Result<u64> {
        self.number(name)?.ok_or_else(|| Error::corrupt(format!("there is no {name}")))
    }

    fn float(&self, name: &str) -> Result<Option<f32>> {
        let wrong = || Error::corrupt(format!("{name} is not a number"));
        self.get(name).map(|value| value.as_f64().map(|value| value as f32).ok_or_else(wrong)).transpose()
    }

    fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(Value::as_str)
    }

    fn ids(&self, name: &str) -> Vec<u32> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        match self.get(name) {
            Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
            Some(value) => id(value).into_iter().collect(),
            None => Vec::new(),
        }
    }
}

/// The model that config.json describes.
///
/// # Errors
/// `Unsupported` for what is not in the tables; `Corrupt`.
pub(crate) fn read(config: &Map<String, Value>) -> Result<Model> {
    let fields = Fields(config);
    let architecture = fields.get("architectures").and_then(|names| names.get(0)).and_then(Value::as_str);
    let model_type = fields.text("model_type").unwrap_or_default();
    let is_it = |name: &str| FAMILIES.iter().find(|family| family.architecture == name);
    let family = match architecture {
        Some(architecture) => is_it(architecture),
        None => FAMILIES.iter().find(|family| family.model_type == model_type),
    };
    let family = family.ok_or_else(|| {
        let name = architecture.unwrap_or(model_type);
        let known = known(|family| family.architecture);
        Error::unsupported(format!("the architecture {name:?}; known are {known}"))
    })?;
    let positions = fields.number("max_position_embeddings")?.unwrap_or(family.default_positions);
    check_windows(&fields, positions)?;
    let (hidden, n_heads) = (fields.needed("hidden_size")?, fields.needed("num_attention_heads")?);
    let default_head = family.default_head_dim.unwrap_or(hidden.checked_div(n_heads).unwrap_or(0));
    let n_experts = if family.has_experts { fields.number("num_local_experts")?.unwrap_or(8) } else { 0 };
    let default_used = if n_experts > 0 { 2 } else { 0 };
    let model = Model {
        family,
        n_layers: fields.needed("num_hidden_layers")?,
        hidden,
        feed_forward: fields.needed("intermediate_size")?,
        n_heads,
        n_kv_heads: fields.number("num_key_value_heads")?.or(family.default_kv_heads).unwrap_or(n_heads),
        head_dim: fields.number("head_dim")?.unwrap_or(default_head),
        vocabulary: fields.needed("vocab_size")?,
        positions,
        n_experts,
        n_used_experts: if n_experts > 0 { fields.number("num_experts_per_tok")?.unwrap_or(default_used) } else { 0 },
        eps: fields.float("rms_norm_eps")?.unwrap_or(family.default_eps),
        theta: theta(&fields)?.unwrap_or(family.default_theta),
        rope: read_rope(&fields)?,
        is_tied: fields.flag("tie_word_embeddings"),
        attention_bias: match family.biases {
            Biases::Never => false,
            Biases::Qkv => true,
            Biases::IfSaid => fields.flag("attention_bias"),
        },
        mlp_bias: family.model_type == "llama" && fields.flag("mlp_bias"),
    };
    model.checked()
}

/// Refuses what other programs would compute differently.
fn check_windows(fields: &Fields, positions: u64) -> Result<()> {
    let is_used = fields.get("use_sliding_window").is_none_or(|value| value != &Value::Bool(false));
    let is_qwen = fields.text("model_type").is_some_and(|name| name.starts_with("qwen"));
    let counts = if is_qwen { fields.flag("use_sliding_window") } else { is_used };
    if counts && fields.number("sliding_window")?.is_some_and(|window| window < positions) {
        return Err(Error::unsupported("a sliding window: GGUF's architectures of this family have none"));
    }
    if fields.text("hidden_act").is_some_and(|name| name != "silu") {
        return Err(Error::unsupported("an activation other than silu"));
    }
    Ok(())
}

/// Fields about rotary embeddings: `rope_parameters`, or in older files `rope_scaling`.
fn rope_fields<'a>(fields: &'a Fields) -> Option<Fields<'a>> {
    let object = fields.get("rope_parameters").or_else(|| fields.get("rope_scaling"));
    object.and_then(Value::as_object).map(Fields)
}

fn theta(fields: &Fields) -> Result<Option<f32>> {
    let nested = rope_fields(fields).map(|rope| rope.float("rope_theta")).transpose()?.flatten();
    Ok(nested.or(fields.float("rope_theta")?))
}

fn read_rope(fields: &Fields) -> Result<Rope> {
    let Some(rope) = rope_fields(fields) else { return Ok(Rope::Plain) };
    let kind = rope.text("rope_type").or_else(|| rope.text("type")).unwrap_or("default");
    let float = |name: &str| {
        let value = rope.float(name)?;
        value.ok_or_else(|| Error::corrupt(format!("there is no {name} of rotary embeddings")))
    };
    let original = || match rope.number("original_max_position_embeddings")? {
        Some(original) => Ok(original),
        None => fields.needed("original_max_position_embeddings"),
    };
    match kind {
        "default" => Ok(Rope::Plain),
        "linear" => Ok(Rope::Linear { factor: float("factor")? }),
        "llama3" => Ok(Rope::Llama3 {
            factor: float("factor")?,
            low: float("low_freq_factor")?,
            high: float("high_freq_factor")?,
            original: original()?,
        }),
        "yarn" => {
            let usual = ["rope_type", "type", "factor", "original_max_position_embeddings", "rope_theta"];
            if let Some(name) = rope.0.keys().find(|name| !usual.contains(&name.as_str())) {
                return Err(Error::unsupported(format!("rotary embeddings of type yarn with {name}")));
            }
            Ok(Rope::Yarn { factor: float("factor")?, original: original()? })
        }
        _ => Err(Error::unsupported(format!("rotary embeddings of type {kind:?}"))),
    }
}

/// Tokens that config.json and generation_config.json name; the latter counts.
pub(crate) fn special_ids(config: &Map<String, Value>, generation: Option<&Map<String, Value>>) -> SpecialIds {
    let mut ids = SpecialIds::default();
    for fields in [Some(config), generation].into_iter().flatten().map(Fields) {
        ids.bos = fields.ids("bos_token_id").first().copied().or(ids.bos);
        ids.pad = fields.ids("pad_token_id").first().copied().or(ids.pad);
        let eos = fields.ids("eos_token_id");
        ids.eos = if eos.is_empty() { ids.eos } else { eos };
    }
    ids
}
