//! A folder of compressed-tensors in, a folder of floats out. Next in the flow: write.rs, the other way.

use std::collections::BTreeMap;
use std::path::Path;

use netweight_container::{Context, Error, Result};
use netweight_pack::Progress;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::scheme;
use crate::floats::Tally;
use crate::import::commonest;
use crate::options::{ImportOptions, Report};
use crate::shards::{Folder, OutTensor, Sink};
use crate::source::Source;
use crate::transcode::Job;
use crate::types::Type;

/// Weights that are converted at once.
const BATCH_WEIGHTS: u64 = 1 << 21;
/// Ends of names of tensors about activations and caches, which floats do not need.
const LEFT_OUT: [&str; 8] = [
    ".input_scale",
    ".input_zero_point",
    ".output_scale",
    ".output_zero_point",
    ".k_scale",
    ".v_scale",
    ".q_scale",
    ".input_global_scale",
];

/// What a tensor of the destination is made of.
enum Part {
    /// A tensor of floats.
    Floats { name: String, job: Job },
    /// Integers with scales.
    Quantized(Layer),
}

/// A quantised layer.
struct Layer {
    /// Its name, to which `.weight_scale` and the like are added.
    name: String,
    rows: u64,
    columns: u64,
    /// Bits of packed integers; `None`: a byte each.
    packed_bits: Option<u64>,
}

pub(crate) fn import(
    source: &Path,
    destination: &Path,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let root = source;
    let source = Source::open(root)?;
    let mut config = source.config()?;
    let scheme = scheme::read(&config).in_file(root)?;
    let dtype = options.dtype.map_or_else(|| own_type(&source), |dtype| dtype.ty());
    let mut notes = Vec::new();
    let plan = plan(&source, &scheme.bits, dtype, &mut notes).in_file(root)?;
    if scheme.has_activations {
        notes.push("activations were quantised too; as floats they are not".to_owned());
    }
    let (tensors, parts): (Vec<OutTensor>, Vec<Part>) = plan.into_iter().unzip();
    let sides = source.side_names()?;
    let names: Vec<&str> = sides.iter().map(String::as_str).collect();
    let place = (root, destination);
    let mut folder = Folder::begin(place, options.force, dtype.name(), &source.identity()?, tensors, &names)?;
    progress.start(source.n_bytes());
    let mut report = Report {
        from: "compressed-tensors".to_owned(),
        to: "safetensors".to_owned(),
        architecture: config["architectures"][0].as_str().unwrap_or_default().to_owned(),
        weights: dtype.name().to_lowercase(),
        n_tensors: parts.len() as u64,
        n_values: folder.tensors().iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum(),
        source_bytes: source.n_bytes(),
        notes,
        ..Report::default()
    };
    folder.write(progress, &mut |idx, sink| {
        let tally = match &parts[idx] {
            Part::Floats { name, job } => {
                job.run(&|offset, dst| source.read(name, offset, dst), sink, progress).in_tensor(name)?
            }
            Part::Quantized(layer) => layer.run(&source, dtype, sink, progress).in_tensor(&layer.name)?,
        };
        report.rounded += tally.rounded;
        Ok(())
    })?;
    config.remove("quantization_config");
    let dtype_field = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
    let dtype_name = match dtype.name() {
        "BF16" => "bfloat16",
        "F16" => "float16",
        _ => "float32",
    };
    config.insert(dtype_field.to_owned(), json!(dtype_name));
    for name in sides.iter().filter(|name| *name != "config.json") {
        folder.put(name, &source.side_file(name)?.unwrap_or_default())?;
    }
    folder.put_json("config.json", &Value::Object(config))?;
    (report.n_resumed, report.destination_bytes) = (folder.n_resumed, folder.n_bytes);
    folder.finish()?;
    Ok(report)
}

/// The type of most weights that are floats still.
fn own_type(source: &Source) -> Type {
    let floats = source.names().filter(|name| name.ends_with(".weight")).filter_map(|name| source.tensor(name));
    commonest(floats.filter_map(|entry| Some((Type::from_dtype(&entry.dtype_name)?, entry.shape.iter().product()))))
}

