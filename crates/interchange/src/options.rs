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
    /// compressed-tensors: eight bits, a scale for each row.
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

    /// Whether the export is one GGUF file, and not a folder.
    pub fn is_gguf(self) -> bool {
        matches!(self, WeightType::Float(_) | WeightType::Q8_0)
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
    /// Type of matrices; `None`: the one that most weights of the source have, as GGUF.
    pub weights: Option<WeightType>,
    /// Replace what is at the destination.
    pub force: bool,
}

/// What an import or export did.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    /// `gguf`, `compressed-tensors` or `safetensors`: what was read.
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
