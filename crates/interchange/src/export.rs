//! A checkpoint or an archive in, a GGUF file or a folder of compressed-tensors or ONNX out.
//! Next in the flow: source.rs, then gguf/write.rs, compressed/mod.rs or onnx/mod.rs.

use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;

use netweight_container::{AtomicFile, Context, Error, Result};
use netweight_pack::{Progress, check_apart, check_file_free};
use serde_json::{Map, Value};

use crate::compressed;
use crate::config;
use crate::gguf::{Layout, MetaValue, OutTensor};
use crate::import::{commonest, heads};
use crate::keys;
use crate::model::{Model, Pair};
use crate::onnx;
use crate::options::{ExportOptions, Format, Report, WeightType};
use crate::shards::Buffered;
use crate::source::Source;
use crate::tokens::{Words, to_gguf};
use crate::transcode::{Job, Pairing};
use crate::types::Type;

/// Exports a checkpoint or an archive, a folder, to what `options` name: one GGUF file, or a folder of
/// compressed-tensors or ONNX. The destination appears at the very end, whole.
///
/// # Errors
/// `InvalidArgument` where it is no such folder, or the destination is there (without `force`); `Unsupported` for
/// what is not known, with what is; `Truncated`, `Corrupt`, `Io`.
pub fn export(source: &Path, destination: &Path, options: &ExportOptions, progress: &dyn Progress) -> Result<Report> {
    let begin = Instant::now();
    let source = Source::open(source)?;
    let config = source.config()?;
    if config.contains_key("quantization_config") {
        let error = Error::unsupported("a checkpoint that is quantised already: import it first, then export that");
        return Err(error.in_file(source.root()));
    }
    check_choice(options)?;
    let mut report = match options.format() {
        Format::Onnx => {
            let (floats, rounds) = match options.weights {
                Some(WeightType::Float(float)) => (Some(float.ty()), false),
                Some(_) => (None, true), // int8: `check_choice`.
                None => (None, false),
            };
            let choice = onnx::Choice { floats, rounds, standard: options.standard_ops };
            let onnx = onnx::Onnx { source: &source, config: &config, choice };
            onnx::export(&onnx, destination, options.force, progress)?
        }
        Format::CompressedTensors => {
            let model = model(&source, &config).in_file(source.root())?;
            let bits = if options.weights == Some(WeightType::Int4) { 4 } else { 8 };
            compressed::export(&source, config, &model, bits, destination, options.force, progress)?
        }
        Format::Gguf => {
            let model = model(&source, &config).in_file(source.root())?;
            let weights = match options.weights {
                Some(WeightType::Float(float)) => float.ty(),
                Some(_) => Type::Q8_0, // `check_choice`
                None => own_type(&source, &model)?,
            };
            let gguf = Gguf { source: &source, model: &model, weights };
            gguf.export(&config, destination, options.force, progress)?
        }
    };
    let keeps_integers = options.format() == Format::Onnx && options.weights.is_none();
    if !keeps_integers && source.names().any(|name| source.grid(name).is_some()) {
        let what = "a tuned archive's integers went over as bf16 values, each within a 512th; --to onnx keeps them";
        report.notes.push(what.to_owned());
    }
    Ok(Report { seconds: begin.elapsed().as_secs_f64(), ..report })
}

/// Refuses what a format does not have.
fn check_choice(options: &ExportOptions) -> Result<()> {
    let format = options.format();
    if options.standard_ops && format != Format::Onnx {
        return Err(Error::invalid(format!("{} has no operators to choose", format.name())));
    }
    if let Some(weights) = options.weights.filter(|weights| !format.has(*weights)) {
        let has: Vec<&str> = WeightType::ALL.into_iter().filter(|ty| format.has(*ty)).map(WeightType::name).collect();
        let (format, weights) = (format.name(), weights.name());
        return Err(Error::invalid(format!("{format} is not written with {weights}; it has {}", has.join(", "))));
    }
    Ok(())
}

