//! Configurations: both spellings say the same, published models have the size they were published with, and no
//! damaged file does more than fail.

mod common;

use common::{CONTEXT_LEN, Fixture};
use netweight_model::{Error, Kind, Spec, architectures};
use serde_json::{Map, Value, json};

#[test]
fn both_spellings_say_the_same() {
    for fixture in Fixture::all() {
        let older =
            Spec::from_config(&fixture.older_config).unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
        assert_eq!(fixture.spec(), older, "{}", fixture.name);
    }
}

/// Without `architectures`, `model_type` says which family it is.
#[test]
fn model_type_stands_in() {
    for fixture in Fixture::all() {
        let mut config: Map<String, Value> = serde_json::from_str(&fixture.config).expect("a configuration");
        config.remove("architectures");
        let spec = Spec::from_config(&Value::Object(config).to_string()).expect("a known model type");
        assert_eq!(spec, fixture.spec(), "{}", fixture.name);
    }
}

#[test]
fn every_family_has_a_fixture() {
    let fixtures: Vec<Spec> = Fixture::all().iter().map(Fixture::spec).collect();
    for architecture in architectures() {
        assert!(fixtures.iter().any(|spec| spec.architecture() == architecture), "{architecture}");
    }
}

/// Checkpoints differ in what stands before a name; all tensors are found by one name or another.
#[test]
fn tensors_are_those_of_the_checkpoint() {
    for fixture in Fixture::all() {
        let mut n_found = 0;
        for tensor in fixture.spec().tensors() {
            let stored = tensor.names.iter().find_map(|name| fixture.weights.0.get(name));
            let stored = stored.unwrap_or_else(|| panic!("{}: no {:?}", fixture.name, tensor.names));
            assert_eq!(stored.shape, tensor.shape(), "{}: {}", fixture.name, tensor.name());
            assert!(fixture.weights.0.contains_key(tensor.name()), "{}: {}", fixture.name, tensor.name());
            n_found += 1;
        }
        let is_ours = |name: &&String| !name.contains("vision_tower") && !name.contains("multi_modal");
        assert_eq!(fixture.weights.0.keys().filter(is_ours).count(), n_found, "{}", fixture.name);
    }
}

/// Names with another start, or with none, are found too.
#[test]
fn tensors_have_other_names() {
    let names_of = |fixture: &str, idx: usize| {
        let tensors: Vec<_> = Fixture::open(fixture).spec().tensors().collect();
        tensors[idx].names.clone()
    };
    assert_eq!(names_of("llama2", 0), ["model.embed_tokens.weight", "embed_tokens.weight"]);
    let [first, last] = ["gemma3", "gemma3_nested"].map(|fixture| names_of(fixture, 1));
    for names in [&first, &last] {
        for start in ["model.", "language_model.model.", "model.language_model.", "language_model.", ""] {
            assert!(names.contains(&format!("{start}layers.0.input_layernorm.weight")), "{start}: {names:?}");
        }
    }
    let head = Fixture::open("phi3").spec().tensors().last().expect("a head");
    assert_eq!(head.names, ["lm_head.weight", "model.lm_head.weight"]);
}

