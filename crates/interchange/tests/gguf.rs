//! Models go to GGUF and back, with the same bits; what is damaged or not known is an error that says so.

mod common;

use std::path::Path;

use common::{Made, bookworm, byte_level, made, object, read, sentencepiece};
use netweight_interchange::{ExportOptions, FloatType, ImportOptions, Report, WeightType, export, import};
use netweight_pack::{CompressOptions, Error, ErrorKind, Silent, compress};
use serde_json::{Value, json};

fn to_gguf(source: &Path, destination: &Path, weights: Option<WeightType>) -> Result<Report, Error> {
    export(source, destination, &ExportOptions { weights, ..ExportOptions::default() }, &Silent)
}

fn from_gguf(source: &Path, destination: &Path, dtype: Option<FloatType>) -> Result<Report, Error> {
    import(source, destination, &ImportOptions { dtype, force: false }, &Silent)
}

#[test]
fn the_bundled_model_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (file, back) = (folder.path().join("a.gguf"), folder.path().join("back"));
    let report = to_gguf(&bookworm(), &file, None).unwrap();
    assert_eq!((report.weights.as_str(), report.rounded, report.n_tensors), ("bf16", 0, 57));
    assert_eq!(report.destination_bytes, std::fs::metadata(&file).unwrap().len());
    let report = from_gguf(&file, &back, None).unwrap();
    assert_eq!((report.rounded, report.weights.as_str(), report.notes.len()), (0, "bf16", 0));
    assert!(read(&back) == read(&bookworm()));
    let (ours, theirs) = (object(&back, "tokenizer.json"), object(&bookworm(), "tokenizer.json"));
    for key in ["added_tokens", "normalizer", "pre_tokenizer", "post_processor"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert!(ours["model"]["vocab"] == theirs["model"]["vocab"] && ours["model"]["merges"] == theirs["model"]["merges"]);
    let (ours, theirs) = (object(&back, "config.json"), object(&bookworm(), "config.json"));
    for key in ["hidden_size", "head_dim", "rms_norm_eps", "vocab_size", "eos_token_id", "attention_bias"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    assert_eq!(ours["rope_theta"], theirs["rope_parameters"]["rope_theta"]);
    let (ours, theirs) = (object(&back, "tokenizer_config.json"), object(&bookworm(), "tokenizer_config.json"));
    assert_eq!(ours["chat_template"], theirs["chat_template"]);
    // Again is refused, and by force the same.
    assert!(from_gguf(&file, &back, None).unwrap_err().to_string().contains("already there"));
    assert!(to_gguf(&bookworm(), &file, None).unwrap_err().to_string().contains("already there"));
    import(&file, &back, &ImportOptions { dtype: None, force: true }, &Silent).unwrap();
    assert!(read(&back) == read(&bookworm()));
}

#[test]
fn an_archive_gives_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (raw, archive) = (folder.path().join("raw/model"), folder.path().join("packed/model"));
    made("Qwen3ForCausalLM", json!({})).write(&raw, &byte_level(None));
    compress(&raw, &archive, &CompressOptions::default(), &Silent).unwrap();
    let files = [folder.path().join("raw.gguf"), folder.path().join("packed.gguf")];
    to_gguf(&raw, &files[0], None).unwrap();
    to_gguf(&archive, &files[1], None).unwrap();
    assert!(std::fs::read(&files[0]).unwrap() == std::fs::read(&files[1]).unwrap());
    // The same of compressed-tensors, where config.json is rewritten.
    let folders = [folder.path().join("raw-int8"), folder.path().join("packed-int8")];
    to_gguf(&raw, &folders[0], Some(WeightType::Int8)).unwrap();
    to_gguf(&archive, &folders[1], Some(WeightType::Int8)).unwrap();
    assert!(read(&folders[0]) == read(&folders[1]));
    assert_eq!(object(&folders[0], "config.json"), object(&folders[1], "config.json"));
}

