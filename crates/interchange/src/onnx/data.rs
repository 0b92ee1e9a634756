//! Initializers, and what they are made of when they are written. Next in the flow: write.rs.

use std::sync::Arc;

use netweight_container::Result;
use netweight_pack::Progress;

use super::matrix::{Digit, Integers};
use crate::floats::Tally;
use crate::source::Source;
use crate::transcode::Job;

/// A tensor of a graph.
#[derive(Debug)]
pub(crate) struct Initializer {
    pub(crate) name: String,
    /// A number of `proto::data_type`.
    pub(crate) data_type: i32,
    pub(crate) dims: Vec<i64>,
    pub(crate) data: Data,
}

/// What its bytes are.
#[derive(Debug)]
pub(crate) enum Data {
    Bytes(Vec<u8>),
    Zeros(u64),
    /// A tensor of the checkpoint.
    Floats {
        tensor: String,
        job: Job,
    },
    /// A byte for each index.
    Indices(Arc<Integers>),
    /// A digit of each index.
    Digits(Arc<Integers>, Digit),
    /// The scales of the digits.
    Scales(Arc<Integers>, Digit),
}

impl Data {
    pub(crate) fn len_bytes(&self) -> u64 {
        match self {
            Data::Bytes(bytes) => bytes.len() as u64,
            Data::Zeros(n) => *n,
            Data::Floats { job, .. } => job.to.n_bytes(job.n_values).unwrap_or(0),
            Data::Indices(matrix) => (matrix.rows * matrix.cols) as u64,
            Data::Digits(matrix, _) => (matrix.rows * matrix.row_bytes()) as u64,
            Data::Scales(matrix, _) => (matrix.rows * matrix.n_blocks()) as u64 * 4,
        }
    }

    /// Hands over the bytes, in order; says what they lost.
    ///
    /// # Errors
    /// As [`Source::read`]; what `sink` says.
    pub(crate) fn write(
        &self,
        source: &Source,
        progress: &dyn Progress,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Tally> {
        match self {
            Data::Bytes(bytes) => sink(bytes)?,
            Data::Zeros(n) => sink(&vec![0; *n as usize])?,
            Data::Floats { tensor, job } => {
                let read = |offset: u64, dst: &mut [u8]| source.read(tensor, offset, dst);
                return job.run(&read, sink, progress).map_err(|error| error.in_tensor(tensor));
            }
            Data::Indices(matrix) => matrix.write_bytes(source, progress, sink)?,
            Data::Digits(matrix, digit) => matrix.write_digits(*digit, source, progress, sink)?,
            Data::Scales(matrix, digit) => matrix.write_scales(*digit, sink)?,
        }
        Ok(Tally::default())
    }
}
