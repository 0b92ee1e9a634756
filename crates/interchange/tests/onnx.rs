//! Models go to ONNX: graphs hold together, and weights are those of the source. That ONNX Runtime computes what
//! transformers does is tested in python/integrations/test_onnx.py.

mod common;
#[allow(dead_code, reason = "numbers that are only written")]
#[path = "../src/onnx/proto.rs"]
mod proto;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use common::{HIDDEN, Made, Tensors, bookworm, byte_level, floats, made, object, write};
use half::bf16;
use netweight_interchange::{ExportOptions, FloatType, Format, ImportOptions, Report, WeightType, export, import};
use netweight_pack::{CompressOptions, Silent, compress_grids};
use netweight_tensor::Grid;
use prost::Message;
use proto::data_type;
use serde_json::{Value, json};

/// A model that was exported, and its initializers with their bytes.
struct Exported {
    model: proto::Model,
    tensors: BTreeMap<String, (i32, Vec<i64>, Vec<u8>)>,
    config: Value,
    report: Report,
}

fn onnx(weights: Option<WeightType>, standard_ops: bool) -> ExportOptions {
    ExportOptions { weights, format: Some(Format::Onnx), standard_ops, force: false }
}

fn exported(source: &Path, options: &ExportOptions) -> Exported {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("onnx");
    let report = export(source, &place, options, &Silent).unwrap();
    let files = ["model.onnx", "model.onnx.data"].map(|name| std::fs::read(place.join(name)).unwrap());
    let model = proto::Model::decode(files[0].as_slice()).unwrap();
    assert!(place.join("tokenizer.json").exists());
    let mut end = 0;
    let mut tensors = BTreeMap::new();
    for tensor in &model.graph.as_ref().unwrap().initializer {
        let bytes = match &tensor.raw_data {
            Some(bytes) => bytes.clone(),
            None => {
                let fields: HashMap<&str, &str> =
                    tensor.external_data.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect();
                let number = |key: &str| fields[key].parse::<usize>().unwrap();
                let (offset, length) = (number("offset"), number("length"));
                assert_eq!((fields["location"], tensor.data_location), ("model.onnx.data", Some(1)));
                assert!(offset >= end && offset % if length < 4096 { 64 } else { 4096 } == 0, "{}", tensor.name);
                assert!(offset - end < 4096);
                end = offset + length;
                files[1][offset..end].to_vec()
            }
        };
        let of_type = match tensor.data_type {
            data_type::UINT8 | data_type::INT8 => 1,
            data_type::FLOAT16 | data_type::BFLOAT16 => 2,
            data_type::FLOAT | data_type::INT32 => 4,
            _ => 8,
        };
        assert_eq!(bytes.len() as i64, of_type * tensor.dims.iter().product::<i64>(), "{}", tensor.name);
        let row = (tensor.data_type, tensor.dims.clone(), bytes);
        assert!(tensors.insert(tensor.name.clone(), row).is_none(), "{} is there twice", tensor.name);
    }
    assert_eq!(end, files[1].len());
    Exported { model, tensors, config: object(&place, "config.json"), report }
}

/// Every value is made before it is read, by one node, and read by some; outputs are made.
fn check_graph(exported: &Exported) {
    let graph = exported.model.graph.as_ref().unwrap();
    let mut known: HashSet<&str> = exported.tensors.keys().map(String::as_str).collect();
    for input in &graph.input {
        assert!(known.insert(&input.name), "{}", input.name);
    }
    let (mut read, mut names) = (HashSet::new(), HashSet::new());
    for node in &graph.node {
        assert!(names.insert(&node.name), "{}", node.name);
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{} reads {input} too early", node.name);
            read.insert(input.as_str());
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is made twice");
        }
    }
    let outputs: Vec<&str> = graph.output.iter().map(|output| output.name.as_str()).collect();
    assert!(outputs.iter().all(|output| known.contains(output)));
    let unread: Vec<&&str> = known.iter().filter(|name| !read.contains(**name) && !outputs.contains(name)).collect();
    assert!(unread.is_empty(), "{unread:?}");
    assert_eq!(outputs[0], "logits");
    let inputs: Vec<&str> = graph.input.iter().map(|input| input.name.as_str()).collect();
    assert_eq!(inputs[..4], ["input_ids", "attention_mask", "position_ids", "past_key_values.0.key"]);
    assert_eq!(inputs.len() - 3, outputs.len() - 1);
    assert_eq!(outputs[2], "present.0.value");
}

fn domains(exported: &Exported) -> Vec<&str> {
    exported.model.opset_import.iter().map(|opset| opset.domain.as_str()).collect()
}