#[test]
fn every_family_comes_back() {
    let check = |made: Made, tokenizer: &Value, keys: &[&str]| {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let tensors = made.write(&place("a"), tokenizer);
        to_gguf(&place("a"), &place("a.gguf"), None).unwrap();
        from_gguf(&place("a.gguf"), &place("back"), None).unwrap();
        assert!(read(&place("back")) == tensors, "{}", made.architecture);
        let (config, ours) = (object(&place("a"), "config.json"), object(&place("back"), "config.json"));
        for key in keys.iter().chain(&["architectures", "model_type", "head_dim", "rms_norm_eps", "rope_theta"]) {
            assert_eq!(ours[*key], config[*key], "{} {key}", made.architecture);
        }
        let (ours, theirs) = (object(&place("back"), "tokenizer.json"), tokenizer);
        assert_eq!(
            ours["model"]["vocab"].as_object().unwrap().len()
                - usize::from(ours["added_tokens"][2]["content"] == "<tool>"),
            theirs["model"]["vocab"].as_object().unwrap().len()
        );
        for key in ["added_tokens", "post_processor"] {
            assert_eq!(ours[key], theirs[key], "{} {key}", made.architecture);
        }
    };
    let llama3 = json!({
        "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let llama = json!({"rope_scaling": llama3});
    check(made("LlamaForCausalLM", llama), &sentencepiece(), &["rope_scaling"]);
    let linear = json!({"rope_scaling": {"rope_type": "linear", "factor": 2.5}, "attention_bias": true});
    let biased = made("LlamaForCausalLM", linear).with_biases(&[("self_attn.o_proj", 128)]);
    check(biased, &byte_level(None), &["rope_scaling", "attention_bias"]);
    let experts = json!({"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": null});
    check(made("MixtralForCausalLM", experts), &sentencepiece(), &["num_local_experts", "num_experts_per_tok"]);
    let qwen = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    check(made("Qwen2ForCausalLM", json!({})).with_biases(&[]), &byte_level(Some(qwen)), &[]);
    check(made("Qwen3ForCausalLM", json!({})), &byte_level(Some(&qwen.replace(r"\p{N}|", r"\p{N}{1,3}|"))), &[]);
}

#[test]
fn rounding_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    to_gguf(&bookworm(), &place("q8.gguf"), Some(WeightType::Q8_0)).unwrap();
    let exact = from_gguf(&place("q8.gguf"), &place("f32"), Some(FloatType::F32)).unwrap();
    assert_eq!((exact.rounded, exact.weights.as_str()), (0, "f32"));
    let rounded = from_gguf(&place("q8.gguf"), &place("bf16"), None).unwrap();
    let (exact, rough) = (read(&place("f32")), read(&place("bf16")));
    let mut n_rounded = 0;
    for (name, (_, _, bytes)) in &exact {
        for (exact, rough) in bytes.as_chunks::<4>().0.iter().zip(rough[name].2.as_chunks::<2>().0) {
            n_rounded += u64::from(exact[..2] != [0, 0]);
            let distance = f32::from_le_bytes(*exact) - f32::from_le_bytes([0, 0, rough[0], rough[1]]);
            assert!(distance.abs() <= f32::from_le_bytes(*exact).abs() / 256.0, "{name}");
        }
    }
    assert_eq!((rounded.rounded, rounded.weights.as_str()), (n_rounded, "bf16"));
}

/// A GGUF file of the bundled model with some bytes in its place replaced by as many others.
fn edited(file: &Path, from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut bytes = std::fs::read(file).unwrap();
    let at = bytes.windows(from.len()).position(|window| window == from).expect("the bytes are there");
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn what_is_not_known_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (file, other, back) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"), folder.path().join("back"));
    to_gguf(&bookworm(), &file, None).unwrap();
    let check = |bytes: &[u8], kind: ErrorKind, expected: &str| {
        std::fs::write(&other, bytes).unwrap();
        let error = from_gguf(&other, &back, None).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!back.exists());
    };
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let architecture = edited(&file, &text("llama"), &text("lxyma"));
    check(&architecture, ErrorKind::Unsupported, "known are llama, qwen2, qwen3");
    check(&edited(&file, b"llama.vocab_size", b"llama.vocab_xxxx"), ErrorKind::Unsupported, "llama.vocab_xxxx");
    check(&edited(&file, &text("gpt-2"), &text("xxxxx")), ErrorKind::Unsupported, "llama-bpe, qwen2");
    check(&edited(&file, b"blk.5.ffn_up.weight", b"blk.5.ffn_xx.weight"), ErrorKind::Corrupt, "blk.5.ffn_up.weight");
    check(&edited(&file, b"blk.5.ffn_up.weight", b"blk.4.ffn_up.weight"), ErrorKind::Corrupt, "twice");
    // The type of a matrix: IQ4_NL, a type of blocks as large as Q4_0's.
    let shape = [256u64.to_le_bytes(), 768u64.to_le_bytes()].concat();
    let name = text("blk.2.ffn_up.weight");
    let info = [name.as_slice(), &2u32.to_le_bytes(), &shape].concat();
    let iq4 = [info.as_slice(), &20u32.to_le_bytes()].concat();
    check(&edited(&file, &info, &iq4), ErrorKind::Unsupported, "IQ4_NL");
    let whole = std::fs::read(&file).unwrap();
    for n_bytes in [3, 100, 5000, whole.len() / 2, whole.len() - 40] {
        check(&whole[..n_bytes], ErrorKind::Truncated, "truncated");
    }
    check(b"PK\x03\x04", ErrorKind::InvalidArgument, "not a GGUF file");
}