/// Every tensor of the destination; everything in the source must be understood.
fn plan(source: &Source, bits: &[u64], dtype: Type, notes: &mut Vec<String>) -> Result<Vec<(OutTensor, Part)>> {
    let mut parts = BTreeMap::new();
    let mut n_left_out = 0;
    for name in source.names() {
        let entry = source.needed(name)?;
        let layer = match (name.strip_suffix(".weight_packed"), name.strip_suffix(".weight")) {
            (Some(layer), _) => Some(Layer::packed(source, layer, bits).in_tensor(name)?),
            (_, Some(layer)) if entry.dtype_name == "I8" => Some(Layer::bytes(layer, &entry.shape).in_tensor(name)?),
            _ => None,
        };
        if let Some(layer) = layer {
            let shape = vec![layer.rows, layer.columns];
            let out = OutTensor { name: format!("{}.weight", layer.name), dtype: dtype.name(), shape };
            parts.insert(out.name.clone(), (out, Part::Quantized(layer)));
            continue;
        }
        let is_of_layer = [".weight_scale", ".weight_zero_point", ".weight_shape", ".weight_g_idx"].iter().any(|end| {
            let layer = name.strip_suffix(end).unwrap_or_default();
            let is_quantized = |end: &str| source.tensor(&format!("{layer}{end}"));
            is_quantized(".weight_packed").is_some()
                || is_quantized(".weight").is_some_and(|found| found.dtype_name == "I8")
        });
        if is_of_layer {
            continue;
        }
        if LEFT_OUT.iter().any(|end| name.ends_with(end)) {
            n_left_out += 1;
            continue;
        }
        let from = Type::from_dtype(&entry.dtype_name);
        let from = from.ok_or_else(|| Error::unsupported(format!("it is {}", entry.dtype_name)).in_tensor(name))?;
        let job = Job { from, to: dtype, n_values: entry.shape.iter().product(), heads: None };
        let out = OutTensor { name: name.to_owned(), dtype: dtype.name(), shape: entry.shape.clone() };
        parts.insert(name.to_owned(), (out, Part::Floats { name: name.to_owned(), job }));
    }
    if n_left_out > 0 {
        notes.push(format!("{n_left_out} scales of activations and caches are left out"));
    }
    Ok(parts.into_values().collect())
}

/// How integers of a layer become floats; by group of columns.
struct Scales {
    /// (rows, groups), or (1, 1)
    scales: Vec<f32>,
    /// The same shape; empty where all are 0.
    zeros: Vec<i32>,
    groups: u64,
    is_single: bool,
    /// Group of each column.
    group_of: Vec<u32>,
}

