//! The frame of a payload (section 3): a chunk directory, the chunks, zero bytes up to a multiple of 64. Chunks that
//! are mapped and not decoded (section 7) begin at multiples of 64, too.

use crate::{Error, InputFile, Result};

/// Payloads begin at multiples of this many bytes.
pub const ALIGNMENT: u64 = 64;

const DIRECTORY_ENTRY_BYTES: u64 = 12;

/// Where a chunk lies in its file, and its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRef {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Size in bytes.
    pub len_bytes: u32,
    /// CRC-64/NVME of those bytes.
    pub crc: u64,
}

/// The next multiple of [`ALIGNMENT`].
pub fn padded(len_bytes: u64) -> u64 {
    len_bytes.next_multiple_of(ALIGNMENT)
}

/// Number of chunks of a tensor of `tensor_bytes` bytes.
pub fn n_chunks(tensor_bytes: u64, chunk_bytes: u64) -> u64 {
    tensor_bytes.div_ceil(chunk_bytes)
}

/// Size of the directory of that many chunks, in bytes.
pub fn directory_bytes(n_chunks: u64) -> u64 {
    n_chunks.saturating_mul(DIRECTORY_ENTRY_BYTES)
}

/// Where the first chunk begins in its payload, in bytes: behind the directory of that many chunks, at a multiple of
/// `chunk_alignment`.
pub fn chunks_offset(n_chunks: u64, chunk_alignment: u64) -> u64 {
    directory_bytes(n_chunks).next_multiple_of(chunk_alignment)
}

/// The directory of chunks of these sizes in bytes and checksums.
pub fn encode_directory(chunks: &[(u32, u64)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(chunks.len() * DIRECTORY_ENTRY_BYTES as usize);
    for (len_bytes, crc) in chunks {
        bytes.extend_from_slice(&len_bytes.to_le_bytes());
        bytes.extend_from_slice(&crc.to_le_bytes());
    }
    bytes
}

/// Reads and checks the directory of the payload at `[start, end)` of the file, of a tensor cut into `n_chunks`
/// chunks, each of which begins at a multiple of `chunk_alignment`, 1 or [`ALIGNMENT`]. No chunk is read.
///
/// # Errors
/// `Corrupt` where the directory and the payload's size do not agree; `Truncated`; `Io`.
pub fn read_directory(
    input: &InputFile,
    start: u64,
    end: u64,
    n_chunks: u64,
    chunk_alignment: u64,
) -> Result<Vec<ChunkRef>> {
    let corrupt = |what| Err(Error::corrupt(what).in_file(input.path()).at_offset(start));
    if n_chunks == 0 {
        return if start == end { Ok(Vec::new()) } else { corrupt("a payload where none belongs") };
    }
    let directory_bytes = directory_bytes(n_chunks);
    if directory_bytes > end - start {
        return corrupt("the payload is shorter than its chunk directory");
    }
    let directory = input.read_vec(start, directory_bytes)?;
    let mut offset = start + chunks_offset(n_chunks, chunk_alignment);
    let mut chunks = Vec::with_capacity(directory.len() / DIRECTORY_ENTRY_BYTES as usize);
    let (entries, _) = directory.as_chunks::<12>();
    for &[l0, l1, l2, l3, c0, c1, c2, c3, c4, c5, c6, c7] in entries {
        let len_bytes = u32::from_le_bytes([l0, l1, l2, l3]);
        let crc = u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]);
        if !u64::from(len_bytes).is_multiple_of(chunk_alignment) {
            return corrupt("a chunk whose size is not a multiple of 64");
        }
        chunks.push(ChunkRef { offset, len_bytes, crc });
        offset += u64::from(len_bytes); // At most 2^64 / 12 entries of 2^32 would overflow; the file has fewer.
        if offset > end {
            return corrupt("the chunks are longer than their payload");
        }
    }
    if padded(offset - start) != end - start {
        return corrupt("the chunks do not fill their payload");
    }
    Ok(chunks)
}

/// Checks that the bytes of the payload at `[start, end)` between its directory and the first of its `chunks`, and
/// those behind the last, are zero.
///
/// # Errors
/// `Corrupt`, `Truncated`, `Io`.
pub fn check_padding(input: &InputFile, start: u64, chunks: &[ChunkRef], end: u64) -> Result<()> {
    let (Some(first), Some(last)) = (chunks.first(), chunks.last()) else { return Ok(()) };
    check_zeros(input, start + directory_bytes(chunks.len() as u64), first.offset)?;
    check_zeros(input, last.offset + u64::from(last.len_bytes), end)
}

/// Checks that the bytes `[start, end)`, fewer than [`ALIGNMENT`], are zero.
fn check_zeros(input: &InputFile, start: u64, end: u64) -> Result<()> {
    let mut padding = [0; ALIGNMENT as usize];
    let n = usize::try_from(end - start).map_or(padding.len(), |n| n.min(padding.len()));
    input.read_exact_at(start, &mut padding[..n])?;
    if padding.iter().any(|&byte| byte != 0) {
        return Err(Error::corrupt("the padding of a payload is not zero").in_file(input.path()).at_offset(start));
    }
    Ok(())
}
