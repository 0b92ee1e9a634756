//! Rewrites `*.safetensors.index.json` for an archive: the same keys, `metadata.total_size` of the payloads.

use std::collections::{BTreeMap, BTreeSet};

use netweight_container::{Error, Result};
use serde_json::Value;

/// The index for the archive. `payload_bytes`: by relative path of the shard.
pub(crate) fn rewrite(original: &[u8], relative: &str, payload_bytes: &BTreeMap<String, u64>) -> Result<Vec<u8>> {
    let index = serde_json::from_slice(original);
    let mut index: Value = index.map_err(|error| Error::corrupt(format!("not an index of shards: {error}")))?;
    let folder = relative.rfind('/').map_or("", |slash| &relative[..=slash]);
    let shards = index.get("weight_map").and_then(Value::as_object).into_iter().flat_map(|map| map.values());
    let shards: BTreeSet<String> = shards.filter_map(Value::as_str).map(|shard| format!("{folder}{shard}")).collect();
    let total: u64 = shards.iter().filter_map(|shard| payload_bytes.get(shard)).sum();
    if let Some(size) = index.get_mut("metadata").and_then(|metadata| metadata.get_mut("total_size")) {
        *size = Value::from(total);
    }
    let mut text = serde_json::to_vec_pretty(&index).map_err(|error| Error::invalid(error.to_string()))?;
    text.push(b'\n');
    Ok(text)
}