#[test]
fn graphs_of_all_families_hold_together() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                        "original_max_position_embeddings": 1024});
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
    let mut tied = made("Qwen2ForCausalLM", json!({"tie_word_embeddings": true})).with_biases(&[]);
    tied.tensors.retain(|(name, _)| name != "lm_head.weight");
    let models: [Made; 5] = [
        made("LlamaForCausalLM", json!({"rope_scaling": llama3})),
        made("LlamaForCausalLM", json!({"attention_bias": true})).with_biases(&[("self_attn.o_proj", HIDDEN)]),
        made("MistralForCausalLM", json!({"sliding_window": 8})),
        tied,
        made("Qwen3ForCausalLM", json!({"rope_scaling": yarn})),
    ];
    for model in &models {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a");
        let original = model.write(&source, &byte_level(None));
        let n_values: u64 = original.values().map(|row| row.1.iter().product::<u64>()).sum();
        for (weights, standard) in [
            (None, false),
            (Some(WeightType::Float(FloatType::F32)), true),
            (Some(WeightType::Int8), false),
            (Some(WeightType::Int8), true),
        ] {
            let exported = exported(&source, &onnx(weights, standard));
            check_graph(&exported);
            let uses_more = weights == Some(WeightType::Int8) && !standard;
            assert_eq!(domains(&exported).contains(&"com.microsoft"), uses_more);
            assert_eq!(exported.report.n_values, n_values, "{}", model.architecture);
            assert_eq!(exported.config, object(&source, "config.json"));
        }
    }
}

#[test]
fn floats_are_those_of_the_source() {
    let source = common::read(&bookworm());
    let check = |weights: Option<WeightType>, number: i32, rounded: bool, to: fn(f32) -> Vec<u8>| {
        let exported = exported(&bookworm(), &onnx(weights, false));
        for (name, (_, shape, bytes)) in &source {
            let (data_type, dims, found) = &exported.tensors[name];
            assert_eq!(dims.iter().map(|&n| n as u64).collect::<Vec<_>>(), *shape);
            let values = bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32());
            let is_vector = shape.len() == 1;
            assert_eq!(*data_type, if is_vector { data_type::FLOAT } else { number }, "{name}");
            let expected: Vec<u8> =
                if is_vector { values.flat_map(f32::to_le_bytes).collect() } else { values.flat_map(to).collect() };
            assert!(*found == expected, "{name}");
        }
        assert_eq!((exported.report.rounded > 0, exported.report.quantized), (rounded, 0));
    };
    check(None, data_type::BFLOAT16, false, |value| bf16::from_f32(value).to_le_bytes().to_vec());
    check(Some(WeightType::Float(FloatType::F32)), data_type::FLOAT, false, |value| value.to_le_bytes().to_vec());
    let f16 = |value| half::f16::from_f32(value).to_le_bytes().to_vec();
    check(Some(WeightType::Float(FloatType::F16)), data_type::FLOAT16, true, f16);
}

/// A grid whose indices are `span` times -1 to 1.
fn grid(rows: usize, cols: usize, span: i32, with_columns: bool) -> Arc<Grid> {
    let step = |idx: usize| bf16::from_f32(0.01 + idx as f32 * 0.001).to_f32();
    let index = |idx: usize| ((idx * 7919 % 1999) as i32 * (2 * span + 1) / 1999 - span) as i8;
    Arc::new(Grid {
        rows,
        cols,
        indices: (0..rows * cols).map(index).collect(),
        row_steps: (0..rows).map(step).collect(),
        col_steps: (0..cols).map(|col| if with_columns { 16.0 * step(col) } else { 1.0 }).collect(),
    })
}

/// An archive of a model with some grids, in `folder`.
fn tuned(folder: &Path) -> BTreeMap<String, Arc<Grid>> {
    made("LlamaForCausalLM", json!({})).write(&folder.join("a"), &byte_level(None));
    let layer = |name: &str| format!("model.layers.1.{name}.weight");
    let grids = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), grid(300, 128, 127, true)),
        (layer("self_attn.q_proj"), grid(128, 128, 100, true)),
        (layer("self_attn.k_proj"), grid(64, 128, 20, true)),
        (layer("self_attn.o_proj"), grid(128, 128, 7, false)),
        (layer("mlp.down_proj"), grid(128, 256, 127, false)),
    ]);
    compress_grids(&folder.join("a"), &folder.join("nw"), &grids, &CompressOptions::default(), &Silent).unwrap();
    grids
}