/// The model; a head of its own counts even where config.json ties it.
fn model(source: &Source, config: &Map<String, Value>) -> Result<Model> {
    let model = config::read(config)?;
    let is_tied = model.is_tied && source.tensor("lm_head.weight").is_none();
    let model = Model { is_tied, ..model };
    check_tensors(source, &model.pairs())?;
    Ok(model)
}

/// The checkpoint must have the tensors of the model, in its shapes, and no others.
fn check_tensors(source: &Source, pairs: &[Pair]) -> Result<()> {
    let mut known = HashSet::new();
    for (pair, name) in pairs.iter().flat_map(|pair| pair.names.iter().map(move |name| (pair, name))) {
        let entry = source.needed(name)?;
        if entry.shape != pair.shape {
            let what = format!("its shape is {:?} where config.json gives {:?}", entry.shape, pair.shape);
            return Err(Error::corrupt(what).in_tensor(name));
        }
        float_type(source, name)?;
        known.insert(name.as_str());
    }
    // Frequencies that old versions of transformers stored; they follow from config.json.
    let is_left_out = |name: &str| name.ends_with("rotary_emb.inv_freq");
    match source.names().find(|name| !known.contains(name) && !is_left_out(name)) {
        Some(name) => Err(Error::unsupported("a tensor that the architecture does not have").in_tensor(name)),
        None => Ok(()),
    }
}

/// The type of a tensor's floats.
///
/// # Errors
/// `Unsupported` where it has none.
pub(crate) fn float_type(source: &Source, name: &str) -> Result<Type> {
    let dtype = &source.needed(name)?.dtype_name;
    let other =
        || Error::unsupported(format!("it is {dtype}; weights of BF16, F16 and F32 can be exported")).in_tensor(name);
    Type::from_dtype(dtype).ok_or_else(other)
}

/// The type that most values of matrices have.
pub(crate) fn own_type(source: &Source, model: &Model) -> Result<Type> {
    let mut types = Vec::new();
    for pair in model.pairs().iter().filter(|pair| pair.is_matrix) {
        for name in &pair.names {
            types.push((float_type(source, name)?, pair.shape.iter().product()));
        }
    }
    Ok(commonest(types.into_iter()))
}

/// An export to GGUF.
struct Gguf<'a> {
    source: &'a Source,
    model: &'a Model,
    weights: Type,
}

