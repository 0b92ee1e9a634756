//! Matrices of a model's files as f32. Goes in: a store and the model's declaration. Comes out: a list of the matrices
//! and their weights.

use half::{bf16, f16};
use ndarray::Array2;
use netweight_engine::Store;
use netweight_model::{Kind, Spec};

use crate::error::{Error, Result};

/// A matrix that can be quantised.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixInfo {
    /// Its name in the store.
    pub name: String,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Whether its rows are looked up, perhaps besides being multiplied with.
    pub is_embedding: bool,
}

/// Every matrix of the model, in the order of the forward pass.
pub fn matrices(store: &Store, spec: &Spec) -> Vec<MatrixInfo> {
    let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
    let describe = |tensor: netweight_model::Tensor| {
        let name = tensor.names.iter().find(|name| store.tensor(name).is_some()).cloned();
        MatrixInfo {
            name: name.unwrap_or_else(|| tensor.name().to_owned()),
            rows: tensor.rows,
            cols: tensor.cols,
            is_embedding: tensor.kind == Kind::Embedding,
        }
    };
    matrices.map(describe).collect()
}

/// Reads a matrix.
///
/// # Errors
/// `File` where it cannot be read; `InvalidArgument` where its dtype is none of BF16, F16 and F32, or its shape is another.
pub fn read_matrix(store: &Store, info: &MatrixInfo) -> Result<Array2<f32>> {
    let entry = store.tensor(&info.name);
    let entry = entry.ok_or_else(|| Error::invalid(format!("the model has no tensor {:?}", info.name)))?;
    let mut bytes = vec![0; usize::try_from(entry.len_bytes()).map_err(|_| Error::invalid("a matrix beyond memory"))?];
    store.read(&info.name, 0, &mut bytes)?;
    let weights: Vec<f32> = match entry.dtype_name.as_str() {
        "BF16" => bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
        "F16" => bytes.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        "F32" => bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        other => return Err(Error::invalid(format!("{}: weights of dtype {other} cannot be tuned", info.name))),
    };
    Array2::from_shape_vec((info.rows, info.cols), weights)
        .map_err(|_| Error::invalid(format!("{}: its shape is not that of the config", info.name)))
}
