//! Matrices of a model's files as f32. Goes in: a store and the model's declaration. Comes out: a list of the matrices
//! and their weights.

use std::collections::HashMap;
use std::ops::Range;

use half::{bf16, f16};
use ndarray::Array2;
use netweight_engine::Store;
use netweight_model::{Kind, Spec, Tensor};

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
    /// Where rows are queries, keys or values of attention heads: of how many rows each head is.
    pub head_dim: Option<usize>,
}

impl MatrixInfo {
    /// Of a matrix of the model's declaration.
    pub(crate) fn of(store: &Store, tensor: &Tensor) -> MatrixInfo {
        MatrixInfo {
            name: stored_name(store, tensor),
            rows: tensor.rows,
            cols: tensor.cols,
            is_embedding: tensor.kind == Kind::Embedding,
            head_dim: None,
        }
    }

    /// Rows of each attention head.
    pub fn heads(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let (rows, dim) = (self.rows, self.head_dim.unwrap_or(0).max(1));
        let n_heads = if self.head_dim.is_some() { rows / dim } else { 0 };
        (0..n_heads).map(move |head| head * dim..(head + 1) * dim)
    }
}

/// Which of a tensor's names the store has; the usual one where it has none.
pub(crate) fn stored_name(store: &Store, tensor: &Tensor) -> String {
    let name = tensor.names.iter().find(|name| store.tensor(name).is_some());
    name.map_or_else(|| tensor.name().to_owned(), String::clone)
}

/// Every matrix of the model, in the order of the forward pass.
pub fn matrices(store: &Store, spec: &Spec) -> Vec<MatrixInfo> {
    let weights = spec.weights();
    let layers = spec.layers.iter().zip(&weights.layers);
    let heads: HashMap<&str, usize> = layers
        .flat_map(|(layer, of)| of.qkv.iter().map(|part| (part.linear.name(), layer.attention.head_dim)))
        .collect();
    let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
    let describe =
        |tensor: Tensor| MatrixInfo { head_dim: heads.get(tensor.name()).copied(), ..MatrixInfo::of(store, &tensor) };
    matrices.map(describe).collect()
}

/// Reads a matrix.
///
/// # Errors
/// `File` where it cannot be read; `InvalidArgument` where its dtype is none of BF16, F16 and F32, or its shape is another.
pub fn read_matrix(store: &Store, info: &MatrixInfo) -> Result<Array2<f32>> {
    Array2::from_shape_vec((info.rows, info.cols), read(store, &info.name)?)
        .map_err(|_| Error::invalid(format!("{}: its shape is not that of the config", info.name)))
}

fn read(store: &Store, name: &str) -> Result<Vec<f32>> {
    let entry = store.tensor(name).ok_or_else(|| Error::invalid(format!("the model has no tensor {name:?}")))?;
    let mut bytes = vec![0; usize::try_from(entry.len_bytes()).map_err(|_| Error::invalid("a tensor beyond memory"))?];
    store.read(name, 0, &mut bytes)?;
    match entry.dtype_name.as_str() {
        "BF16" => Ok(bytes.as_chunks::<2>().0.iter().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect()),
        "F16" => Ok(bytes.as_chunks::<2>().0.iter().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect()),
        "F32" => Ok(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()),
        other => Err(Error::invalid(format!("{name}: weights of dtype {other} cannot be tuned"))),
    }
}
