//! One chunk at a time: the binding between the container's bytes and the codec.

use netweight_codec::{ChunkInfo, checksum};
use netweight_container::{ChunkRef, Error, InputFile, Result};
use netweight_tensor::Dtype;

use crate::workers::Worker;

/// A chunk that was encoded, or the empty place of one.
#[derive(Debug, Default)]
pub(crate) struct CodedChunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) crc: u64,
    pub(crate) info: Option<ChunkInfo>,
}

/// Encodes `raw` into `coded`; with `check`, decodes it again and compares.
pub(crate) fn encode(worker: &mut Worker, dtype: Dtype, raw: &[u8], check: bool, coded: &mut CodedChunk) -> Result<()> {
    coded.bytes.clear();
    worker.encoder.encode_chunk(dtype, raw, &mut coded.bytes).map_err(codec_error)?;
    coded.crc = checksum(&coded.bytes);
    coded.info = Some(netweight_codec::describe_chunk(dtype, &coded.bytes).map_err(codec_error)?);
    if check {
        worker.raw.resize(raw.len(), 0);
        let decoded = worker.decoder.decode_chunk(dtype, &coded.bytes, &mut worker.raw);
        if decoded.is_err() || worker.raw != raw {
            return Err(Error::corrupt(
                "a chunk does not decode to what was encoded: faulty memory, or a bug; nothing was written over",
            ));
        }
    }
    Ok(())
}

/// Reads the chunk into `worker.chunk` and checks its checksum.
pub(crate) fn read(worker: &mut Worker, input: &InputFile, chunk: ChunkRef) -> Result<()> {
    let len_bytes = usize::try_from(chunk.len_bytes).map_err(|_| Error::invalid("too large for this machine"))?;
    worker.chunk.resize(len_bytes, 0);
    input.read_exact_at(chunk.offset, &mut worker.chunk)?;
    if checksum(&worker.chunk) != chunk.crc {
        return Err(Error::corrupt("a chunk was changed (CRC-64)").in_file(input.path()).at_offset(chunk.offset));
    }
    Ok(())
}

/// Reads, checks and decodes the chunk into exactly `dst`.
pub(crate) fn decode(
    worker: &mut Worker,
    input: &InputFile,
    chunk: ChunkRef,
    dtype: Dtype,
    dst: &mut [u8],
) -> Result<()> {
    read(worker, input, chunk)?;
    let decoded = worker.decoder.decode_chunk(dtype, &worker.chunk, dst);
    decoded.map_err(|error| codec_error(error).in_file(input.path()).at_offset(chunk.offset))
}

/// The codec's error as the container's.
pub(crate) fn codec_error(error: netweight_codec::Error) -> Error {
    match error {
        netweight_codec::Error::Truncated { expected, actual } => Error::truncated(expected as u64, actual as u64),
        netweight_codec::Error::Corrupt(what) => Error::corrupt(what),
        netweight_codec::Error::Unsupported(what) => Error::unsupported(what),
        netweight_codec::Error::InvalidArgument(what) => Error::corrupt(what),
        _ => Error::corrupt("a chunk that cannot be decoded"),
    }
}

/// How a chunk is coded, in words: `half 6: raw + rans8`.
pub(crate) fn label(info: &ChunkInfo) -> String {
    let mut text = String::from(info.split);
    for (plane_idx, plane) in info.planes.iter().enumerate() {
        text.push_str(if plane_idx == 0 { ": " } else { " + " });
        text.push_str(plane.coder);
    }
    text
}
