//! A file or folder of another format in, a folder that Hugging Face's libraries read out.
//! Next in the flow: gguf/mod.rs, or compressed/mod.rs.

use std::path::Path;
use std::time::Instant;

use netweight_container::{Context, Error, InputFile, Result};
use netweight_pack::Progress;
use serde_json::{Value, json};

use crate::compressed;
use crate::config;
use crate::gguf::{Gguf, TensorInfo};
use crate::keys;
use crate::model::{Model, Pair};
use crate::options::{ImportOptions, Report};
use crate::shards::{Folder, OutTensor};
use crate::tokens::from_gguf;
use crate::transcode::{Heads, Job, Pairing, unreadable};
use crate::types::Type;

/// Imports a GGUF file, or a folder of compressed-tensors. The destination appears at the very end, whole. Finished
/// shards are kept after an error, for a second run.
///
/// # Errors
/// `InvalidArgument` where it is neither, or the destination is there (without `force`); `Unsupported` for what is not
/// known, with what is; `Truncated`, `Corrupt`, `Io`.
pub fn import(source: &Path, destination: &Path, options: &ImportOptions, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let is_folder = std::fs::metadata(source).in_file(source)?.is_dir();
    let import = if is_folder { compressed::import } else { import_gguf };
    let report = import(source, destination, options, progress)?;
    Ok(Report { seconds: begin.elapsed().as_secs_f64(), ..report })
}

/// A tensor of the destination, and what it is made of.
struct Part<'a> {
    info: &'a TensorInfo,
    /// First byte in the file.
    offset: u64,
    job: Job,
}

fn import_gguf(source: &Path, destination: &Path, options: &ImportOptions, progress: &dyn Progress) -> Result<Report> {
    let input = InputFile::open(source)?;
    let gguf = Gguf::read(&input)?;
    let model = model(&gguf, &input).in_file(source)?;
    let pairs = model.pairs();
    check_tensors(&gguf, &pairs).in_file(source)?;
    let dtype = options.dtype.map_or_else(|| own_type(&gguf, &pairs), |dtype| dtype.ty());
    let (tensors, parts): (Vec<OutTensor>, Vec<Part>) = parts(&gguf, &model, &pairs, dtype).into_iter().unzip();
    let tokens = from_gguf(&gguf.metadata).in_file(source)?;
    let identity = [(source.display().to_string(), input.len_bytes(), input.modified_ns())];
    let sides = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"];
    let place = (source, destination);
    let mut folder = Folder::begin(place, options.force, dtype.name(), &identity, tensors, &sides)?;
    progress.start(gguf.tensors.values().map(|info| info.n_bytes).sum());
    let mut report = Report {
        from: "gguf".to_owned(),
        to: "safetensors".to_owned(),
        architecture: model.family.architecture.to_owned(),
        weights: dtype.name().to_lowercase(),
        n_tensors: parts.len() as u64,
        n_values: parts.iter().map(|part| part.job.n_values).sum(),
        source_bytes: input.len_bytes(),
        ..Report::default()
    };
    folder.write(progress, &mut |idx, sink| {
        let part = &parts[idx];
        let read = |offset: u64, dst: &mut [u8]| input.read_exact_at(part.offset + offset, dst);
        let tally = part.job.run(&read, sink, progress).in_tensor(&part.info.name)?;
        report.rounded += tally.rounded;
        Ok(())
    })?;
    input.check_unchanged()?;
    let ids = tokens.as_ref().map(|files| files.ids.clone()).unwrap_or_default();
    folder.put_json("config.json", &config::write(&model, dtype, &ids))?;
    let generation = json!({"bos_token_id": ids.bos, "eos_token_id": ids.eos_json(), "pad_token_id": ids.pad});
    folder.put_json("generation_config.json", &generation)?;
    match tokens {
        Some(files) => {
            folder.put("tokenizer.json", files.tokenizer.to_string().as_bytes())?;
            folder.put_json("tokenizer_config.json", &with_length(files.config, &model))?;
            report.notes.extend(files.notes);
        }
        None => report.notes.push("the file has no vocabulary, so that there is no tokenizer.json".to_owned()),
    }
    (report.n_resumed, report.destination_bytes) = (folder.n_resumed, folder.n_bytes);
    folder.finish()?;
    Ok(report)
}

