//! Tiny checkpoints of any family, with a tokenizer of either kind.
#![allow(dead_code, reason = "each test file uses some of it")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netweight_container::{Header, InputFile};
use serde_json::{Map, Value, json};

/// The bundled model.
pub fn bookworm() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm")
}

/// Name, type, shape and bytes of every tensor of a file.
pub type Tensors = BTreeMap<String, (String, Vec<u64>, Vec<u8>)>;

/// Reads model.safetensors of a folder.
pub fn read(folder: &Path) -> Tensors {
    let input = InputFile::open(&folder.join("model.safetensors")).unwrap();
    let (header, _) = Header::read(&input).unwrap();
    let bytes = |start: u64, end: u64| input.read_vec(header.header_bytes + start, end - start).unwrap();
    let entries = header.tensors.iter();
    entries.map(|e| (e.name.clone(), (e.dtype_name.clone(), e.shape.clone(), bytes(e.start, e.end)))).collect()
}

/// Writes model.safetensors.
pub fn write(folder: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(name.clone(), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        data.extend_from_slice(bytes);
    }
    let header = Value::Object(header).to_string();
    let file = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
}

/// A JSON file of a folder.
pub fn object(folder: &Path, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// bf16 values that are all different and of both signs.
pub fn floats(n_values: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let value = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (((state >> 48) as u16) & 0x83ff) | 0x3c00 // 2^-7 to 2^0
    });
    value.take(n_values as usize).flat_map(u16::to_le_bytes).collect()
}

/// What a test changes in a model.
pub struct Made {
    pub architecture: &'static str,
    pub config: Value,
    pub tensors: Vec<(String, Vec<u64>)>,
}

pub const HIDDEN: u64 = 128;
pub const WIDE: u64 = 256;
const ROWS: u64 = 300;

/// Config and shapes of a model of two layers: four heads of 32 rows, two of them for keys.
pub fn made(architecture: &'static str, config: Value) -> Made {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![ROWS, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![ROWS, HIDDEN]),
    ];
    for layer in 0..2 {
        let mut put = |name: &str, shape: &[u64]| {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape.to_vec()));
        };
        put("input_layernorm", &[HIDDEN]);
        put("post_attention_layernorm", &[HIDDEN]);
        put("self_attn.q_proj", &[128, HIDDEN]);
        put("self_attn.k_proj", &[64, HIDDEN]);
        put("self_attn.v_proj", &[64, HIDDEN]);
        put("self_attn.o_proj", &[HIDDEN, 128]);
        if architecture == "MixtralForCausalLM" {
            put("block_sparse_moe.gate", &[3, HIDDEN]);
            for expert in 0..3 {
                put(&format!("block_sparse_moe.experts.{expert}.w1"), &[WIDE, HIDDEN]);
                put(&format!("block_sparse_moe.experts.{expert}.w2"), &[HIDDEN, WIDE]);
                put(&format!("block_sparse_moe.experts.{expert}.w3"), &[WIDE, HIDDEN]);
            }
        } else {
            put("mlp.gate_proj", &[WIDE, HIDDEN]);
            put("mlp.up_proj", &[WIDE, HIDDEN]);
            put("mlp.down_proj", &[HIDDEN, WIDE]);
        }
        if architecture == "Qwen3ForCausalLM" {
            put("self_attn.q_norm", &[32]);
            put("self_attn.k_norm", &[32]);
        }
    }
    Made { architecture, config, tensors }
}

impl Made {
    /// Biases of q, k and v, and of `more`.
    pub fn with_biases(mut self, more: &[(&str, u64)]) -> Made {
        let all = [("self_attn.q_proj", 128), ("self_attn.k_proj", 64), ("self_attn.v_proj", 64)];
        for layer in 0..2 {
            for (name, n) in all.iter().chain(more) {
                self.tensors.push((format!("model.layers.{layer}.{name}.bias"), vec![*n]));
            }
        }
        self
    }

    /// Writes the folder, with that tokenizer.json.
    pub fn write(&self, folder: &Path, tokenizer: &Value) -> Tensors {
        std::fs::create_dir_all(folder).unwrap();
        let mut config = json!({
            "architectures": [self.architecture],
            "model_type": self.architecture.trim_end_matches("ForCausalLM").to_lowercase(),
            "hidden_size": HIDDEN,
            "intermediate_size": WIDE,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "vocab_size": ROWS,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_theta": 500000.0,
            "tie_word_embeddings": false,
        });
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
        std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        let named = json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "chat_template": "{{ messages }}"});
        std::fs::write(folder.join("tokenizer_config.json"), named.to_string()).unwrap();
        let rows = self.tensors.iter().enumerate();
        let tensors: Tensors = rows
            .map(|(seed, (name, shape))| {
                let bytes = floats(shape.iter().product(), seed as u64);
                (name.clone(), ("BF16".to_owned(), shape.clone(), bytes))
            })
            .collect();
        write(folder, &tensors);
        tensors
    }
}

/// tokenizer.json of byte-level BPE with a few merges; `pattern`: how words are cut, `None` as GPT-2 does.
pub fn byte_level(pattern: Option<&str>) -> Value {
    let mut tokens: Vec<String> = ["<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((b'!'..=b'~').map(|byte| char::from(byte).to_string()));
    tokens.extend(["Ġ", "Ċ", "th", "the", "Ġthe"].map(str::to_owned));
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    let step =
        |uses: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": uses});
    let cut =
        |pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let pre = match pattern {
        None => step(true),
        Some(pattern) => json!({"type": "Sequence", "pretokenizers": [cut(pattern), step(false)]}),
    };
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<s>", true), added(1, "</s>", true), added(tokens.len(), "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": pre,
        "post_processor": template("<s>", 0),
        "decoder": step(true),
        "model": {"type": "BPE", "vocab": vocab, "merges": ["t h", "th e", "Ġ the"]},
    })
}

/// tokenizer.json of SentencePiece's BPE.
pub fn sentencepiece() -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁t", "he", "▁the", "▁", "t", "h", "e"].map(str::to_owned));
    let vocab: Map<String, Value> = tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    json!({
        "version": "1.0",
        "added_tokens": [added(0, "<unk>", true), added(1, "<s>", true), added(2, "</s>", true)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        "pre_tokenizer": null,
        "post_processor": template("<s>", 1),
        "decoder": null,
        "model": {
            "type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "fuse_unk": true, "vocab": vocab,
            "merges": [["▁", "t"], ["h", "e"], ["▁t", "he"]],
        },
    })
}

fn added(id: usize, content: &str, special: bool) -> Value {
    json!({
        "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        "special": special,
    })
}

fn template(bos: &str, id: u32) -> Value {
    let token = |type_id: u32| json!({"SpecialToken": {"id": bos, "type_id": type_id}});
    let text = |name: &str, type_id: u32| json!({"Sequence": {"id": name, "type_id": type_id}});
    json!({
        "type": "TemplateProcessing",
        "single": [token(0), text("A", 0)],
        "pair": [token(0), text("A", 0), token(1), text("B", 1)],
        "special_tokens": {bos: {"id": bos, "ids": [id], "tokens": [bos]}},
    })
}
