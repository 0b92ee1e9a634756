//! A checkpoint in, a folder of compressed-tensors out: weights of linear layers rounded to the nearest integer, with
//! scales. Everything else stays as it is.

use std::path::Path;

use netweight_container::{Error, Result};
use netweight_pack::Progress;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::scheme::{self, GROUP_WEIGHTS};
use crate::export::{float_type, own_type};
use crate::model::{Model, Pair};
use crate::options::Report;
use crate::shards::{Folder, OutTensor, Sink};
use crate::source::Source;
use crate::transcode::Job;
use crate::types::Type;

/// Weights that are converted at once.
const BATCH_WEIGHTS: u64 = 1 << 21;

/// What a tensor of the destination is made of.
enum Part {
    /// A tensor that stays as it is.
    Same {
        name: String,
        job: Job,
    },
    Scales(Layer),
    Packed(Layer),
    Shape(Layer),
}

/// A layer to quantise.
#[derive(Clone)]
struct Layer {
    /// Its weights.
    name: String,
    rows: u64,
    columns: u64,
    from: Type,
    /// Type of its scales.
    scale: Type,
    bits: u64,
    group_weights: u64,
}

pub(crate) fn export(
    source: &Source,
    mut config: Map<String, Value>,
    model: &Model,
    bits: u64,
    destination: &Path,
    force: bool,
    progress: &dyn Progress,
) -> Result<Report> {
    let (plan, ignored) = plan(source, model, bits)?;
    let (tensors, parts): (Vec<OutTensor>, Vec<Part>) = plan.into_iter().unzip();
    let sides = source.side_names()?;
    let names: Vec<&str> = sides.iter().map(String::as_str).collect();
    let options = format!("int{bits}");
    let mut folder =
        Folder::begin((source.root(), destination), force, &options, &source.identity()?, tensors, &names)?;
    progress.start(source.n_bytes());
    let mut report = Report {
        from: "safetensors".to_owned(),
        to: "compressed-tensors".to_owned(),
        architecture: model.family.architecture.to_owned(),
        weights: options,
        n_tensors: parts.len() as u64,
        source_bytes: source.n_bytes(),
        ..Report::default()
    };
    for part in &parts {
        report.n_values += match part {
            Part::Same { job, .. } => job.n_values,
            Part::Packed(layer) => layer.rows * layer.columns,
            Part::Scales(_) | Part::Shape(_) => 0,
        };
        report.quantized += if let Part::Packed(layer) = part { layer.rows * layer.columns } else { 0 };
    }
    let mut worst = 0f64;
    folder.write(progress, &mut |idx, sink| match &parts[idx] {
        Part::Same { name, job } => job.run(&|offset, dst| source.read(name, offset, dst), sink, progress).map(drop),
        Part::Scales(layer) => layer.each_batch(source, progress, &mut |values| sink(&layer.scale_bytes(values)?)),
        Part::Packed(layer) => {
            let mut loss = Loss::default();
            layer.each_batch(source, &netweight_pack::Silent, &mut |values| {
                let (packed, of_batch) = layer.pack(values)?;
                loss = loss.plus(of_batch);
                sink(&packed)
            })?;
            worst = worst.max(loss.relative());
            Ok(())
        }
        Part::Shape(layer) => shape(layer, sink),
    })?;
    if folder.n_resumed == 0 && report.quantized > 0 {
        let percent = 100.0 * worst;
        let what =
            format!("rounding changed no matrix by more than {percent:.2} % (root mean square, of its weights')");
        report.notes.push(what);
    }
    for name in sides.iter().filter(|name| *name != "config.json") {
        folder.put(name, &source.side_file(name)?.unwrap_or_default())?;
    }
    config.insert("quantization_config".to_owned(), scheme::write(bits, &ignored));
    folder.put_json("config.json", &Value::Object(config))?;
    (report.n_resumed, report.destination_bytes) = (folder.n_resumed, folder.n_bytes);
    folder.finish()?;
    Ok(report)
}

/// Sums of squares.
#[derive(Clone, Copy, Default)]
struct Loss {
    of_errors: f64,
    of_weights: f64,
}

impl Loss {
    fn plus(self, other: Loss) -> Loss {
        Loss { of_errors: self.of_errors + other.of_errors, of_weights: self.of_weights + other.of_weights }
    }

    /// Root mean square of errors over that of weights.
    fn relative(self) -> f64 {
        if self.of_weights == 0.0 { 0.0 } else { (self.of_errors / self.of_weights).sqrt() }
    }
}

fn shape(layer: &Layer, sink: &mut Sink) -> Result<()> {
    sink(&[layer.rows.to_le_bytes(), layer.columns.to_le_bytes()].concat())
}

/// Every tensor of the destination with what it is made of, and names of linear layers that stay as they are.
type Plan = (Vec<(OutTensor, Part)>, Vec<String>);

fn plan(source: &Source, model: &Model, bits: u64) -> Result<Plan> {
    let scale = own_type(source, model)?;
    let (mut parts, mut ignored) = (Vec::new(), vec!["lm_head".to_owned()]);
    for pair in model.pairs() {
        let is_linear = is_linear(&pair);
        for name in &pair.names {
            let from = float_type(source, name)?;
            if is_linear {
                parts.extend(Layer::new(name, &pair.shape, from, scale, bits)?.parts());
                continue;
            }
            if let Some(router) = name.strip_suffix(".weight").filter(|_| pair.gguf.ends_with("ffn_gate_inp.weight")) {
                ignored.push(router.to_owned());
            }
            let job = Job { from, to: from, n_values: pair.shape.iter().product(), heads: None };
            let out = OutTensor { name: name.clone(), dtype: from.name(), shape: pair.shape.clone() };
            parts.push((out, Part::Same { name: name.clone(), job }));
        }
    }
    Ok((parts, ignored))
}

