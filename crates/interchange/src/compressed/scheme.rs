//! `quantization_config` of config.json: what is understood of it, and what is written. Next in the flow: read.rs.

use netweight_container::{Error, Result};
use serde_json::{Map, Value, json};

/// Formats whose weights are integers, as vLLM's compressed-tensors names them, and "dense" for none at all.
const FORMATS: [&str; 5] = ["pack-quantized", "int-quantized", "naive-quantized", "dense", "mixed-precision"];

/// Weights of a group when four bits are written.
pub(super) const GROUP_WEIGHTS: u64 = 128;

/// Bits of weights that groups of layers have.
#[derive(Debug, PartialEq)]
pub(super) struct Scheme {
    pub(super) bits: Vec<u64>,
    /// Whether activations are quantised too.
    pub(super) has_activations: bool,
}

fn check_format(format: &Value) -> Result<()> {
    match format {
        Value::Null => Ok(()),
        Value::String(name) if FORMATS.contains(&name.as_str()) => Ok(()),
        other => Err(Error::unsupported(format!("weights in format {other}; known are {}", FORMATS.join(", ")))),
    }
}

/// What config.json says about quantisation.
///
/// # Errors
/// `InvalidArgument` where it says nothing; `Unsupported` for what is not known.
pub(super) fn read(config: &Map<String, Value>) -> Result<Scheme> {
    let none = || {
        Error::invalid(
            "not a GGUF file, and no folder of compressed-tensors: config.json has no such quantization_config",
        )
    };
    let said = config.get("quantization_config").ok_or_else(none)?;
    match said["quant_method"].as_str() {
        Some("compressed-tensors") => {}
        Some("netweight") => return Err(Error::invalid("a netweight archive; nothing is to be imported")),
        other => {
            let name = other.unwrap_or("none");
            return Err(Error::unsupported(format!("weights quantised by {name:?}; known is compressed-tensors")));
        }
    }
    check_format(&said["format"])?;
    let sparsity = &said["sparsity_config"]["format"];
    if !sparsity.is_null() && sparsity != "dense" {
        return Err(Error::unsupported(format!("sparse weights in format {sparsity}")));
    }
    if said["transform_config"]["config_groups"].as_object().is_some_and(|groups| !groups.is_empty()) {
        return Err(Error::unsupported("weights that were transformed before they were quantised"));
    }
    let mut scheme = Scheme { bits: Vec::new(), has_activations: false };
    for group in said["config_groups"].as_object().into_iter().flat_map(Map::values) {
        check_format(&group["format"])?;
        scheme.has_activations |= !group["input_activations"].is_null();
        let weights = &group["weights"];
        if weights.is_null() {
            continue;
        }
        let bits = weights["num_bits"].as_u64().filter(|bits| matches!(bits, 4 | 8));
        let bits = bits.filter(|_| weights["type"].as_str().is_none_or(|kind| kind == "int"));
        let strategy = weights["strategy"].as_str().unwrap_or("tensor");
        let bits = bits.filter(|_| matches!(strategy, "group" | "channel" | "tensor"));
        let bits = bits.ok_or_else(|| {
            let (bits, kind) = (&weights["num_bits"], &weights["type"]);
            let known = "known are integers of 4 and 8 bits by group, channel or tensor";
            Error::unsupported(format!("weights of {bits} bits and type {kind} by {strategy}; {known}"))
        })?;
        if !scheme.bits.contains(&bits) {
            scheme.bits.push(bits);
        }
    }
    Ok(scheme)
}

/// `quantization_config` of weights that are packed in integers of `bits` bits, and activations that are left alone.
/// `ignored`: names of the linear layers that stay as they were.
pub(super) fn write(bits: u64, ignored: &[String]) -> Value {
    let is_grouped = bits == 4;
    json!({
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "global_compression_ratio": null,
        "kv_cache_scheme": null,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "format": "pack-quantized",
                "weights": {
                    "num_bits": bits,
                    "type": "int",
                    "symmetric": true,
                    "strategy": if is_grouped { "group" } else { "channel" },
                    "group_size": if is_grouped { json!(GROUP_WEIGHTS) } else { Value::Null },
                    "block_structure": null,
                    "dynamic": false,
                    "actorder": null,
                    "observer": "minmax",
                    "observer_kwargs": {},
                },
                "input_activations": null,
                "output_activations": null,
            },
        },
        "ignore": ignored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(said: Value) -> Map<String, Value> {
        Map::from_iter([("quantization_config".to_owned(), said)])
    }

    #[test]
    fn what_is_written_is_read() {
        for bits in [4, 8] {
            let scheme = read(&config(write(bits, &[]))).unwrap();
            assert_eq!(scheme, Scheme { bits: vec![bits], has_activations: false });
        }
    }

    #[test]
    fn what_is_not_known_is_named() {
        let check = |path: &[&str], value: Value, expected: &str| {
            let mut said = write(4, &[]);
            let place = path.iter().fold(&mut said, |place, key| &mut place[*key]);
            *place = value;
            let error = read(&config(said)).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let weights = ["config_groups", "group_0", "weights"];
        let weight = |key| [weights.as_slice(), &[key]].concat();
        check(&["quant_method"], json!("gptq"), "gptq");
        check(&["format"], json!("nvfp4-pack-quantized"), "nvfp4-pack-quantized");
        check(&["config_groups", "group_0", "format"], json!("marlin-24"), "marlin-24");
        check(&["sparsity_config"], json!({"format": "sparse-24-bitmask"}), "sparse-24-bitmask");
        check(&["transform_config"], json!({"config_groups": {"R1": {}}}), "transformed");
        check(&weight("num_bits"), json!(3), "3 bits");
        check(&weight("type"), json!("float"), "float");
        check(&weight("strategy"), json!("block"), "block");
        assert!(read(&Map::new()).is_err());
    }
}
