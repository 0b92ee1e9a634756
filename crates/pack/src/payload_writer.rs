//! Writes payloads in order: room for the directory, the chunks as they come, the directory once all are there. A
//! directory is followed by zeros where chunks are to begin at multiples of 64.

use std::collections::BTreeMap;

use netweight_container::{AtomicFile, Error, Result, chunks_offset, encode_directory, n_chunks, padded};

use crate::batch::{Piece, Span};
use crate::chunk::CodedChunk;
use crate::coding::Coding;
use crate::report::CoderUse;

const BUFFER_BYTES: usize = 1 << 20;

/// The payloads of one archive shard being written.
pub(crate) struct PayloadWriter<'a> {
    out: &'a AtomicFile,
    spans: &'a [Span],
    codings: &'a [Coding], // (spans,)
    sizes: Vec<u64>,       // (spans,) bytes of each payload
    flushed: u64,          // offset in the file where the buffer begins
    buffer: Vec<u8>,
    payload_start: u64,
    directory: Vec<(u32, u64)>, // size in bytes and checksum of the current payload's chunks so far
    coders: BTreeMap<String, CoderUse>,
}

impl<'a> PayloadWriter<'a> {
    /// `codings`: (spans,)
    pub(crate) fn new(
        out: &'a AtomicFile,
        data_start: u64,
        spans: &'a [Span],
        codings: &'a [Coding],
    ) -> PayloadWriter<'a> {
        PayloadWriter {
            out,
            spans,
            codings,
            sizes: vec![0; spans.len()],
            flushed: data_start,
            buffer: Vec::new(),
            payload_start: data_start,
            directory: Vec::new(),
            coders: BTreeMap::new(),
        }
    }

    /// Offset in the file behind what was written.
    pub(crate) fn position(&self) -> u64 {
        self.flushed + self.buffer.len() as u64
    }

    /// Size in bytes of each payload.
    pub(crate) fn sizes(&self) -> &[u64] {
        &self.sizes
    }

    /// How the chunks were coded.
    pub(crate) fn into_coders(self) -> BTreeMap<String, CoderUse> {
        self.coders
    }

    /// Writes the chunks of a batch. `coded`: (pieces,) or longer.
    pub(crate) fn write(&mut self, pieces: &[Piece], coded: &[CodedChunk], is_stored: &[bool]) -> Result<()> {
        for (piece, coded) in pieces.iter().zip(coded).filter(|(piece, _)| is_stored[piece.span_idx]) {
            self.write_chunk(piece, coded)?;
        }
        Ok(())
    }

    fn write_chunk(&mut self, piece: &Piece, coded: &CodedChunk) -> Result<()> {
        let span = self.spans[piece.span_idx];
        let n_chunks = n_chunks(span.len_bytes, span.chunk_bytes);
        if piece.chunk_idx == 0 {
            self.payload_start = self.position();
            self.directory.clear();
            self.append_zeros(chunks_offset(n_chunks, self.codings[piece.span_idx].chunk_alignment()))?;
        }
        let len_bytes = u32::try_from(coded.bytes.len()).map_err(|_| Error::invalid("a chunk beyond 4 GiB"))?;
        self.append(&coded.bytes)?;
        self.directory.push((len_bytes, coded.crc));
        self.count(piece, coded);
        if self.directory.len() as u64 == n_chunks {
            let payload_bytes = self.position() - self.payload_start;
            self.append_zeros(padded(payload_bytes) - payload_bytes)?;
            self.sizes[piece.span_idx] = padded(payload_bytes);
            let directory = encode_directory(&self.directory);
            self.patch(self.payload_start, &directory)?;
        }
        Ok(())
    }

    fn count(&mut self, piece: &Piece, coded: &CodedChunk) {
        let uses = self.coders.entry(coded.label.clone()).or_default();
        uses.n_chunks += 1;
        uses.bytes += piece.len_bytes as u64;
        uses.stored_bytes += coded.bytes.len() as u64;
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES / 8 {
            self.flush()?;
            self.out.write_all_at(self.flushed, bytes)?;
            self.flushed += bytes.len() as u64;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(())
    }

    fn append_zeros(&mut self, len_bytes: u64) -> Result<()> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut left = len_bytes;
        while left > 0 {
            let n = usize::try_from(left).map_or(ZEROS.len(), |left| left.min(ZEROS.len()));
            self.append(&ZEROS[..n])?;
            left -= n as u64;
        }
        Ok(())
    }

    /// Replaces bytes that were appended before, in the file or still in the buffer.
    fn patch(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        if offset < self.flushed {
            self.flush()?;
            return self.out.write_all_at(offset, bytes);
        }
        let start = (offset - self.flushed) as usize; // Inside the buffer.
        self.buffer[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Writes what is still in the buffer.
    pub(crate) fn flush(&mut self) -> Result<()> {
        if !self.buffer.is_empty() {
            self.out.write_all_at(self.flushed, &self.buffer)?;
            self.flushed += self.buffer.len() as u64;
            self.buffer.clear();
        }
        Ok(())
    }
}