fn f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Digits of a row-major matrix, as numbers from 0 to 15.
fn nibbles(bytes: &[u8]) -> Vec<i32> {
    bytes.iter().flat_map(|byte| [i32::from(byte & 15), i32::from(byte >> 4)]).collect()
}

#[test]
fn grids_go_over_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let grids = tuned(folder.path());
    let source = folder.path().join("nw");
    // config.json of the export is the original's, and not the archive's.
    let original = object(&folder.path().join("a"), "config.json");
    for standard in [false, true] {
        let exported = exported(&source, &onnx(None, standard));
        assert_eq!(exported.config, original);
        check_graph(&exported);
        assert_eq!((exported.report.rounded, exported.report.quantized), (0, 0));
        assert_eq!((exported.report.weights.as_str(), exported.report.notes.len()), ("integers", 1));
        for (name, grid) in &grids {
            let part = |part: &str| exported.tensors.get(&format!("{name}_{part}")).map(|row| row.2.as_slice());
            let is_narrow = grid.indices.iter().all(|index| (-8..8).contains(index));
            // q and k share their input and columns' steps, and so the product.
            let has_steps = grid.col_steps[1] != 1.0 && !name.contains("k_proj");
            assert_eq!(part("col_steps").map(f32s), has_steps.then(|| grid.col_steps.clone()));
            let indices: Vec<i32> = match (standard, is_narrow) {
                (true, _) => part("indices").unwrap().iter().map(|byte| i32::from(*byte as i8)).collect(),
                (false, true) => nibbles(part("digits").unwrap()).into_iter().map(|digit| digit - 8).collect(),
                (false, false) => {
                    let digits =
                        nibbles(part("digits_high").unwrap()).into_iter().zip(nibbles(part("digits_low").unwrap()));
                    digits.map(|(high, low)| 16 * (high - 8) + low).collect()
                }
            };
            assert!(indices.iter().zip(&grid.indices).all(|(found, index)| *found == i32::from(*index)), "{name}");
            let scales = |part: &str, factor: f32| {
                let (_, _, bytes) = &exported.tensors[&format!("{name}_{part}_scales")];
                let scales = f32s(bytes);
                let n_blocks = scales.len() / grid.rows;
                for (row, step) in scales.chunks(n_blocks).zip(&grid.row_steps) {
                    assert!(row.iter().all(|scale| *scale == step * factor), "{name}");
                }
            };
            match (standard, is_narrow) {
                _ if standard || name.contains("embed") => {
                    assert_eq!(f32s(part("row_steps").unwrap()), grid.row_steps);
                }
                (_, true) => scales("digits", 1.0),
                (_, false) => {
                    scales("digits_low", 1.0);
                    scales("digits_high", 16.0);
                    assert!(part("digits_low_zeros").unwrap().iter().all(|byte| *byte == 0));
                }
            }
        }
        let graph = exported.model.graph.as_ref().unwrap();
        let scaled = graph.node.iter().filter(|node| node.input.iter().any(|name| name.ends_with("_col_steps")));
        assert_eq!(scaled.count(), 2);
    }
    // Where a type is asked for, they are the values that `restore` gives.
    let exported = exported(&source, &onnx(Some(WeightType::Float(FloatType::F32)), false));
    let values: Vec<f32> = grids["model.embed_tokens.weight"]
        .dequantize()
        .into_iter()
        .map(|bits| bf16::from_bits(bits).to_f32())
        .collect();
    assert!(f32s(&exported.tensors["model.embed_tokens.weight"].2) == values);
}

#[test]
fn other_formats_take_the_values_of_grids() {
    let folder = tempfile::tempdir().unwrap();
    let grids = tuned(folder.path());
    for weights in WeightType::ALL {
        let place = folder.path().join(weights.name());
        let options = ExportOptions { weights: Some(weights), ..ExportOptions::default() };
        let report = export(&folder.path().join("nw"), &place, &options, &Silent).unwrap();
        assert!(report.notes.iter().any(|note| note.contains("within a 512th")), "{:?}", report.notes);
        if weights == WeightType::Float(FloatType::Bf16) {
            let back = folder.path().join("back");
            import(&place, &back, &ImportOptions::default(), &Silent).unwrap();
            for (name, grid) in &grids {
                let values: Vec<u8> = grid.dequantize().into_iter().flat_map(u16::to_le_bytes).collect();
                assert!(common::read(&back)[name].2 == values, "{name}");
            }
        }
    }
}

