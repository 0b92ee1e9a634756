//! A store as a [`Source`] of weights. Every tensor is checked against the headers before any is read; then matrices
//! load together, on all cores. Next in the flow: backend.rs.

use std::collections::HashMap;

use netweight_layout::{Layout, Matrix};
use netweight_model::{Kind, Source, Spec, Tensor};

use super::backend::CpuLinear;
use crate::load::{MatrixRequest, load_matrices, load_transformed, map_matrices, name_in, request};
use crate::store::Store;
use crate::{Error, Interrupt, Result};

/// Weights on their way into a model.
pub struct CpuSource<'a> {
    store: &'a Store,
    matrices: HashMap<String, Matrix>,
}

impl<'a> CpuSource<'a> {
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
        load_transformed(self.store, tensor)
    }
}
