//! A store as a [`Source`] of weights. Every tensor is checked against the headers before any is read; then matrices
//! load together, on all cores. Next in the flow: backend.rs.

use std::collections::{HashMap, HashSet};

use netweight_container::Error as FileError;
use netweight_layout::{Layout, Matrix};
use netweight_model::{Kind, Source, Spec, Tensor, Transform};

use super::backend::CpuLinear;
use crate::load::{MatrixRequest, check_vector, checked_entry, layout_for, load_matrices, load_vector, map_matrices};
use crate::store::Store;
use crate::{Error, Interrupt, Result};

/// Weights on their way into a model.
pub struct CpuSource<'a> {
    store: &'a Store,
    matrices: HashMap<String, Matrix>,
}

impl<'a> CpuSource<'a> {
    /// Checks that `store` has every tensor of `spec`, of the right shape and a dtype that can be run.
    ///
    /// # Errors
    /// `File`, naming the tensor.
    pub fn check(store: &Store, spec: &Spec) -> Result<()> {
        let mut used = HashSet::new();
        for tensor in spec.tensors() {
            used.insert(name_in(store, &tensor).to_owned());
            if tensor.kind == Kind::Vector {
                check_vector(store, name_in(store, &tensor), tensor.rows)?;
            } else {
                layout_for(checked_entry(store, &request(store, &tensor))?, Layout::Bf16)?;
            }
        }
        no_other_layers(store, &used)
    }

    /// Loads every matrix of `spec`: in `wanted` where its dtype can be had in it; without a wish, as it is stored where
    /// that can be multiplied with, else in `fastest`.
    ///
    /// # Errors
    /// `File`, `InvalidArgument`, `Interrupted`: see [`load_matrices`].
    pub fn load(
        store: &'a Store,
        spec: &Spec,
        [wanted, fastest]: [Option<Layout>; 2],
        n_threads: usize,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<CpuSource<'a>> {
        let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
        let requests: Vec<MatrixRequest> = matrices.map(|tensor| request(store, &tensor)).collect();
        let mapped = map_matrices(store, &requests, wanted)?;
        let (mut matrices, mut rest) = (HashMap::new(), Vec::new());
        for (request, matrix) in requests.into_iter().zip(mapped) {
            match matrix {
                Some(matrix) => _ = matrices.insert(request.name, matrix),
                None => rest.push(request),
            }
        }
        let layout = wanted.or(fastest).unwrap_or(Layout::Bf16);
        let loaded = load_matrices(store, &rest, layout, n_threads, interrupt, progress)?;
        matrices.extend(rest.into_iter().map(|request| request.name).zip(loaded));
        Ok(CpuSource { store, matrices })
    }

    /// Bytes of all matrices that have not been taken yet.
    pub fn matrix_bytes(&self) -> u64 {
        self.matrices.values().map(|matrix| matrix.len_bytes() as u64).sum()
    }

    /// Weights of all matrices that have not been taken yet.
    pub fn n_weights(&self) -> u64 {
        self.matrices.values().map(|matrix| (matrix.rows() * matrix.cols()) as u64).sum()
    }

    /// Layouts of the matrices and the weights in each, by name.
    pub fn layouts(&self) -> Vec<(Layout, u64)> {
        let count = |layout: Layout| {
            let weights = self.matrices.values().filter(|matrix| matrix.layout() == layout);
            (layout, weights.map(|matrix| (matrix.rows() * matrix.cols()) as u64).sum())
        };
        Layout::all().map(count).filter(|&(_, n_weights)| n_weights > 0).collect()
    }
}

/// Checks that `store` has nothing in its layers that is not `used`: further layers, biases or norms belong to another
/// model than that of the config. What stands outside of the layers, like a part for pictures, may stay.
fn no_other_layers(store: &Store, used: &HashSet<String>) -> Result<()> {
    const LAYERS: &str = "layers.";
    let prefix = used.iter().find_map(|name| name.find(LAYERS).map(|at| &name[..at + LAYERS.len()]));
    let Some(prefix) = prefix else { return Ok(()) };
    let is_other = |name: &&str| {
        name.starts_with(prefix) && !used.contains(*name) && !name.ends_with("rotary_emb.inv_freq") // a table
    };
    match store.tensor_names().filter(is_other).min() {
        None => Ok(()),
        Some(name) => {
            let what = "the model that config.json describes has no such tensor: config and weights differ";
            Err(FileError::invalid(what).in_tensor(name).in_file(store.path()).into())
        }
    }
}

/// The first of the tensor's names that the store knows; the usual one where it knows none.
fn name_in<'t>(store: &Store, tensor: &'t Tensor) -> &'t str {
    tensor.names.iter().find(|name| store.tensor(name).is_some()).map_or(tensor.name(), String::as_str)
}

fn request(store: &Store, tensor: &Tensor) -> MatrixRequest {
    MatrixRequest { name: name_in(store, tensor).to_owned(), rows: tensor.rows, cols: tensor.cols }
}

impl Source for CpuSource<'_> {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Error = Error;

    fn linear(&mut self, tensor: &Tensor) -> Result<CpuLinear> {
        let name = name_in(self.store, tensor);
        let matrix = self.matrices.remove(name);
        let matrix = matrix.ok_or_else(|| Error::invalid(format!("{name:?} is asked for twice")))?;
        let bias = tensor.bias.as_deref().map(|bias| self.vector(bias)).transpose()?;
        Ok(CpuLinear { matrix, bias })
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut values = load_vector(self.store, name_in(self.store, tensor), tensor.rows)?;
        match tensor.transform {
            Transform::None => (),
            Transform::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
        }
        Ok(values)
    }
}
