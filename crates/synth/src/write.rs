//! Checkpoints on disk: one safetensors file, or a folder of shards with an index and a config. Streams, so
//! memory does not grow with the output.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::recipe::{Shapes, TensorRecipe, recipe};
use crate::tensor::{Entry, Kind, entries, stream};

/// Safetensors writers pad the header so that the data begins at a multiple of this.
const HEADER_ALIGNMENT: usize = 8;

/// What a writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The safetensors files, in shard order.
    pub shards: Vec<PathBuf>,
    /// Bytes of all tensors together.
    pub tensor_bytes: u64,
}

/// Writes a checkpoint as one safetensors file at `path`; gives its tensors' bytes.
///
/// # Errors
/// Those of creating and writing the file.
pub fn write_file(path: &Path, kind: Kind, shapes: &Shapes, seed: u64) -> io::Result<u64> {
    write_shard(path, kind, &recipe(shapes), seed)
}

/// Writes a checkpoint into the folder `dir` (made where absent): shards of at most `shard_bytes` bytes of
/// tensors (more only where one tensor is larger), named as the hub names them, `config.json` and, where there
/// is more than one shard, `model.safetensors.index.json`.
///
/// # Errors
/// Those of creating and writing the files.
pub fn write_checkpoint(dir: &Path, kind: Kind, shapes: &Shapes, seed: u64, shard_bytes: u64) -> io::Result<Written> {
    fs::create_dir_all(dir)?;
    let recipes = recipe(shapes);
    let shards = cut_into_shards(kind, &recipes, shard_bytes);
    let mut written = Written { shards: Vec::new(), tensor_bytes: 0 };
    let mut weight_map = Map::new();
    for (shard_idx, shard) in shards.iter().enumerate() {
        let name = match shards.len() {
            1 => "model.safetensors".to_string(),
            n_shards => format!("model-{:05}-of-{n_shards:05}.safetensors", shard_idx + 1),
        };
        written.tensor_bytes += write_shard(&dir.join(&name), kind, shard, seed)?;
        for entry in shard.iter().flat_map(|recipe| entries(kind, recipe)) {
            weight_map.insert(entry.name, Value::from(name.as_str()));
        }
        written.shards.push(dir.join(name));
    }
    if shards.len() > 1 {
        let index = json!({"metadata": {"total_size": written.tensor_bytes}, "weight_map": weight_map});
        write_json(&dir.join("model.safetensors.index.json"), &index)?;
    }
    write_json(&dir.join("config.json"), &config(kind, shapes))?;
    Ok(written)
}

/// Consecutive tensors, greedily; a recipe's weights and scales stay together.
fn cut_into_shards(kind: Kind, recipes: &[TensorRecipe], shard_bytes: u64) -> Vec<&[TensorRecipe]> {
    let (mut shards, mut start, mut len_bytes) = (Vec::new(), 0, 0u64);
    for (idx, recipe) in recipes.iter().enumerate() {
        let recipe_bytes: u64 = entries(kind, recipe).iter().map(|entry| entry.len_bytes).sum();
        if idx > start && len_bytes + recipe_bytes > shard_bytes {
            shards.push(&recipes[start..idx]);
            (start, len_bytes) = (idx, 0);
        }
        len_bytes += recipe_bytes;
    }
    shards.push(&recipes[start..]);
    shards
}

fn write_shard(path: &Path, kind: Kind, recipes: &[TensorRecipe], seed: u64) -> io::Result<u64> {
    let (header, tensor_bytes) = header(recipes.iter().flat_map(|recipe| entries(kind, recipe)));
    let mut file = BufWriter::new(File::create(path)?);
    file.write_all(&header)?;
    for recipe in recipes {
        let scales = stream(kind, recipe, seed, |band| file.write_all(band))?;
        file.write_all(&scales)?;
    }
    file.flush()?;
    Ok(tensor_bytes)
}

