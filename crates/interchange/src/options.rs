//! What callers choose, and what they are told. Next in the flow: import.rs and export.rs.

use serde::Serialize;

use crate::types::Type;

/// A type of floats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatType {
    /// bfloat16
    Bf16,
    /// float16
    F16,
    /// float32
    F32,
}

impl FloatType {
    /// All of them.
    pub const ALL: [FloatType; 3] = [FloatType::Bf16, FloatType::F16, FloatType::F32];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            FloatType::Bf16 => "bf16",
            FloatType::F16 => "f16",
            FloatType::F32 => "f32",
        }
    }

    pub(crate) fn ty(self) -> Type {
        match self {
            FloatType::Bf16 => Type::BF16,
            FloatType::F16 => Type::F16,
            FloatType::F32 => Type::F32,
        }
    }
}

/// What the matrices of an exported model are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// GGUF, of floats.
    Float(FloatType),
    /// GGUF, of blocks of 32 with a scale and eight bits each.
    Q8_0,
    /// compressed-tensors and ONNX: eight bits, a scale for each row.
    Int8,
    /// compressed-tensors: four bits, a scale for every 128 weights of a row.
    Int4,
}

impl WeightType {
    /// All of them.
    pub const ALL: [WeightType; 6] = [
        WeightType::Float(FloatType::Bf16),
        WeightType::Float(FloatType::F16),
        WeightType::Float(FloatType::F32),
        WeightType::Q8_0,
        WeightType::Int8,
        WeightType::Int4,
    ];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            WeightType::Float(float) => float.name(),
            WeightType::Q8_0 => "q8_0",
            WeightType::Int8 => "int8",
            WeightType::Int4 => "int4",
        }
    }

    /// The format that an export to this type has where none is named.
    pub fn usual_format(self) -> Format {
        match self {
            WeightType::Float(_) | WeightType::Q8_0 => Format::Gguf,
            WeightType::Int8 | WeightType::Int4 => Format::CompressedTensors,
        }
    }
}

/// What an export writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One file, for llama.cpp and what is built on it.
    Gguf,
    /// A folder of safetensors, for vLLM and transformers.
    CompressedTensors,
    /// A folder with a graph and its weights, for ONNX Runtime.
    Onnx,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 3] = [Format::Gguf, Format::CompressedTensors, Format::Onnx];

    /// Name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Gguf => "gguf",
            Format::CompressedTensors => "compressed-tensors",
            Format::Onnx => "onnx",
        }
    }

    /// Whether it has matrices of that type.
    pub fn has(self, weights: WeightType) -> bool {
        weights.usual_format() == self
            || self == Format::Onnx && matches!(weights, WeightType::Float(_) | WeightType::Int8)
    }
}

/// What an import does.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// Type of all weights; `None`: the one that most weights of the source have, bf16 where they are quantised.
    pub dtype: Option<FloatType>,
    /// Replace what is at the destination.
    pub force: bool,
}

/// What an export does.
#[derive(Clone, Debug, Default)]
pub struct ExportOptions {
    /// Type of matrices; `None`: the one that most weights of the source have, in GGUF; in ONNX each its own, and grids
    /// as they are.
    pub weights: Option<WeightType>,
    /// What is written; `None`: what the type of matrices usually has, or GGUF.
    pub format: Option<Format>,
    /// ONNX: operators of the standard alone, and none of ONNX Runtime's own.
    pub standard_ops: bool,
    /// Replace what is at the destination.
    pub force: bool,
}

impl ExportOptions {
    /// What is written.
    pub fn format(&self) -> Format {
        self.format.or(self.weights.map(WeightType::usual_format)).unwrap_or(Format::Gguf)
    }
}

/// What an import or export did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// `gguf`, `compressed-tensors`, `onnx` or `safetensors`: what was read.
    pub from: String,
    /// The same, of what was written.
    pub to: String,
    /// Name of the model's class.
    pub architecture: String,
    /// Type of the matrices that were written.
    pub weights: String,
    /// Tensors written.
    pub n_tensors: u64,
    /// Values in them, where they hold weights.
    pub n_values: u64,
    /// Of those, values that the new type of floats holds only rounded. Values that were quantised are not counted.
    pub rounded: u64,
    /// Values that were rounded to integers with scales.
    pub quantized: u64,
    /// Bytes read.
    pub source_bytes: u64,
    /// Bytes written.
    pub destination_bytes: u64,
    /// Files kept from an earlier run; their values are not in `rounded`.
    pub n_resumed: u64,
    /// What a person may want to know.
    pub notes: Vec<String>,
    /// Time taken.
    pub seconds: f64,
}
