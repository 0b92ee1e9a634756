//! One archive shard: its original's bytes out, in order, decoded in parallel while the batch before is used.

use netweight_container::{Context, Result};
use rayon::prelude::*;

use crate::Progress;
use crate::archive::ArchiveShard;
use crate::batch::{self, Batches, Piece, Span};
use crate::chunk;
use crate::progress::check_interrupted;
use crate::workers::Workers;

/// Gets consecutive parts of the original: the offset, and the bytes from there on.
pub(crate) type Sink<'a> = dyn FnMut(u64, &[u8]) -> Result<()> + Send + 'a;

/// Decodes the whole original into `sink`.
pub(crate) fn decode_shard(
    workers: &Workers,
    shard: &ArchiveShard,
    progress: &dyn Progress,
    sink: &mut Sink<'_>,
) -> Result<()> {
    let span = |part: &crate::parts::Part| Span {
        start: part.start,
        len_bytes: part.len_bytes,
        chunk_bytes: part.chunk_bytes,
    };
    let spans: Vec<Span> = shard.parts.iter().map(span).collect();
    let mut batches = Batches::new(&spans, workers.batch_bytes());
    let (mut pieces, mut current, mut before) = (Vec::new(), Vec::new(), Vec::new());
    let mut before_start = 0;
    while batches.next_into(&mut pieces) {
        let (decoded, used) = workers.run(|| {
            rayon::join(
                || decode_batch(workers, shard, &pieces, &mut current),
                || if before.is_empty() { Ok(()) } else { sink(before_start, &before) },
            )
        });
        used.and(decoded)?;
        check_interrupted(progress)?;
        before_start = pieces[0].start;
        std::mem::swap(&mut before, &mut current);
    }
    if before.is_empty() { Ok(()) } else { workers.run(|| sink(before_start, &before)) }
}

fn decode_batch(workers: &Workers, shard: &ArchiveShard, pieces: &[Piece], raw: &mut Vec<u8>) -> Result<()> {
    raw.resize(batch::len_bytes(pieces), 0);
    let slices = batch::split(pieces, raw);
    pieces
        .par_iter()
        .zip(slices)
        .try_for_each(|(piece, slice)| {
            let Some((file, payload)) = shard.parts[piece.span_idx].payload() else {
                let start = piece.start as usize; // The header is in memory.
                slice.copy_from_slice(&shard.file.header_bytes[start..start + slice.len()]);
                return Ok(());
            };
            let chunk = payload.chunks[piece.chunk_idx];
            let coding = (&payload.coding, piece.chunk_idx);
            let decoded = workers.with(|worker| chunk::decode(worker, &file.input, chunk, coding, slice));
            decoded.map_err(|error| match shard.tensors().get(piece.span_idx.wrapping_sub(1)) {
                Some(entry) if shard.parts.len() > 1 => error.in_tensor(&entry.name),
                _ => error,
            })
        })
        .in_file(shard.path())
}
