//! Declares an archive in its `config.json`, so that what reads the config knows how the weights are stored.

use serde_json::{Map, Value};

/// The config with a `quantization_config`, which says the format version, after its last key; `None` where it is no object, or has one already.
///
/// transformers and vLLM choose by `quant_method` who loads the weights.
pub(crate) fn declare(original: &[u8], format: u32) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(original).ok()?;
    let keys: Map<String, Value> = serde_json::from_str(text).ok()?;
    if keys.contains_key("quantization_config") {
        return None;
    }
    let (before, _) = text.rsplit_once('}')?;
    let (before, comma) = (before.trim_end(), if keys.is_empty() { "" } else { "," });
    let declared = format!(
        "{before}{comma}\n  \"quantization_config\": {{\n    \"quant_method\": \"netweight\",\n    \"format\": \
         {format}\n  }}\n}}\n"
    );
    Some(declared.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_added() {
        let check = |original: &str, expected: Option<&str>| {
            let declared = declare(original.as_bytes(), 1).map(|bytes| String::from_utf8(bytes).unwrap());
            assert_eq!(declared.as_deref(), expected, "{original}");
        };
        const OURS: &str =
            "\n  \"quantization_config\": {\n    \"quant_method\": \"netweight\",\n    \"format\": 1\n  }\n}\n";
        check("{}", Some(&format!("{{{OURS}")));
        check("{\n  \"a\": {\"b\": 1e-05}\n}", Some(&format!("{{\n  \"a\": {{\"b\": 1e-05}},{OURS}")));
        check("{\"a\": \"}\"} \n\n", Some(&format!("{{\"a\": \"}}\",{OURS}")));
        check("{\"quantization_config\": {\"quant_method\": \"fp8\"}}", None);
        check("[]", None);
        check("{\"a\": 1", None);
        check("\u{feff}{}", None);
        assert_eq!(declare(b"\xff", 1), None);
        let declared = declare(b"{\"a\": 1}", 2).unwrap();
        let keys: Value = serde_json::from_slice(&declared).unwrap();
        assert_eq!(keys["quantization_config"]["quant_method"], "netweight");
        assert_eq!(keys["quantization_config"]["format"], 2);
    }
}
