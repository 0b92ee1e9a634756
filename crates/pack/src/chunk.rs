//! One chunk at a time: the binding between the container's bytes and what codes them.

use netweight_codec::{ChunkInfo, checksum};
use netweight_container::{ChunkRef, Error, InputFile, Result};

use crate::coding::Coding;
use crate::workers::Worker;
use crate::{grid, refined, resident};

/// A chunk that was encoded, or the empty place of one.
#[derive(Debug, Default)]
pub(crate) struct CodedChunk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) crc: u64,
    /// How it is coded, in words; empty in the place of none.
    pub(crate) label: String,
}

/// Encodes `raw`, which chunk `chunk_idx` of a payload stands for, into `coded`; with `check`, decodes it again and
/// compares.
pub(crate) fn encode(
    worker: &mut Worker,
    coding: &Coding,
    chunk_idx: usize,
    raw: &[u8],
    check: bool,
    coded: &mut CodedChunk,
) -> Result<()> {
    coded.bytes.clear();
    match coding {
        Coding::Chunks(dtype) => {
            worker.encoder.encode_chunk(*dtype, raw, &mut coded.bytes).map_err(codec_error)?;
        }
        Coding::Groups(geometry) => resident::encode(geometry, raw, &mut coded.bytes)?,
        Coding::Grid(steps) => grid::encode(worker, steps, chunk_idx, raw, &mut coded.bytes)?,
        Coding::Refined(base) => refined::encode(worker, base, chunk_idx, raw, &mut coded.bytes)?,
    }
    coded.crc = checksum(&coded.bytes);
    coded.label = label(coding, chunk_idx, &coded.bytes)?;
    if check {
        let mut decoded = std::mem::take(&mut worker.raw);
        decoded.resize(raw.len(), 0);
        let is_same = decode_bytes(worker, coding, chunk_idx, &coded.bytes, &mut decoded).is_ok() && decoded == raw;
        worker.raw = decoded;
        if !is_same {
            return Err(Error::corrupt(
                "a chunk does not decode to what was encoded: faulty memory, or a bug; nothing was written over",
            ));
        }
    }
    Ok(())
}

/// Reads the chunk into `worker.chunk` and checks its checksum.
pub(crate) fn read(worker: &mut Worker, input: &InputFile, chunk: ChunkRef) -> Result<()> {
    read_into(&mut worker.chunk, input, chunk)
}

/// Makes `bytes` the chunk, and checks its checksum.
pub(crate) fn read_into(bytes: &mut Vec<u8>, input: &InputFile, chunk: ChunkRef) -> Result<()> {
    let len_bytes = usize::try_from(chunk.len_bytes).map_err(|_| Error::invalid("too large for this machine"))?;
    bytes.resize(len_bytes, 0);
    input.read_exact_at(chunk.offset, bytes)?;
    if checksum(bytes) != chunk.crc {
        return Err(Error::corrupt("a chunk was changed (CRC-64)").in_file(input.path()).at_offset(chunk.offset));
    }
    Ok(())
}

/// Reads, checks and decodes the chunk, number `chunk_idx` of its payload, into exactly `dst`.
pub(crate) fn decode(
    worker: &mut Worker,
    input: &InputFile,
    chunk: ChunkRef,
    (coding, chunk_idx): (&Coding, usize),
    dst: &mut [u8],
) -> Result<()> {
    read(worker, input, chunk)?;
    let bytes = std::mem::take(&mut worker.chunk);
    let decoded = decode_bytes(worker, coding, chunk_idx, &bytes, dst);
    worker.chunk = bytes;
    decoded.map_err(|error| error.in_file(input.path()).at_offset(chunk.offset))
}

/// Reads and checks the chunk and says how it is coded.
pub(crate) fn describe(
    worker: &mut Worker,
    input: &InputFile,
    chunk: ChunkRef,
    (coding, chunk_idx): (&Coding, usize),
) -> Result<String> {
    read(worker, input, chunk)?;
    label(coding, chunk_idx, &worker.chunk).map_err(|error| error.in_file(input.path()).at_offset(chunk.offset))
}

fn decode_bytes(worker: &mut Worker, coding: &Coding, chunk_idx: usize, bytes: &[u8], dst: &mut [u8]) -> Result<()> {
    match coding {
        Coding::Chunks(dtype) => worker.decoder.decode_chunk(*dtype, bytes, dst).map_err(codec_error),
        Coding::Groups(geometry) => resident::decode(geometry, bytes, dst),
        Coding::Grid(steps) => grid::decode(worker, steps, chunk_idx, bytes, dst),
        Coding::Refined(base) => refined::decode(worker, base, chunk_idx, bytes, dst),
    }
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

/// How a chunk is coded, in words: `half 6: raw + rans8`, a layout's name, `grid: rans12`, or `refined half 4: raw + rans12`.
fn label(coding: &Coding, chunk_idx: usize, bytes: &[u8]) -> Result<String> {
    match coding {
        Coding::Chunks(dtype) => {
            let info = netweight_codec::describe_chunk(*dtype, bytes).map_err(codec_error)?;
            Ok(codec_label(&info))
        }
        Coding::Groups(geometry) => Ok(resident::check(geometry, bytes)?.layout().name().to_owned()),
        Coding::Grid(steps) => grid::label(steps, chunk_idx, bytes),
        Coding::Refined(_) => refined::label(bytes),
    }
}

/// `half 6: raw + rans8`
pub(crate) fn codec_label(info: &ChunkInfo) -> String {
    let mut text = String::from(info.split);
    for (plane_idx, plane) in info.planes.iter().enumerate() {
        text.push_str(if plane_idx == 0 { ": " } else { " + " });
        text.push_str(plane.coder);
    }
    text
}