/// Whether it is a matrix inside a layer.
fn is_linear(pair: &Pair) -> bool {
    pair.is_matrix && pair.gguf.starts_with("blk.")
}

impl Layer {
    fn new(name: &str, shape: &[u64], from: Type, scale: Type, bits: u64) -> Result<Layer> {
        let (rows, columns) = (shape[0], shape[1]); // A matrix: `is_linear`.
        let group_weights = if bits == 4 { GROUP_WEIGHTS } else { columns };
        if !columns.is_multiple_of(group_weights) {
            let what = format!("its rows of {columns} weights are no whole groups of {GROUP_WEIGHTS}; choose int8");
            return Err(Error::unsupported(what).in_tensor(name));
        }
        Ok(Layer { name: name.to_owned(), rows, columns, from, scale, bits, group_weights })
    }

    fn n_words(&self) -> u64 {
        (self.columns * self.bits).div_ceil(32)
    }

    fn parts(self) -> [(OutTensor, Part); 3] {
        let out = |end: &str, dtype, shape: &[u64]| OutTensor {
            name: format!("{}_{end}", self.name),
            dtype,
            shape: shape.to_vec(),
        };
        [
            (out("packed", "I32", &[self.rows, self.n_words()]), Part::Packed(self.clone())),
            (
                out("scale", self.scale.name(), &[self.rows, self.columns / self.group_weights]),
                Part::Scales(self.clone()),
            ),
            (out("shape", "I64", &[2]), Part::Shape(self.clone())),
        ]
    }

    /// Hands over whole rows of values, some megabytes at a time.
    fn each_batch(
        &self,
        source: &Source,
        progress: &dyn Progress,
        take: &mut dyn FnMut(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let row_bytes = self.from.n_bytes(self.columns).unwrap_or(0);
        let batch_rows = (BATCH_WEIGHTS / self.columns).max(1);
        let decode = self.from.decode().ok_or_else(|| Error::unsupported("this type is not read"))?;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        let mut row = 0;
        while row < self.rows {
            let n_rows = batch_rows.min(self.rows - row);
            bytes.resize((n_rows * row_bytes) as usize, 0);
            source.read(&self.name, row * row_bytes, &mut bytes)?;
            values.resize((n_rows * self.columns) as usize, 0.0);
            decode(&bytes, &mut values);
            if values.iter().any(|value| !value.is_finite()) {
                return Err(Error::invalid("it has weights that are not finite; such a layer cannot be quantised"));
            }
            take(&values)?;
            progress.advance(bytes.len() as u64);
            row += n_rows;
        }
        Ok(())
    }

    /// The scale of a group as it is stored, and as a float.
    fn scale(&self, group: &[f32]) -> Result<(Vec<u8>, f32)> {
        let largest = group.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        // 15 steps for four bits, 255 for eight, as llm-compressor has it.
        let exact = largest / (((1u32 << self.bits) - 1) as f32 / 2.0);
        let mut stored = vec![0; self.scale.n_bytes(1).unwrap_or(0) as usize];
        let mut scale = [0.0];
        // A group of zeros may have any scale; one that rounds to 0 may not.
        for candidate in [exact, f32::EPSILON] {
            if let (Some(encode), Some(decode)) = (self.scale.encode(), self.scale.decode()) {
                encode(&[candidate], &mut stored);
                decode(&stored, &mut scale);
            }
            if scale[0] > 0.0 {
                break;
            }
        }
        if !scale[0].is_finite() || scale[0] <= 0.0 {
            return Err(Error::invalid(format!("a group's scale does not fit {}", self.scale.name())));
        }
        Ok((stored, scale[0]))
    }

    fn scale_bytes(&self, values: &[f32]) -> Result<Vec<u8>> {
        let groups = values.par_chunks(self.group_weights as usize);
        let scales = groups.map(|group| self.scale(group).map(|(stored, _)| stored)).collect::<Result<Vec<_>>>()?;
        Ok(scales.concat())
    }

    /// Integers, counted from the least, low bits first; a row ends with a word.
    fn pack(&self, values: &[f32]) -> Result<(Vec<u8>, Loss)> {
        let row_bytes = self.n_words() as usize * 4;
        let rows = values.par_chunks(self.columns as usize).map(|row| {
            let (mut packed, mut loss) = (vec![0u8; row_bytes], Loss::default());
            for (group_idx, group) in row.chunks(self.group_weights as usize).enumerate() {
                let (_, scale) = self.scale(group)?;
                let first = group_idx * self.group_weights as usize;
                for (idx, value) in group.iter().enumerate() {
                    let column = first + idx;
                    let half = 1i32 << (self.bits - 1);
                    let index = (value / scale).round_ties_even().clamp(-half as f32, (half - 1) as f32) as i32 + half;
                    let error = f64::from(value - scale * (index - half) as f32);
                    let (of_errors, of_weights) = (error * error, f64::from(*value) * f64::from(*value));
                    loss = loss.plus(Loss { of_errors, of_weights });
                    match self.bits {
                        4 => packed[column / 2] |= (index as u8) << (column % 2 * 4),
                        _ => packed[column] = index as u8,
                    }
                }
            }
            Ok((packed, loss))
        });
        let (packed, losses): (Vec<Vec<u8>>, Vec<Loss>) = rows.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok((packed.concat(), losses.into_iter().fold(Loss::default(), Loss::plus)))
    }
}
