//! Encodes and decodes a data set with the codec, as an archive would: chunk by chunk, with checksums.

use std::ops::Range;
use std::sync::Mutex;

use netweight_codec::{Decoder, Encoder, Level, checksum};
use netweight_tensor::Dtype;

use crate::data::DataSet;
use crate::options::Error;
use crate::stats::{Timing, timed};

/// Bytes of a chunk's entry in the directory of a payload (docs/format.md, section 3).
const DIRECTORY_ENTRY_BYTES: usize = 12;

/// One level's chunks of a data set, in memory that stays mapped from round to round.
pub(crate) struct Ours<'a> {
    data: &'a DataSet,
    pub(crate) level: Level,
    chunks: Vec<Chunk>,
    encoders: Vec<Encoder>, // (max_threads,)
    decoders: Vec<Decoder>, // (max_threads,)
    n_repeats: usize,
}

struct Chunk {
    dtype: Dtype,
    range: Range<usize>,
    encoded: Vec<u8>,
    checksum: u64,
}

impl<'a> Ours<'a> {
    /// Cuts the data set into chunks. Timings are of `n_repeats` passes.
    pub(crate) fn new(data: &'a DataSet, level: Level, max_threads: usize, n_repeats: usize) -> Ours<'a> {
        let mut chunks = Vec::new();
        for segment in &data.segments {
            for start in segment.range.clone().step_by(level.chunk_bytes()) {
                let range = start..segment.range.end.min(start + level.chunk_bytes());
                let encoded = Vec::with_capacity(range.len() + range.len() / 64 + 1024);
                chunks.push(Chunk { dtype: segment.dtype, range, encoded, checksum: 0 });
            }
        }
        let encoders = (0..max_threads).map(|_| Encoder::new(level)).collect();
        let decoders = (0..max_threads).map(|_| Decoder::new().past_caches(true)).collect();
        Ours { data, level, chunks, encoders, decoders, n_repeats }
    }

    /// Bytes of all chunks and their directory entries.
    pub(crate) fn len_bytes(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.encoded.len() + DIRECTORY_ENTRY_BYTES).sum()
    }

    /// Encodes everything on `n_threads` threads, which take chunk after chunk.
    ///
    /// # Errors
    /// The codec's.
    pub(crate) fn encode(&mut self, n_threads: usize) -> Result<Timing, Error> {
        let bytes = &self.data.bytes;
        let mut sum = Timing::default();
        for _ in 0..self.n_repeats {
            let queue = Mutex::new(self.chunks.iter_mut());
            let timing = timed(&mut self.encoders[..n_threads], |encoder| {
                while let Some(chunk) = next(&queue) {
                    chunk.encoded.clear();
                    encoder.encode_chunk(chunk.dtype, &bytes[chunk.range.clone()], &mut chunk.encoded)?;
                    chunk.checksum = checksum(&chunk.encoded);
                }
                Ok::<(), Error>(())
            })?;
            sum = sum.and(timing);
        }
        Ok(sum)
    }

    /// Decodes and checks everything into `decoded`, as long as the data set, on `n_threads` threads.
    ///
    /// # Errors
    /// The codec's, and [`Error::Checksum`].
    pub(crate) fn decode(&mut self, n_threads: usize, decoded: &mut [u8]) -> Result<Timing, Error> {
        let data = self.data;
        let mut sum = Timing::default();
        for _ in 0..self.n_repeats {
            let queue = Mutex::new(jobs(&self.chunks, decoded).into_iter());
            let timing = timed(&mut self.decoders[..n_threads], |decoder| {
                while let Some((chunk_idx, chunk, dst)) = next(&queue) {
                    // Decoding first lets it hide the wait for memory; the checksum then reads from the cache.
                    let decoded = decoder.decode_chunk(chunk.dtype, &chunk.encoded, dst);
                    if checksum(&chunk.encoded) != chunk.checksum {
                        return Err(Error::Checksum { data_set: data.name.clone(), chunk_idx });
                    }
                    decoded?;
                }
                Ok(())
            })?;
            sum = sum.and(timing);
        }
        Ok(sum)
    }
}

/// Each chunk with the part of `decoded` that it stands for.
fn jobs<'c, 'd>(chunks: &'c [Chunk], decoded: &'d mut [u8]) -> Vec<(usize, &'c Chunk, &'d mut [u8])> {
    let mut rest = decoded;
    let mut jobs = Vec::with_capacity(chunks.len());
    for (chunk_idx, chunk) in chunks.iter().enumerate() {
        let (dst, tail) = rest.split_at_mut(chunk.range.len());
        rest = tail;
        jobs.push((chunk_idx, chunk, dst));
    }
    jobs
}

fn next<T>(queue: &Mutex<impl Iterator<Item = T>>) -> Option<T> {
    queue.lock().expect("workers do not panic").next()
}
