//! A store as a [`Source`] of weights. Every tensor is checked against the headers before any is read; then matrices
//! load together, on all cores. Next in the flow: backend.rs.

use std::collections::HashMap;
use std::sync::Arc;

use netweight_layout::{Layout, Matrix};
use netweight_model::{Kind, Source, Spec, Tensor};

use super::backend::{CpuLinear, Steps};
use crate::load::{MatrixRequest, Wanted, load_matrices, load_transformed, map_matrices, name_in, request};
use crate::store::Store;
use crate::{Error, Interrupt, Result};

/// Weights on their way into a model.
pub struct CpuSource<'a> {
    store: &'a Store,
    matrices: HashMap<String, Matrix>,
    /// Column steps so far: matrices that have the same ones share them.
    col_steps: Vec<Arc<[f32]>>,
}

impl<'a> CpuSource<'a> {
    /// Loads every matrix of `spec`: in `wanted` where its dtype, or its grid, can be had in it; without a wish, as it is stored where
    /// that can be multiplied with, else in `fastest`, and grids in the layout that takes the fewest bits.
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
        let wanted = Wanted { asked: wanted, fastest };
        let loaded = load_matrices(store, &rest, wanted, n_threads, interrupt, progress)?;
        matrices.extend(rest.into_iter().map(|request| request.name).zip(loaded));
        Ok(CpuSource { store, matrices, col_steps: Vec::new() })
    }

    /// The steps of a grid.
    fn steps(&mut self, name: &str) -> Option<Steps> {
        let steps = self.store.grid(name)?;
        let is_scaled = steps.col_steps.iter().any(|&step| step != 1.0);
        let cols = is_scaled.then(|| match self.col_steps.iter().find(|known| ***known == *steps.col_steps) {
            Some(known) => Arc::clone(known),
            None => {
                self.col_steps.push(steps.col_steps.into());
                Arc::clone(&self.col_steps[self.col_steps.len() - 1])
            }
        });
        Some(Steps { rows: steps.row_steps.to_vec(), cols })
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
        let steps = if matrix.layout().is_index() { self.steps(name) } else { None };
        Ok(CpuLinear { name: name.to_owned(), matrix, steps, bias })
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<Vec<f32>> {
        load_transformed(self.store, tensor)
    }
}
