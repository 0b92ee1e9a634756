//! Looking into a running model, and changing it: what enters its linear layers goes to an observer, and a matrix can be
//! replaced by another. Calibration and sensitivity probes live on both.

use netweight_layout::{Layout, Matrix};
use netweight_model::Part;

use super::backend::CpuLinear;
use super::decoder::CpuDecoder;
use crate::{Error, Result};

/// What enters linear layers that share it: queries, keys and values, or gate and up.
#[derive(Clone, Copy, Debug)]
pub struct Activations<'a> {
    /// Names of the matrices in the store.
    pub names: &'a [&'a str],
    /// Row `i` begins at `i * stride`; `cols` of it count.
    pub data: &'a [f32], // (n_rows, stride)
    /// Tokens.
    pub n_rows: usize,
    /// Elements from row to row.
    pub stride: usize,
    /// Columns of the matrices.
    pub cols: usize,
}

impl Activations<'_> {
    /// The activations of each token, (cols), before they are rounded for the linear layer.
    pub fn rows(&self) -> impl Iterator<Item = &[f32]> {
        self.data.chunks(self.stride.max(1)).take(self.n_rows).map(|row| &row[..self.cols])
    }
}

/// Who is told.
pub struct Observer(Box<dyn FnMut(Activations<'_>) + Send>);

impl Observer {
    /// Called before a linear layer is computed.
    pub fn see(&mut self, parts: &[Part<CpuLinear>], data: &[f32], [n_rows, stride]: [usize; 2]) {
        let names: Vec<&str> = parts.iter().map(|part| part.linear.name.as_str()).collect();
        let cols = parts.first().map_or(0, |part| part.linear.matrix.cols());
        (self.0)(Activations { names: &names, data, n_rows, stride, cols });
    }
}

impl CpuDecoder {
    /// From now on `observe` is called with what enters each linear layer, in the order of the forward pass; experts
    /// show their own tokens only. It takes the place of any other observer.
    pub fn observe(&mut self, observe: impl FnMut(Activations<'_>) + Send + 'static) {
        self.cpu.observer = Some(Observer(Box::new(observe)));
    }

    /// Nobody observes any more.
    pub fn stop_observing(&mut self) {
        self.cpu.observer = None;
    }

    /// Puts other weights in the place of a matrix: `weights` are (rows, cols) little-endian elements of the layout's
    /// [`source dtype`](Layout::source_dtype).
    ///
    /// # Errors
    /// `InvalidArgument` where there is no matrix of that name, or the weights do not fill it.
    pub fn replace(&mut self, name: &str, layout: Layout, weights: &[u8]) -> Result<()> {
        let linear = self.model.matrices_mut().find(|linear| linear.name == name);
        let linear = linear.ok_or_else(|| Error::invalid(format!("the model has no matrix {name:?}")))?;
        let (rows, cols) = (linear.matrix.rows(), linear.matrix.cols());
        linear.matrix =
            Matrix::encode(layout, rows, cols, weights).map_err(|error| Error::invalid(format!("{name}: {error}")))?;
        Ok(())
    }

    /// What was in the place of a matrix, for [`CpuDecoder::put`]. Copies no weights.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no matrix of that name.
    pub fn matrix(&mut self, name: &str) -> Result<Matrix> {
        let linear = self.model.matrices_mut().find(|linear| linear.name == name);
        linear
            .map(|linear| linear.matrix.clone())
            .ok_or_else(|| Error::invalid(format!("the model has no matrix {name:?}")))
    }

    /// Puts a matrix back, or one of the same shape in its place.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no matrix of that name and shape.
    pub fn put(&mut self, name: &str, matrix: Matrix) -> Result<()> {
        let linear = self.model.matrices_mut().find(|linear| linear.name == name);
        let linear = linear.ok_or_else(|| Error::invalid(format!("the model has no matrix {name:?}")))?;
        if (linear.matrix.rows(), linear.matrix.cols()) != (matrix.rows(), matrix.cols()) {
            return Err(Error::invalid(format!("{name}: a matrix of another shape")));
        }
        linear.matrix = matrix;
        Ok(())
    }
}
