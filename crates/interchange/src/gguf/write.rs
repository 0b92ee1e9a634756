//! The front of a GGUF file: goes in metadata and what tensors there will be, comes out bytes and where each tensor
//! goes. Next in the flow: ../export.rs, which writes the tensors.

use netweight_container::{Error, Result};

use super::metadata::{MetaValue, write_string};
use super::{ALIGNMENT, MAGIC};
use crate::types::Type;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct OutTensor {
    pub(crate) name: String,
    /// Dimensions, the one that varies slowest first.
    pub(crate) shape: Vec<u64>,
    pub(crate) ty: Type,
}

/// What a file begins with, and where its tensors lie.
#[derive(Debug)]
pub(crate) struct Layout {
    /// Everything before the first tensor.
    pub(crate) front: Vec<u8>,
    /// First byte of each tensor, in the order given.
    pub(crate) offsets: Vec<u64>,
    pub(crate) file_bytes: u64,
}

impl Layout {
    /// Version 3, little-endian, tensors in the order given.
    ///
    /// # Errors
    /// `InvalidArgument` where a tensor's rows are no whole blocks of its type.
    pub(crate) fn new(metadata: &[(String, MetaValue)], tensors: &[OutTensor]) -> Result<Layout> {
        let mut front = MAGIC.to_vec();
        front.extend(3u32.to_le_bytes());
        front.extend((tensors.len() as u64).to_le_bytes());
        front.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            write_string(key, &mut front);
            value.write(&mut front);
        }
        let (mut starts, mut next) = (Vec::with_capacity(tensors.len()), 0u64);
        for tensor in tensors {
            write_string(&tensor.name, &mut front);
            front.extend((tensor.shape.len() as u32).to_le_bytes());
            front.extend(tensor.shape.iter().rev().flat_map(|n| n.to_le_bytes()));
            front.extend(tensor.ty.id().to_le_bytes());
            front.extend(next.to_le_bytes());
            starts.push(next);
            next += n_bytes(tensor)?.next_multiple_of(ALIGNMENT);
        }
        front.resize(front.len().next_multiple_of(ALIGNMENT as usize), 0);
        let data_start = front.len() as u64;
        let offsets = starts.iter().map(|start| data_start + start).collect();
        Ok(Layout { front, offsets, file_bytes: data_start + next })
    }
}

fn n_bytes(tensor: &OutTensor) -> Result<u64> {
    let n_values = tensor.shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    let row_is_whole = tensor.shape.last().is_none_or(|row| row.is_multiple_of(tensor.ty.block_values()));
    let n_bytes = n_values.filter(|_| row_is_whole).and_then(|n_values| tensor.ty.n_bytes(n_values));
    n_bytes.ok_or_else(|| {
        Error::invalid(format!("rows of {:?} are no whole blocks of {}", tensor.shape, tensor.ty.name()))
            .in_tensor(&tensor.name)
    })
}