fn with_length(mut config: Value, model: &Model) -> Value {
    config["model_max_length"] = json!(model.positions);
    config
}

/// The model, its rotary embeddings included.
fn model(gguf: &Gguf, input: &InputFile) -> Result<Model> {
    let model = keys::read(gguf)?;
    let Some(info) = gguf.tensors.get("rope_freqs.weight") else { return Ok(model) };
    if info.ty != Type::F32 || info.shape != [model.head_dim / 2] {
        return Err(Error::corrupt("not a number of type F32 for each pair of rows").in_tensor(&info.name));
    }
    let bytes = input.read_vec(info.offset, info.n_bytes)?;
    let divisors: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let rope = keys::find_llama3(&model, &divisors)?;
    Ok(Model { rope, ..model })
}

/// The file must have the tensors of the model, in its shapes, and no others.
fn check_tensors(gguf: &Gguf, pairs: &[Pair]) -> Result<()> {
    for pair in pairs {
        let missing = || Error::corrupt("the model lacks this tensor").in_tensor(&pair.gguf);
        let info = gguf.tensors.get(&pair.gguf).ok_or_else(missing)?;
        let expected = pair.gguf_shape();
        if info.shape != expected {
            let what = format!("its shape is {:?} where the model's sizes give {expected:?}", info.shape);
            return Err(Error::corrupt(what).in_tensor(&pair.gguf));
        }
        if info.ty.decode().is_none() {
            return Err(unreadable(info.ty).in_tensor(&pair.gguf));
        }
    }
    let known: std::collections::HashSet<&str> = pairs.iter().map(|pair| pair.gguf.as_str()).collect();
    let unknown = gguf.tensors.keys().find(|name| !known.contains(name.as_str()) && *name != "rope_freqs.weight");
    match unknown {
        Some(name) => Err(Error::unsupported("a tensor that the architecture does not have").in_tensor(name)),
        None => Ok(()),
    }
}

/// The type that most values of matrices have, if that is one of floats; else bf16.
fn own_type(gguf: &Gguf, pairs: &[Pair]) -> Type {
    let matrices = pairs.iter().filter(|pair| pair.is_matrix).filter_map(|pair| gguf.tensors.get(&pair.gguf));
    commonest(matrices.map(|info| (info.ty, info.shape.iter().product())))
}

/// The type of floats that most values have, or bf16 where most are of another.
pub(crate) fn commonest(types: impl Iterator<Item = (Type, u64)>) -> Type {
    let mut counts: Vec<(Type, u64)> = Vec::new();
    for (ty, n_values) in types {
        match counts.iter_mut().find(|row| row.0 == ty) {
            Some(row) => row.1 += n_values,
            None => counts.push((ty, n_values)),
        }
    }
    let most = counts.into_iter().max_by_key(|row| row.1).map(|row| row.0);
    most.filter(|ty| ty.is_float()).unwrap_or(Type::BF16)
}

/// What each tensor of the destination is made of; `check_tensors` has passed.
fn parts<'a>(gguf: &'a Gguf, model: &Model, pairs: &[Pair], dtype: Type) -> Vec<(OutTensor, Part<'a>)> {
    let mut parts = Vec::new();
    for pair in pairs {
        let info = &gguf.tensors[&pair.gguf];
        let n_values = pair.shape.iter().product();
        let heads = pair.pairs_rows.then(|| heads(model, pair, Pairing::ToHalves));
        let job = Job { from: info.ty, to: dtype, n_values, heads };
        let n_bytes = info.n_bytes / pair.names.len() as u64;
        for (idx, name) in pair.names.iter().enumerate() {
            let tensor = OutTensor { name: name.clone(), dtype: dtype.name(), shape: pair.shape.clone() };
            parts.push((tensor, Part { info, offset: info.offset + idx as u64 * n_bytes, job }));
        }
    }
    parts
}

/// How rows of a tensor change places.
pub(crate) fn heads(model: &Model, pair: &Pair, pairing: Pairing) -> Heads {
    Heads { head_rows: model.head_dim, row_values: pair.shape.get(1).copied().unwrap_or(1), pairing }
}