impl Layer {
    fn packed(source: &Source, name: &str, bits: &[u64]) -> Result<Layer> {
        let packed = source.needed(&format!("{name}.weight_packed"))?;
        let shape = source.read_whole(&format!("{name}.weight_shape"))?;
        let shape_dtype = &source.needed(&format!("{name}.weight_shape"))?.dtype_name;
        let dimensions: Vec<i64> = match shape_dtype.as_str() {
            "I64" => shape.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes)).collect(),
            "I32" => shape.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes).into()).collect(),
            _ => return Err(Error::corrupt(format!("weight_shape is {shape_dtype}"))),
        };
        let dimensions: Vec<u64> = dimensions.into_iter().filter_map(|n| u64::try_from(n).ok()).collect();
        let &[rows, columns] = dimensions.as_slice() else {
            return Err(Error::unsupported("a weight that is no matrix"));
        };
        let n_words = |bits: u64| columns.checked_mul(bits).map(|n_bits| n_bits.div_ceil(32));
        let fits = |bits: &&u64| n_words(**bits).is_some_and(|n_words| packed.shape == [rows, n_words]);
        let found = bits.iter().find(fits).filter(|_| packed.dtype_name == "I32" && rows > 0 && columns > 0);
        let bits = found.ok_or_else(|| {
            let (dtype, shape) = (&packed.dtype_name, &packed.shape);
            Error::corrupt(format!("{dtype} {shape:?} does not hold {rows} x {columns} integers of {bits:?} bits"))
        })?;
        Ok(Layer { name: name.to_owned(), rows, columns, packed_bits: Some(*bits) })
    }

    fn bytes(name: &str, shape: &[u64]) -> Result<Layer> {
        match shape {
            &[rows, columns] if rows > 0 && columns > 0 => {
                Ok(Layer { name: name.to_owned(), rows, columns, packed_bits: None })
            }
            _ => Err(Error::unsupported("a quantised weight that is no matrix")),
        }
    }

    fn row_bytes(&self) -> u64 {
        self.packed_bits.map_or(self.columns, |bits| (self.columns * bits).div_ceil(32) * 4)
    }

    fn run(&self, source: &Source, dtype: Type, sink: &mut Sink, progress: &dyn Progress) -> Result<Tally> {
        let tensor = format!("{}.{}", self.name, if self.packed_bits.is_some() { "weight_packed" } else { "weight" });
        let scales = self.scales(source)?;
        let encode = dtype.encode().ok_or_else(|| Error::unsupported("this type is not written"))?;
        let wide = |n: u64| usize::try_from(n).map_err(|_| Error::corrupt("too large for this machine"));
        let out_bytes = wide(dtype.n_bytes(self.columns).unwrap_or(0))?;
        let batch_rows = (BATCH_WEIGHTS / self.columns).max(1);
        let (mut tally, mut row) = (Tally::default(), 0);
        let (mut src, mut dst) = (Vec::new(), Vec::new());
        while row < self.rows {
            if progress.is_interrupted() {
                return Err(Error::interrupted());
            }
            let n_rows = batch_rows.min(self.rows - row);
            src.resize(wide(n_rows * self.row_bytes())?, 0);
            dst.resize(wide(n_rows)? * out_bytes, 0);
            source.read(&tensor, row * self.row_bytes(), &mut src)?;
            let rows = src.par_chunks(wide(self.row_bytes())?).zip(dst.par_chunks_mut(out_bytes)).enumerate();
            let counted = rows.map_init(Vec::new, |values, (idx, (packed, out))| {
                self.dequantize(row + idx as u64, packed, &scales, values);
                encode(values, out)
            });
            tally = tally.plus(counted.reduce(Tally::default, Tally::plus));
            if tally.unfit > 0 {
                return Err(Error::invalid(format!("{} values are too large for {}", tally.unfit, dtype.name())));
            }
            sink(&dst)?;
            progress.advance(src.len() as u64);
            row += n_rows;
        }
        Ok(tally)
    }

    /// One row of floats, `values`.
    fn dequantize(&self, row: u64, packed: &[u8], scales: &Scales, values: &mut Vec<f32>) {
        let first = if scales.is_single { 0 } else { (row * scales.groups) as usize };
        values.clear();
        values.extend(scales.group_of.iter().enumerate().map(|(column, group)| {
            let index = match self.packed_bits {
                Some(4) => i32::from(packed[column / 2] >> (column % 2 * 4) & 15) - 8,
                Some(_) => i32::from(packed[column]) - 128,
                None => i32::from(packed[column] as i8),
            };
            let at = first + *group as usize;
            let zero = scales.zeros.get(at).copied().unwrap_or(0);
            (index - zero) as f32 * scales.scales[at]
        }));
    }

    fn scales(&self, source: &Source) -> Result<Scales> {
        let name = format!("{}.weight_scale", self.name);
        let entry = source.needed(&name)?;
        let ty = Type::from_dtype(&entry.dtype_name);
        let ty = ty.ok_or_else(|| Error::unsupported(format!("scales of type {}", entry.dtype_name)))?;
        let n_scales: u64 = entry.shape.iter().product();
        let (groups, is_single) = match entry.shape.as_slice() {
            [rows, groups] if *rows == self.rows && *groups > 0 => (*groups, false),
            [rows] if *rows == self.rows => (1, false),
            _ if n_scales == 1 => (1, true),
            shape => return Err(Error::corrupt(format!("{} rows cannot have scales of shape {shape:?}", self.rows))),
        };
        let bytes = source.read_whole(&name)?;
        let mut scales = vec![0.0; bytes.len() / ty.n_bytes(1).unwrap_or(1) as usize];
        if let Some(decode) = ty.decode() {
            decode(&bytes, &mut scales);
        }
        let zeros = self.zeros(source, groups, is_single)?;
        Ok(Scales { scales, zeros, groups, is_single, group_of: self.group_of(source, groups)? })
    }

    fn group_of(&self, source: &Source, groups: u64) -> Result<Vec<u32>> {
        let name = format!("{}.weight_g_idx", self.name);
        if source.tensor(&name).is_some_and(|entry| entry.dtype_name == "I32" && entry.shape == [self.columns]) {
            let bytes = source.read_whole(&name)?;
            let said: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes)).collect();
            if said.iter().any(|group| *group != -1) {
                let group = |group: &i32| u32::try_from(*group).ok().filter(|group| u64::from(*group) < groups);
                let all: Option<Vec<u32>> = said.iter().map(group).collect();
                return all.ok_or_else(|| Error::corrupt("weight_g_idx names groups that are not there"));
            }
        }
        if !self.columns.is_multiple_of(groups) {
            return Err(Error::corrupt(format!("{} columns are no {groups} groups of one size", self.columns)));
        }
        let size = self.columns / groups;
        Ok((0..self.columns).map(|column| (column / size) as u32).collect())
    }

    fn zeros(&self, source: &Source, groups: u64, is_single: bool) -> Result<Vec<i32>> {
        let name = format!("{}.weight_zero_point", self.name);
        let Some(entry) = source.tensor(&name) else { return Ok(Vec::new()) };
        let bytes = source.read_whole(&name)?;
        let rows = if is_single { 1 } else { self.rows };
        let n_zeros = rows * groups;
        match (entry.dtype_name.as_str(), self.packed_bits) {
            ("I8", _) if bytes.len() as u64 == n_zeros => Ok(bytes.iter().map(|byte| i32::from(*byte as i8)).collect()),
            // Packed along rows: a word has zero points of neighbouring rows.
            ("I32", Some(bits)) if entry.shape == [(rows * bits).div_ceil(32), groups] => {
                let words: Vec<u32> = bytes.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect();
                let zero = |at: u64| {
                    let (row, group) = (at / groups, at % groups);
                    let word = words[(row * bits / 32 * groups + group) as usize];
                    (word >> (row * bits % 32) & ((1 << bits) - 1)) as i32 - (1 << (bits - 1))
                };
                Ok((0..n_zeros).map(zero).collect())
            }
            (dtype, _) => Err(Error::corrupt(format!("zero points are {dtype} {:?}", entry.shape))),
        }
    }
}
