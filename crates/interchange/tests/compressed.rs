//! Models go to compressed-tensors and back; integers mean what vLLM takes them for.

mod common;

use common::{Tensors, byte_level, made, object, read, write};
use half::bf16;
use netweight_interchange::{ExportOptions, FloatType, ImportOptions, WeightType, export, import};
use netweight_pack::Silent;
use serde_json::{Value, json};

fn values(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()
}

#[test]
fn integers_are_the_nearest() {
    for (weights, bits, group) in [(WeightType::Int4, 4u32, 128usize), (WeightType::Int8, 8, 0)] {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let original = made("LlamaForCausalLM", json!({})).write(&place("a"), &byte_level(None));
        let options = ExportOptions { weights: Some(weights), ..ExportOptions::default() };
        let report = export(&place("a"), &place("q"), &options, &Silent).unwrap();
        let linear = |name: &str| name.contains("_proj.weight");
        let n_linear: u64 = original.iter().filter(|(name, _)| linear(name)).map(|(_, row)| row.1[0] * row.1[1]).sum();
        assert_eq!((report.quantized, report.rounded), (n_linear, 0));
        let note = report.notes.first().unwrap();
        let percent: f64 = note.split(" % ").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
        let options = ImportOptions { dtype: Some(FloatType::F32), force: false };
        import(&place("q"), &place("back"), &options, &Silent).unwrap();
        let (packed, back) = (read(&place("q")), read(&place("back")));
        assert_eq!(back.len(), original.len());
        let mut worst_relative = 0f64;
        for (name, (_, shape, bytes)) in &original {
            let exact = values(bytes);
            let restored: Vec<f32> =
                back[name].2.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            if !linear(name) {
                assert!(exact == restored, "{name}");
                continue;
            }
            let squares =
                |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v) * f64::from(v)).sum::<f64>();
            let errors = squares(&mut exact.iter().zip(&restored).map(|(a, b)| a - b));
            worst_relative = worst_relative.max((errors / squares(&mut exact.iter().copied())).sqrt());
            let group = if group == 0 { shape[1] as usize } else { group };
            let scales = values(&packed[&format!("{name}_scale")].2);
            assert_eq!(scales.len(), exact.len() / group);
            let groups = exact.chunks(group).zip(restored.chunks(group)).zip(&scales);
            for ((exact, restored), scale) in groups {
                let largest = exact.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                let steps = ((1 << bits) - 1) as f32 / 2.0;
                assert_eq!(*scale, bf16::from_f32(largest / steps).to_f32());
                // Half a step, and where the largest value is positive what the least integer has more.
                let worst = exact.iter().zip(restored).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
                assert!(worst <= 0.5 * scale + largest / 256.0, "{name}: {worst} of {scale}");
            }
        }
        assert!((percent - 100.0 * worst_relative).abs() <= 0.006, "{note}: {worst_relative}");
        let config = object(&place("back"), "config.json");
        assert!(config.get("quantization_config").is_none() && config["torch_dtype"] == "float32", "{config}");
        assert!(place("back").join("tokenizer.json").exists());
    }
}

/// A folder with one quantised layer of two rows and eight columns.
fn layer(tensors: &[(&str, &str, &[u64], Vec<u8>)], bits: u64, symmetric: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("q");
    std::fs::create_dir(&place).unwrap();
    let weights =
        json!({"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": "group", "group_size": 4});
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "torch_dtype": "float16",
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        },
    });
    std::fs::write(place.join("config.json"), config.to_string()).unwrap();
    let rows = tensors
        .iter()
        .map(|(end, dtype, shape, bytes)| (format!("a.{end}"), ((*dtype).to_owned(), shape.to_vec(), bytes.clone())));
    let mut all: Tensors = rows.collect();
    all.insert("b.weight".to_owned(), ("F32".to_owned(), vec![1], 7f32.to_le_bytes().into()));
    write(&place, &all);
    folder
}

fn imported(folder: &tempfile::TempDir) -> Result<Vec<f32>, String> {
    let (source, back) = (folder.path().join("q"), folder.path().join("back"));
    import(&source, &back, &ImportOptions::default(), &Silent).map_err(|error| error.to_string())?;
    let tensors = read(&back);
    let (dtype, shape, bytes) = &tensors["a.weight"];
    assert_eq!((dtype.as_str(), shape.as_slice(), tensors.len()), ("F32", [2, 8].as_slice(), 2));
    assert_eq!(object(&back, "config.json")["torch_dtype"], Value::from("float32"));
    Ok(bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn i32s(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

#[test]
fn packed_integers_with_zero_points() {
    let shape = [2i64.to_le_bytes(), 8i64.to_le_bytes()].concat();
    // Nibbles from the lowest: row 0 is 0..8, row 1 is 15 down to 8; less 8 each.
    let packed = i32s(&[0x7654_3210, 0x89ab_cdef]);
    let scales = f32s(&[1.0, 2.0, 0.5, 4.0]);
    let mut tensors = vec![
        ("weight_packed", "I32", [2, 1].as_slice(), packed),
        ("weight_scale", "F32", &[2, 2], scales),
        ("weight_shape", "I64", &[2], shape),
    ];
    let plain = imported(&layer(&tensors, 4, true)).unwrap();
    let expected = [-8.0, -7.0, -6.0, -5.0, -8.0, -6.0, -4.0, -2.0, 3.5, 3.0, 2.5, 2.0, 12.0, 8.0, 4.0, 0.0];
    assert_eq!(plain, expected);
    // Zero points, packed along rows: group 0 has 9 and 6, group 1 has 8 and 10, less 8 each.
    tensors.push(("weight_zero_point", "I32", &[1, 2], i32s(&[0x69, 0xa8])));
    let shifted = imported(&layer(&tensors, 4, false)).unwrap();
    let expected = [-9.0, -8.0, -7.0, -6.0, -8.0, -6.0, -4.0, -2.0, 4.5, 4.0, 3.5, 3.0, 4.0, 0.0, -4.0, -8.0];
    assert_eq!(shifted, expected);
    // Columns in groups of another order.
    tensors.pop();
    tensors.push(("weight_g_idx", "I32", &[8], i32s(&[1, 0, 1, 0, 1, 0, 1, 0])));
    let ordered = imported(&layer(&tensors, 4, true)).unwrap();
    assert_eq!(ordered[..8], [-16.0, -7.0, -12.0, -5.0, -8.0, -3.0, -4.0, -1.0]);
    tensors.pop();
    tensors.push(("weight_g_idx", "I32", &[8], i32s(&[2; 8])));
    assert!(imported(&layer(&tensors, 4, true)).unwrap_err().contains("weight_g_idx"));
}

#[test]
fn bytes_with_a_scale_for_each_row() {
    let bytes: Vec<u8> = (-8i8..8).map(|value| value as u8).collect();
    let mut tensors =
        vec![("weight", "I8", [2, 8].as_slice(), bytes), ("weight_scale", "F32", &[2, 1], f32s(&[2.0, 3.0]))];
    let values = imported(&layer(&tensors, 8, true)).unwrap();
    assert_eq!((values[0], values[7], values[8], values[15]), (-16.0, -2.0, 0.0, 21.0));
    tensors.push(("weight_zero_point", "I8", &[2, 1], vec![1, 0xff]));
    let values = imported(&layer(&tensors, 8, false)).unwrap();
    assert_eq!((values[0], values[7], values[8], values[15]), (-18.0, -4.0, 3.0, 24.0));
    tensors.remove(1);
    assert!(imported(&layer(&tensors, 8, true)).unwrap_err().contains("weight_scale"));
}
