//! A checkpoint or an archive in, a folder with a graph, its weights and the files beside them out: the main path of an
//! export to ONNX. The folder appears at the very end, whole.

use std::collections::BTreeSet;
use std::path::Path;

use netweight_container::{Context, Error, Result, Staging};
use netweight_model::Spec;
use netweight_pack::{Progress, WRITER, check_apart, check_folder_free};
use prost::Message;
use serde_json::{Map, Value, json};

use super::data::{Data, Initializer};
use super::decoder;
use super::proto;
use super::weights::{Choice, Weights};
use crate::import::commonest;
use crate::options::Report;
use crate::shards::Buffered;
use crate::source::Source;

/// The graph's file.
const GRAPH_NAME: &str = "model.onnx";
/// The weights' file.
const DATA_NAME: &str = "model.onnx.data";
/// Shorter tensors stay in the graph's file.
const MIN_OUTSIDE_BYTES: u64 = 1024;
/// Where tensors begin in the weights' file, so that it can be mapped; short ones at a smaller multiple.
const ALIGNMENTS: [u64; 2] = [4096, 64];

/// An export to ONNX.
pub(crate) struct Onnx<'a> {
    pub(crate) source: &'a Source,
    pub(crate) config: &'a Map<String, Value>,
    pub(crate) choice: Choice,
}

/// Writes the folder.
///
/// # Errors
/// `InvalidArgument` where something is in the way; `Unsupported` for a model that the graph does not spell; `Corrupt`,
/// `Io`.
pub(crate) fn export(onnx: &Onnx, destination: &Path, force: bool, progress: &dyn Progress) -> Result<Report> {
    let source = onnx.source;
    check_apart(source.root(), destination)?;
    let sides = source.side_names()?;
    let outputs: BTreeSet<String> =
        sides.iter().map(String::as_str).chain([GRAPH_NAME, DATA_NAME]).map(str::to_owned).collect();
    check_folder_free(destination, force, &outputs)?;
    let spec = spec(onnx).in_file(source.root())?;
    progress.start(source.n_bytes());
    let mut weights = Weights::new(source, onnx.choice, progress);
    let mut graph = decoder::build(&spec, &mut weights).in_file(source.root())?;
    weights.check_all_used().in_file(source.root())?;
    graph.prune();
    let initializers = std::mem::take(&mut graph.initializers);
    let (tensors, offsets) = place(&initializers);
    let record = json!({
        "writer": WRITER, "verb": "export onnx", "options": format!("{:?}", onnx.choice), "sources": source.identity()?,
    });
    let staging = Staging::open(destination, record.to_string().as_bytes())?;
    let mut report = report(onnx, &spec, &weights);
    report.n_tensors = initializers.len() as u64;
    report.destination_bytes = data(source, &staging, &initializers, &offsets, &mut report.rounded, progress)?;
    let mut put = |name: &str, bytes: &[u8]| {
        let file = staging.create(name)?;
        file.write_all_at(0, bytes)?;
        report.destination_bytes += bytes.len() as u64;
        file.commit()
    };
    put(GRAPH_NAME, &graph.into_model(tensors).encode_to_vec())?;
    for name in &sides {
        put(name, &source.side_file(name)?.unwrap_or_default())?;
    }
    check_folder_free(destination, force, &outputs)?; // Again: that was long ago.
    staging.commit(force)?;
    Ok(report)
}

/// The declaration; a head of its own counts even where config.json ties it.
fn spec(onnx: &Onnx) -> Result<Spec> {
    use netweight_model::Error as ModelError;
    let text = Value::Object(onnx.config.clone()).to_string();
    let mut spec = Spec::from_config(&text).map_err(|error| match error {
        ModelError::UnknownArchitecture { .. } | ModelError::Unsupported { .. } => {
            Error::unsupported(error.to_string())
        }
        _ => Error::corrupt(error.to_string()),
    })?;
    let is_tied = std::mem::replace(&mut spec.is_tied, false);
    let has_head = |name: &String| onnx.source.tensor(name).is_some();
    let head = spec.weights().head;
    spec.is_tied = is_tied && !head.is_some_and(|head| head.linear.names.iter().any(has_head));
    decoder::check(&spec)?;
    Ok(spec)
}

fn report(onnx: &Onnx, spec: &Spec, weights: &Weights) -> Report {
    let mut report = Report {
        from: "safetensors".to_owned(),
        to: "onnx".to_owned(),
        architecture: spec.architecture().to_owned(),
        n_values: weights.n_values,
        quantized: weights.n_rounded,
        source_bytes: onnx.source.n_bytes(),
        ..Report::default()
    };
    report.weights = match (weights.n_of_grids, onnx.choice.rounds) {
        (1.., _) => "integers".to_owned(),
        (0, true) => "int8".to_owned(),
        (0, false) => commonest(weights.floats.iter().copied()).name().to_lowercase(),
    };
    if weights.n_of_grids > 0 {
        let what = "matrices of integers and steps go over as they are; values of `restore` are those rounded to bf16";
        report.notes.push(what.to_owned());
    }
    report
}

/// Tensors as the graph has them, and where the data of each begins; `None` where it is in the graph.
fn place(initializers: &[Initializer]) -> (Vec<proto::Tensor>, Vec<Option<u64>>) {
    let mut next = 0u64;
    let place = |initializer: &Initializer| {
        let Initializer { name, data_type, dims, data } = initializer;
        let mut tensor = proto::Tensor {
            dims: dims.clone(),
            data_type: *data_type,
            name: name.clone(),
            raw_data: None,
            external_data: Vec::new(),
            data_location: None,
        };
        let n_bytes = data.len_bytes();
        if let Data::Bytes(bytes) = data
            && n_bytes < MIN_OUTSIDE_BYTES
        {
            tensor.raw_data = Some(bytes.clone());
            return (tensor, None);
        }
        let [long, short] = ALIGNMENTS;
        let offset = next.next_multiple_of(if n_bytes < long { short } else { long });
        next = offset + n_bytes;
        let entry = |key: &str, value: String| proto::Entry { key: key.to_owned(), value };
        tensor.external_data = vec![
            entry("location", DATA_NAME.to_owned()),
            entry("offset", offset.to_string()),
            entry("length", n_bytes.to_string()),
        ];
        tensor.data_location = Some(1);
        (tensor, Some(offset))
    };
    initializers.iter().map(place).unzip()
}

/// Writes the weights' file; its size comes back.
fn data(
    source: &Source,
    staging: &Staging,
    initializers: &[Initializer],
    offsets: &[Option<u64>],
    rounded: &mut u64,
    progress: &dyn Progress,
) -> Result<u64> {
    let file = staging.create(DATA_NAME)?;
    let mut out = Buffered { file: &file, buffer: Vec::new(), offset: 0 };
    for (initializer, offset) in initializers.iter().zip(offsets) {
        let Some(offset) = offset else { continue };
        out.write(&vec![0; (offset - out.position()) as usize])?; // Less than an alignment.
        let end = offset + initializer.data.len_bytes();
        let tally = initializer.data.write(source, progress, &mut |bytes| out.write(bytes))?;
        assert_eq!(out.position(), end, "{} is written as long as it was planned", initializer.name);
        *rounded += tally.rounded;
    }
    out.flush()?;
    let n_bytes = out.position();
    file.commit()?;
    Ok(n_bytes)
}