#[test]
fn integers_are_the_nearest() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("a");
    let original = made("LlamaForCausalLM", json!({})).write(&source, &byte_level(None));
    let exported = exported(&source, &onnx(Some(WeightType::Int8), true));
    let linear: Vec<&String> = original.keys().filter(|name| name.contains("_proj")).collect();
    let n_linear: u64 = linear.iter().map(|name| original[*name].1.iter().product::<u64>()).sum();
    assert_eq!((exported.report.quantized, exported.report.weights.as_str()), (n_linear, "int8"));
    for name in linear {
        let (_, shape, bytes) = &original[name];
        let cols = shape[1] as usize;
        let values: Vec<f32> =
            bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect();
        let steps = f32s(&exported.tensors[&format!("{name}_row_steps")].2);
        let indices = &exported.tensors[&format!("{name}_indices")].2;
        for ((values, indices), step) in values.chunks(cols).zip(indices.chunks(cols)).zip(steps) {
            assert!(indices.iter().any(|index| (*index as i8).unsigned_abs() == 127));
            let worst = values.iter().zip(indices).map(|(value, index)| (value - step * f32::from(*index as i8)).abs());
            assert!(worst.fold(0f32, f32::max) <= 0.5001 * step, "{name}");
        }
    }
    assert_eq!(exported.tensors["lm_head.weight"].0, data_type::BFLOAT16);
}

#[test]
fn the_same_bytes_again() {
    let folder = tempfile::tempdir().unwrap();
    tuned(folder.path());
    let place = |name: &str| folder.path().join(name);
    for weights in [None, Some(WeightType::Int8)] {
        let read = |name: &str| {
            let options = ExportOptions { force: true, ..onnx(weights, false) };
            export(&place("nw"), &place(name), &options, &Silent).unwrap();
            ["model.onnx", "model.onnx.data"].map(|file| std::fs::read(place(name).join(file)).unwrap())
        };
        assert!(read("one") == read("two"));
    }
}

#[test]
fn what_is_refused_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let check = |source: &str, options: &ExportOptions, part: &str| {
        let error = export(&place(source), &place("onnx"), options, &Silent).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
        assert!(!place("onnx").exists());
    };
    let plain = onnx(None, false);
    made("MixtralForCausalLM", json!({"num_local_experts": 3})).write(&place("experts"), &byte_level(None));
    check("experts", &plain, "layers with experts");
    let factors = vec![1.0; 16];
    let longrope = json!({"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "factor": 4.0,
                          "original_max_position_embeddings": 1024});
    made("LlamaForCausalLM", json!({"rope_scaling": longrope})).write(&place("longrope"), &byte_level(None));
    check("longrope", &plain, "longrope");
    made("NoneSuch", json!({})).write(&place("unknown"), &byte_level(None));
    check("unknown", &plain, "NoneSuch");
    let mut more = made("LlamaForCausalLM", json!({}));
    more.tensors.push(("model.layers.0.self_attn.sinks".to_owned(), vec![4]));
    more.write(&place("more"), &byte_level(None));
    check("more", &plain, "sinks");
    let tensors = made("LlamaForCausalLM", json!({})).write(&place("llama"), &byte_level(None));
    for (weights, part) in [(WeightType::Q8_0, "bf16, f16, f32, int8"), (WeightType::Int4, "not written with int4")] {
        check("llama", &onnx(Some(weights), false), part);
    }
    check("llama", &ExportOptions { format: Some(Format::Gguf), ..onnx(None, true) }, "no operators");
    check(
        "llama",
        &ExportOptions { format: Some(Format::CompressedTensors), ..onnx(Some(WeightType::Q8_0), false) },
        "int8, int4",
    );
    let damaged = |name: &str, change: &dyn Fn(&mut Tensors)| {
        let mut tensors = tensors.clone();
        change(&mut tensors);
        write(&place("llama"), &tensors);
        check("llama", &onnx(Some(WeightType::Int8), false), name);
    };
    let q = "model.layers.0.self_attn.q_proj.weight";
    damaged("not finite", &|tensors| tensors.get_mut(q).unwrap().2[..2].copy_from_slice(&[0xc0, 0x7f]));
    damaged("lacks this tensor", &|tensors| _ = tensors.remove(q));
    damaged("shape is", &|tensors| {
        tensors.insert(q.to_owned(), ("BF16".to_owned(), vec![64, HIDDEN], floats(64 * HIDDEN, 3)));
    });
    write(&place("llama"), &tensors);
    export(&place("llama"), &place("onnx"), &plain, &Silent).unwrap();
    let error = export(&place("llama"), &place("onnx"), &plain, &Silent).unwrap_err().to_string();
    assert!(error.contains("already there"), "{error}");
}
