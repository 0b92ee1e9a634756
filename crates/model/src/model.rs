//! A loaded decoder: goes in a [`Spec`] and a [`Source`], comes out a [`Model`] that [`forward`](Model::forward) runs.
//!
//! Next in the flow: workspace.rs, forward.rs.

use crate::backend::Backend;
use crate::error::Error;
use crate::spec::Spec;
use crate::weights::{Source, Weights};

/// Longest context of a loaded model: its rotation tables have a row for each position.
pub const MAX_CONTEXT: usize = 1 << 24;

/// A loaded decoder.
pub struct Model<B: Backend> {
    pub(crate) spec: Spec,
    pub(crate) context_len: usize,
    pub(crate) weights: Weights<B::Linear, B::Vector>,
    pub(crate) rope_tables: Vec<B::Vector>, // (ropes), each (rows, rotary_dim)
}

impl<B: Backend> Model<B> {
    /// Loads every tensor and makes rotation tables for positions below `context_len`.
    ///
    /// # Errors
    /// `InvalidArgument` where the context is empty or longer than [`MAX_CONTEXT`]; the source's and the backend's own.
    pub fn load<S>(spec: Spec, context_len: usize, backend: &B, source: &mut S) -> Result<Model<B>, S::Error>
    where
        S: Source<Linear = B::Linear, Vector = B::Vector>,
        S::Error: From<Error>,
    {
        if context_len == 0 || context_len > MAX_CONTEXT {
            let what = format!("a context of {context_len} tokens; 1 to {MAX_CONTEXT} are possible");
            return Err(Error::InvalidArgument(what).into());
        }
        let weights = spec.weights().load(source)?;
        let mut rope_tables = Vec::with_capacity(spec.ropes.len());
        for rope in &spec.ropes {
            rope_tables.push(backend.vector(&rope.table(context_len))?);
        }
        Ok(Model { spec, context_len, weights, rope_tables })
    }

    /// The declaration.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Every matrix, in the order of the forward pass, for who puts another of the same shape in its place.
    pub fn matrices_mut(&mut self) -> impl Iterator<Item = &mut B::Linear> {
        self.weights.matrices_mut()
    }

    /// Positions that sequences may have.
    pub fn context_len(&self) -> usize {
        self.context_len
    }
}
