//! What a chunk is made of, and what the container needs to know of this crate.

use crate::decode::frame;
use crate::split::coder;
use crate::{Error, kernels};
use netweight_tensor::Dtype;

/// One plane of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneInfo {
    /// Name of the coder: `raw`, `constant`, `rans8` or `rans12`.
    pub coder: &'static str,
    /// Bits of a value before coding.
    pub bits: u32,
    /// Bytes of the payload.
    pub len_bytes: usize,
}

/// A chunk's split and planes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo {
    /// Name of the split: `bytes`, `half 4`, `half 6` or `half 7`.
    pub split: &'static str,
    /// Its planes, in order.
    pub planes: Vec<PlaneInfo>,
}

/// Reads a chunk's frame without decoding it.
///
/// # Errors
/// As [`crate::Decoder::decode_chunk`], as far as the frame shows it.
pub fn describe_chunk(dtype: Dtype, chunk: &[u8]) -> Result<ChunkInfo, Error> {
    let element_bytes = dtype.element_bytes();
    let (split, parts) = frame(element_bytes, chunk)?;
    let plane = |(idx, &(id, payload)): (usize, &(u8, &[u8]))| PlaneInfo {
        coder: coder::name(id),
        bits: split.plane_bits(element_bytes, idx),
        len_bytes: payload.len(),
    };
    Ok(ChunkInfo { split: split.name(), planes: parts.iter().flatten().enumerate().map(plane).collect() })
}

/// CRC-64/NVME of `bytes`, as docs/format.md section 3 has it.
pub fn checksum(bytes: &[u8]) -> u64 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes)
}

/// The instruction set in use: `avx512`, `avx2`, `neon` or `scalar`.
pub fn isa() -> &'static str {
    kernels::best().name
}

/// The instruction sets that this CPU can run, slowest first.
pub fn isas() -> impl Iterator<Item = &'static str> {
    kernels::available().map(|kernels| kernels.name)
}