impl Gguf<'_> {
    fn export(
        &self,
        config: &Map<String, Value>,
        destination: &Path,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<Report> {
        check_apart(self.source.root(), destination)?;
        check_file_free(destination, force)?;
        let (words, metadata) = self.metadata(config).in_file(self.source.root())?;
        let (pairs, divisors) = (self.model.pairs(), self.model.rope_divisors());
        let mut report = Report { notes: words.notes, ..self.report() };
        let mut tensors: Vec<OutTensor> = pairs.iter().map(|pair| self.tensor(pair)).collect();
        let n_odd = pairs.iter().zip(&tensors).filter(|(pair, out)| pair.is_matrix && out.ty != self.weights).count();
        if n_odd > 0 {
            report.notes.push(format!("{n_odd} matrices have rows that are no whole blocks of Q8_0, and stay floats"));
        }
        if let Some(divisors) = &divisors {
            let shape = vec![divisors.len() as u64];
            tensors.push(OutTensor { name: "rope_freqs.weight".to_owned(), shape, ty: Type::F32 });
        }
        let layout = Layout::new(&metadata, &tensors)?;
        progress.start(self.source.n_bytes());
        let file = AtomicFile::create(destination, force)?;
        let mut out = Buffered { file: &file, buffer: layout.front, offset: 0 };
        for ((pair, tensor), offset) in pairs.iter().zip(&tensors).zip(&layout.offsets) {
            pad_to(&mut out, *offset)?;
            self.write(pair, tensor, &mut out, &mut report, progress)?;
        }
        if let Some((divisors, offset)) = divisors.iter().zip(layout.offsets.last()).next() {
            pad_to(&mut out, *offset)?;
            divisors.iter().try_for_each(|divisor| out.write(&divisor.to_le_bytes()))?;
        }
        pad_to(&mut out, layout.file_bytes)?;
        out.flush()?;
        file.commit()?;
        report.n_tensors = tensors.len() as u64;
        report.destination_bytes = layout.file_bytes;
        Ok(report)
    }

    fn report(&self) -> Report {
        Report {
            from: "safetensors".to_owned(),
            to: "gguf".to_owned(),
            architecture: self.model.family.architecture.to_owned(),
            weights: self.weights.name().to_lowercase(),
            source_bytes: self.source.n_bytes(),
            ..Report::default()
        }
    }

    /// Matrices are of the type that was asked for, where their rows are whole blocks; everything else is F32.
    fn tensor(&self, pair: &Pair) -> OutTensor {
        let fits = pair.shape.last().is_some_and(|row| row.is_multiple_of(self.weights.block_values()));
        let ty = match (pair.is_matrix, fits) {
            (true, true) => self.weights,
            (true, false) => Type::BF16,
            (false, _) => Type::F32,
        };
        OutTensor { name: pair.gguf.clone(), shape: pair.gguf_shape(), ty }
    }

    fn write(
        &self,
        pair: &Pair,
        tensor: &OutTensor,
        out: &mut Buffered,
        report: &mut Report,
        progress: &dyn Progress,
    ) -> Result<()> {
        for name in &pair.names {
            let n_values = pair.shape.iter().product();
            let heads = pair.pairs_rows.then(|| heads(self.model, pair, Pairing::ToNeighbours));
            let job = Job { from: float_type(self.source, name)?, to: tensor.ty, n_values, heads };
            let read = |offset: u64, dst: &mut [u8]| self.source.read(name, offset, dst);
            let tally = job.run(&read, &mut |bytes| out.write(bytes), progress).in_tensor(name)?;
            report.rounded += tally.rounded;
            report.quantized += if tensor.ty.is_float() { 0 } else { n_values };
            report.n_values += n_values;
        }
        Ok(())
    }

    /// What the file says before its tensors.
    fn metadata(&self, config: &Map<String, Value>) -> Result<(Words, Vec<(String, MetaValue)>)> {
        let tokenizer = self.source.object("tokenizer.json")?;
        let tokenizer = tokenizer.ok_or_else(|| Error::unsupported("a folder without tokenizer.json"))?;
        let mut settings = self.source.object("tokenizer_config.json")?.unwrap_or_default();
        if let Some(template) = self.source.side_file("chat_template.jinja")? {
            let text = String::from_utf8(template).map_err(|_| Error::corrupt("chat_template.jinja is not UTF-8"))?;
            settings.insert("chat_template".to_owned(), Value::String(text));
        }
        let generation = self.source.object("generation_config.json")?;
        let ids = config::special_ids(config, generation.as_ref());
        let mut words = to_gguf(&Value::Object(tokenizer), &settings, &ids, self.model.vocabulary)?;
        let file_type = match self.weights {
            ty if ty == Type::F32 => 0,
            ty if ty == Type::F16 => 1,
            ty if ty == Type::Q8_0 => 7,
            _ => 32, // BF16
        };
        let mut metadata = keys::write(self.model);
        let mut put = |key: &str, value: MetaValue| metadata.push((format!("general.{key}"), value));
        put("type", MetaValue::Text("model".to_owned()));
        let name = self.source.root().file_name().map(|name| name.to_string_lossy().into_owned());
        if let Some(name) = name {
            put("name", MetaValue::Text(name));
        }
        put("file_type", MetaValue::U32(file_type));
        put("quantization_version", MetaValue::U32(2));
        metadata.append(&mut words.metadata);
        Ok((words, metadata))
    }
}

fn pad_to(out: &mut Buffered, offset: u64) -> Result<()> {
    let n_bytes = offset.saturating_sub(out.position());
    out.write(&vec![0; n_bytes as usize]) // Less than an alignment.
}