/// Headers with any byte changed are imported or refused, and nothing worse.
#[test]
fn damaged_headers_never_panic() {
    let folder = tempfile::tempdir().unwrap();
    let (file, other, back) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"), folder.path().join("back"));
    let scaling = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    });
    let config =
        json!({"num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": null, "rope_scaling": scaling});
    made("MixtralForCausalLM", config).write(&folder.path().join("a"), &sentencepiece());
    to_gguf(&folder.path().join("a"), &file, Some(WeightType::Q8_0)).unwrap();
    let whole = std::fs::read(&file).unwrap();
    let header_bytes = 12_000; // Most of metadata and tensors' places.
    let (mut n_imported, mut n_refused) = (0, 0);
    for (round, at) in (0..header_bytes).step_by(17).enumerate() {
        let mut damaged = whole.clone();
        damaged[at] = [damaged[at] ^ 1 << (round % 8), 0, 0xff][round % 3];
        std::fs::write(&other, damaged).unwrap();
        match import(&other, &back, &ImportOptions { dtype: None, force: true }, &Silent) {
            Ok(_) => n_imported += 1,
            Err(_) => n_refused += 1,
        }
    }
    assert!(n_imported > 10 && n_refused > 100, "{n_imported} {n_refused}");
}

#[test]
fn what_cannot_be_exported_is_named() {
    let check = |change: &dyn Fn(&mut Made, &mut Value), expected: &str| {
        let folder = tempfile::tempdir().unwrap();
        let (mut model, mut tokenizer) = (made("LlamaForCausalLM", json!({})), sentencepiece());
        change(&mut model, &mut tokenizer);
        model.write(&folder.path().join("a"), &tokenizer);
        let destination = folder.path().join("a.gguf");
        let error = to_gguf(&folder.path().join("a"), &destination, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(std::fs::read_dir(folder.path()).unwrap().count() == 1, "nothing is left behind");
    };
    check(&|made, _| made.architecture = "GemmaForCausalLM", "GemmaForCausalLM");
    check(&|made, _| made.config = json!({"sliding_window": 100, "use_sliding_window": true}), "sliding window");
    check(&|made, _| made.config = json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}), "dynamic");
    check(&|made, _| made.config = json!({"hidden_act": "gelu"}), "silu");
    check(&|made, _| made.config = json!({"quantization_config": {}}), "quantised already");
    check(&|made, _| made.config = json!({"num_attention_heads": 8}), "q_proj");
    check(&|made, _| made.tensors.push(("model.extra".to_owned(), vec![2])), "model.extra");
    check(&|made, _| made.tensors.retain(|tensor| tensor.0 != "model.norm.weight"), "model.norm.weight");
    check(&|_, tokenizer| tokenizer["model"]["type"] = json!("Unigram"), "other than BPE");
    check(&|_, tokenizer| tokenizer["model"]["merges"] = json!([["h", "e"]]), "do not follow");
    check(&|_, tokenizer| *tokenizer = byte_level(Some(".")), "gpt-2, llama-bpe, qwen2");
    check(&|_, tokenizer| tokenizer["added_tokens"][0]["id"] = json!(300), "no row");
}
