//! codec (stub, being written)
#![allow(missing_docs)]
use netweight_tensor::Dtype;

mod bound;
pub use bound::{Bound, BoundReport};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level { Default, Max }

impl Level {
    /// `chunk_bytes` that writers use at this level.
    pub fn chunk_bytes(self) -> usize { match self { Level::Default => 1 << 20, Level::Max => 2 << 20 } }
    pub fn name(self) -> &'static str { match self { Level::Default => "default", Level::Max => "max" } }
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("truncated: {expected} bytes expected, {actual} there")]
    Truncated { expected: usize, actual: usize },
    #[error("corrupt: {0}")]
    Corrupt(&'static str),
    #[error("unsupported: {0}")]
    Unsupported(&'static str),
    #[error("invalid argument: {0}")]
    InvalidArgument(&'static str),
}

/// One plane of a chunk, as `describe_chunk` reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaneInfo { pub coder: &'static str, pub bits: u32, pub len_bytes: usize }
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkInfo { pub split: &'static str, pub planes: Vec<PlaneInfo> }

/// Encodes chunks; holds the scratch memory, one per thread.
pub struct Encoder { level: Level }
impl Encoder {
    pub fn new(level: Level) -> Encoder { Encoder { level } }
    /// Appends the chunk (docs/format.md, section 4) that stands for `raw` to `out`.
    /// `raw`: 1..=16 MiB, a multiple of `dtype.element_bytes()` (else the call falls back to bytes-of-1? no: InvalidArgument).
    pub fn encode_chunk(&mut self, dtype: Dtype, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let _ = (self.level, dtype); out.push(0);
        let w = dtype.element_bytes();
        for j in 0..w { let _ = j; out.push(0); out.extend(((raw.len() / w) as u32).to_le_bytes()); }
        for j in 0..w { out.extend(raw.chunks(w).map(|e| e[j])); }
        Ok(())
    }
}

/// Decodes chunks; holds the scratch memory, one per thread. Allocates nothing after the first chunk of a size.
#[derive(Default)]
pub struct Decoder {}
impl Decoder {
    pub fn new() -> Decoder { Decoder {} }
    /// Decodes `chunk` into exactly `dst.len()` bytes. On error the content of `dst` is unspecified.
    pub fn decode_chunk(&mut self, dtype: Dtype, chunk: &[u8], dst: &mut [u8]) -> Result<(), Error> {
        let w = dtype.element_bytes();
        let header = 1 + 5 * w;
        if chunk.len() != header + dst.len() { return Err(Error::Truncated { expected: header + dst.len(), actual: chunk.len() }); }
        let n = dst.len() / w;
        for j in 0..w { for i in 0..n { dst[i * w + j] = chunk[header + j * n + i]; } }
        Ok(())
    }
}

/// What a chunk is made of, without decoding it.
pub fn describe_chunk(dtype: Dtype, chunk: &[u8]) -> Result<ChunkInfo, Error> {
    let _ = chunk;
    Ok(ChunkInfo { split: "bytes", planes: vec![PlaneInfo { coder: "raw", bits: 8, len_bytes: 0 }; dtype.element_bytes()] })
}

/// CRC-64/NVME of `bytes`, as docs/format.md section 3 defines it.
pub fn checksum(bytes: &[u8]) -> u64 { crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes) }

/// Name of the fastest instruction set that this CPU runs ("avx512", "avx2", "neon", "scalar").
pub fn isa() -> &'static str { "scalar" }