/// Published models and their parameters, of which published figures count the same ones.
#[test]
fn published_models_have_their_size() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let long = json!({"type": "longrope", "short_factor": vec![1.0; 48], "long_factor": vec![2.0; 48]});
    check(
        "LlamaForCausalLM",
        8_030_261_248,
        json!({"vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "rope_scaling": llama3, "rope_theta": 5e5}),
    );
    check(
        "MistralForCausalLM",
        7_241_732_096,
        json!({"vocab_size": 32_000, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}),
    );
    check(
        "Qwen2ForCausalLM",
        494_032_768,
        json!({"vocab_size": 151_936, "hidden_size": 896,
        "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "tie_word_embeddings": true}),
    );
    check(
        "Qwen3ForCausalLM",
        596_049_920,
        json!({"vocab_size": 151_936, "hidden_size": 1024,
        "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8,
        "head_dim": 128, "tie_word_embeddings": true}),
    );
    check(
        "Phi3ForCausalLM",
        3_821_079_552,
        json!({"vocab_size": 32_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32}),
    );
    check(
        "Phi3ForCausalLM",
        3_836_021_760,
        json!({"vocab_size": 200_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 24, "num_key_value_heads": 8,
        "partial_rotary_factor": 0.75, "rope_scaling": long, "max_position_embeddings": 131_072,
        "sliding_window": 262_144, "tie_word_embeddings": true}),
    );
    check(
        "Gemma2ForCausalLM",
        2_614_341_888,
        json!({"vocab_size": 256_000, "hidden_size": 2304,
        "intermediate_size": 9216, "num_hidden_layers": 26, "num_attention_heads": 8}),
    );
    check(
        "Gemma3ForCausalLM",
        999_885_952,
        json!({"vocab_size": 262_144, "hidden_size": 1152,
        "intermediate_size": 6912, "num_hidden_layers": 26, "num_attention_heads": 4, "num_key_value_heads": 1}),
    );
    // Published with half of its fields: 4 300 079 472, less 419 816 304 that see.
    check(
        "Gemma3ForConditionalGeneration",
        3_880_263_168,
        json!({"text_config": {"hidden_size": 2560,
        "intermediate_size": 10_240, "num_hidden_layers": 34, "sliding_window": 1024,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}}),
    );
    check(
        "MixtralForCausalLM",
        46_702_792_704,
        json!({"vocab_size": 32_000, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_local_experts": 8}),
    );
    check(
        "Qwen3MoeForCausalLM",
        30_532_122_624,
        json!({"vocab_size": 151_936, "hidden_size": 2048,
        "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128}),
    );
}

fn check(architecture: &str, n_parameters: usize, mut config: Value) {
    config["architectures"] = json!([architecture]);
    let spec = Spec::from_config(&config.to_string()).unwrap_or_else(|error| panic!("{architecture}: {error}"));
    let n_elements: usize = spec.tensors().map(|tensor| tensor.rows * tensor.cols).sum();
    assert_eq!(n_elements, n_parameters, "{architecture}");
}

#[test]
fn which_layers_have_windows() {
    let windows = |config: Value| -> Vec<Option<usize>> {
        let mut all = json!({"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2,
            "num_key_value_heads": 1, "num_hidden_layers": 4, "sliding_window": 5});
        all.as_object_mut().expect("an object").extend(config.as_object().expect("an object").clone());
        let spec = Spec::from_config(&all.to_string()).expect("a configuration");
        spec.layers.iter().map(|layer| layer.attention.window).collect()
    };
    let (yes, no) = (Some(5), None);
    let of = |name: &str| json!([format!("{name}ForCausalLM")]);
    assert_eq!(windows(json!({"architectures": of("Llama")})), [no; 4]);
    assert_eq!(windows(json!({"architectures": of("Mistral")})), [yes; 4]);
    assert_eq!(windows(json!({"architectures": of("Mistral"), "sliding_window": null})), [no; 4]);
    assert_eq!(windows(json!({"architectures": of("Mixtral")})), [yes; 4]);
    assert_eq!(windows(json!({"architectures": of("Qwen2"), "max_window_layers": 1})), [no; 4]);
    let upper = json!({"architectures": of("Qwen3"), "use_sliding_window": true, "max_window_layers": 3});
    assert_eq!(windows(upper), [no, no, no, yes]);
    assert_eq!(windows(json!({"architectures": of("Qwen3Moe"), "use_sliding_window": true})), [yes; 4]);
    assert_eq!(windows(json!({"architectures": of("Qwen3Moe")})), [no; 4]);
    assert_eq!(windows(json!({"architectures": of("Gemma2")})), [yes, no, yes, no]);
    assert_eq!(windows(json!({"architectures": of("Gemma3"), "sliding_window_pattern": 3})), [yes, yes, no, yes]);
    let types = json!(["full_attention", "sliding_attention", "sliding_attention", "full_attention"]);
    assert_eq!(windows(json!({"architectures": of("Gemma2"), "layer_types": types})), [no, yes, yes, no]);
}

/// A field of a small Llama, what it becomes, and a word of the error.
#[test]
fn errors_say_what_is_wrong() {
    let rows = [
        ("architectures", json!(["MambaForCausalLM"]), "unknown architecture \"MambaForCausalLM\"; known: Llama"),
        ("architectures", json!(null), "no \"architectures\""),
        ("hidden_size", json!(null), "no \"hidden_size\""),
        ("hidden_size", json!(33), "\"hidden_size\" is 33, expected a multiple of num_attention_heads, 4"),
        ("num_attention_heads", json!(0), "\"num_attention_heads\" is 0, expected an integer from 1"),
        ("num_key_value_heads", json!(3), "expected a divisor of num_attention_heads, 4"),
        ("head_dim", json!(7), "\"head_dim\" is 7, expected an even number"),
        ("rms_norm_eps", json!(-1e-6), "\"rms_norm_eps\" is -1e-6, expected a number above zero"),
        ("vocab_size", json!(1e18), "\"vocab_size\" is 1e+18, expected an integer"),
        ("num_hidden_layers", json!("two"), "\"num_hidden_layers\" is \"two\""),
        ("hidden_act", json!("mish"), "asks for mish, which is not supported"),
        ("rope_scaling", json!({"type": "dynamic", "factor": 2.0}), "\"rope_scaling.rope_type\" asks for dynamic"),
        ("rope_scaling", json!({"type": "linear"}), "no \"rope_scaling.factor\""),
        ("rope_scaling", json!({"type": "longrope", "short_factor": [1.0]}), "\"rope_scaling."),
        ("partial_rotary_factor", json!(0.5), "partial_rotary_factor\" asks for 0.5"),
    ];
    for (field, value, expected) in rows {
        let mut config = json!({"architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 32,
            "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4});
        assert!(Spec::from_config(&config.to_string()).is_ok());
        config[field] = value;
        let error = Spec::from_config(&config.to_string()).expect_err(field).to_string();
        assert!(error.contains(expected), "{field}: {error}");
    }
    for text in ["", "[]", "7", "{", "\u{0}"] {
        assert!(matches!(Spec::from_config(text), Err(Error::NotJson(_))), "{text:?}");
    }
}

/// Each field of each fixture becomes something else; what still counts as a model must have a sane list of tensors.
#[test]
fn no_damaged_field_panics() {
    let others = [
        json!(null),
        json!(0),
        json!(-1),
        json!(1),
        json!(3),
        json!(0.5),
        json!(1e300),
        json!(1e-300),
        json!(-1e300),
        json!(u64::MAX),
        json!(1 << 20),
        json!("x"),
        json!(""),
        json!([]),
        json!([1, 2]),
        json!([null]),
        json!({}),
        json!({"full_attention": 1}),
        json!(true),
        json!(false),
    ];
    let (mut n_read, mut n_refused) = (0, 0);
    for fixture in Fixture::all() {
        for text in [&fixture.config, &fixture.older_config] {
            let config: Value = serde_json::from_str(text).expect("a configuration");
            for path in paths(&config) {
                for other in others.iter().map(Some).chain([None]) {
                    match Spec::from_config(&damaged(&config, &path, other).to_string()) {
                        Ok(spec) => sane(&spec),
                        Err(_) => n_refused += 1,
                    }
                    n_read += 1;
                }
            }
        }
    }
    assert!(n_read > 10_000 && n_refused > n_read / 4, "{n_refused} of {n_read}");
}

fn sane(spec: &Spec) {
    let tensors: Vec<_> = if spec.layers.len() < 16 { spec.tensors().collect() } else { Vec::new() };
    assert!(tensors.iter().all(|tensor| tensor.rows > 0 && tensor.cols > 0 && !tensor.names.is_empty()));
    assert!(tensors.iter().all(|tensor| tensor.kind != Kind::Vector || tensor.cols == 1));
    for rope in &spec.ropes {
        assert!(rope.table(CONTEXT_LEN).iter().all(|number| number.is_finite()));
        assert!(spec.layers.iter().all(|layer| rope.rotary_dim <= layer.attention.head_dim));
    }
}

/// Where each value of a configuration stands, as keys and indices.
fn paths(value: &Value) -> Vec<Vec<String>> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(key, child)| (key.clone(), child)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(idx, child)| (idx.to_string(), child)).collect(),
        _ => Vec::new(),
    };
    let below = |(key, child): (String, &Value)| {
        let start = [vec![key.clone()]];
        start.into_iter().chain(paths(child).into_iter().map(move |path| [vec![key.clone()], path].concat()))
    };
    children.into_iter().flat_map(|child| below(child).collect::<Vec<_>>()).collect()
}

/// The configuration with another value at a path, or none.
fn damaged(config: &Value, path: &[String], other: Option<&Value>) -> Value {
    let mut config = config.clone();
    let (last, before) = path.split_last().expect("a path");
    let parent = before.iter().fold(&mut config, |value, key| match value {
        Value::Array(list) => &mut list[key.parse::<usize>().expect("an index")],
        value => &mut value[key],
    });
    match (parent, other) {
        (Value::Object(object), Some(other)) => drop(object.insert(last.clone(), other.clone())),
        (Value::Object(object), None) => drop(object.remove(last)),
        (Value::Array(list), Some(other)) => list[last.parse::<usize>().expect("an index")] = other.clone(),
        (Value::Array(list), None) => drop(list.remove(last.parse::<usize>().expect("an index"))),
        _ => unreachable!("paths lead through objects and lists"),
    }
    config
}