/// A safetensors header with its length, and the bytes of the tensors that follow it.
fn header(entries: impl Iterator<Item = Entry>) -> (Vec<u8>, u64) {
    let mut object = Map::from_iter([("__metadata__".to_string(), json!({"format": "pt"}))]);
    let mut offset_bytes = 0u64;
    for Entry { name, dtype, shape, len_bytes } in entries {
        let offsets = [offset_bytes, offset_bytes + len_bytes];
        object.insert(name, json!({"dtype": dtype.name(), "shape": shape, "data_offsets": offsets}));
        offset_bytes += len_bytes;
    }
    let mut json = Value::Object(object).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    (header, offset_bytes)
}

fn config(kind: Kind, shapes: &Shapes) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shapes.hidden,
        "intermediate_size": shapes.feed_forward,
        "num_hidden_layers": shapes.layers,
        "vocab_size": shapes.vocabulary,
        "torch_dtype": match kind {
            Kind::Bf16 | Kind::Fp8 => "bfloat16",
            Kind::F16 => "float16",
            Kind::F32 => "float32",
        },
        "tie_word_embeddings": true,
    })
}

fn write_json(path: &Path, value: &Value) -> io::Result<()> {
    fs::write(path, format!("{value:#}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::generate;

    /// (name, dtype, bytes) of each tensor of a safetensors file, by the rules of the format.
    fn read(path: &Path) -> Vec<(String, String, Vec<u8>)> {
        let file = fs::read(path).unwrap();
        let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(header_len % HEADER_ALIGNMENT, 0);
        let header: Map<String, Value> = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
        let data = &file[8 + header_len..];
        let mut end = 0;
        let tensors = (header.into_iter().filter(|(name, _)| name != "__metadata__"))
            .map(|(name, entry)| {
                let offset = |idx: usize| entry["data_offsets"][idx].as_u64().unwrap() as usize;
                assert_eq!(offset(0), end, "{name}");
                end = offset(1);
                (name, entry["dtype"].as_str().unwrap().to_string(), data[offset(0)..end].to_vec())
            })
            .collect();
        assert_eq!(end, data.len());
        tensors
    }

    #[test]
    fn file_holds_what_generate_gives() {
        let dir = tempfile::tempdir().unwrap();
        for kind in Kind::ALL {
            let path = dir.path().join("model.safetensors");
            let tensor_bytes = write_file(&path, kind, &Shapes::TINY, 7).unwrap();
            let expected = generate(kind, &Shapes::TINY, 7);
            assert_eq!(tensor_bytes, expected.iter().map(|tensor| tensor.bytes.len() as u64).sum::<u64>());
            let expected: Vec<_> = (expected.into_iter())
                .map(|tensor| (tensor.name, tensor.dtype.name().to_string(), tensor.bytes))
                .collect();
            assert!(read(&path) == expected, "{kind:?}");
        }
    }

    #[test]
    fn shards_hold_every_tensor_once() {
        let dir = tempfile::tempdir().unwrap();
        let shapes = Shapes::TINY.with_layers(3);
        let written = write_checkpoint(dir.path(), Kind::Fp8, &shapes, 7, 200_000).unwrap();
        assert!(written.shards.len() > 2, "{:?}", written.shards);
        let index: Value =
            serde_json::from_slice(&fs::read(dir.path().join("model.safetensors.index.json")).unwrap()).unwrap();
        assert_eq!(index["metadata"]["total_size"], written.tensor_bytes);
        let tensors: Vec<_> = written.shards.iter().flat_map(|path| read(path)).collect();
        let expected = generate(Kind::Fp8, &shapes, 7);
        assert_eq!(tensors.len(), expected.len());
        for (tensor, expected) in tensors.iter().zip(&expected) {
            assert!(tensor.0 == expected.name && tensor.2 == expected.bytes, "{}", expected.name);
            assert!(index["weight_map"][&tensor.0].is_string());
        }
        assert!(dir.path().join("config.json").exists());
    }

    #[test]
    fn one_shard_has_no_index() {
        let dir = tempfile::tempdir().unwrap();
        let written = write_checkpoint(dir.path(), Kind::Bf16, &Shapes::TINY, 7, 1 << 30).unwrap();
        assert_eq!(written.shards, [dir.path().join("model.safetensors")]);
        assert!(!dir.path().join("model.safetensors.index.json").exists());
    }
}
