//! One shard: its bytes in, an archive shard out. Chunks are encoded in parallel, batch by batch, while the
//! original's SHA-256 is computed, the next batch is read and the one before is written.

use std::collections::BTreeMap;

use netweight_codec::Level;
use netweight_container::{
    ArchiveHeader, AtomicFile, Context, Digest, Error, Header, InputFile, Manifest, Mode, OPAQUE_NAME, Original,
    RESERVED_PREFIX, Result, SameAs,
};
use netweight_tensor::Dtype;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::Progress;
use crate::batch::{self, Batches, Piece, Span};
use crate::chunk::{self, CodedChunk};
use crate::payload_writer::PayloadWriter;
use crate::report::CoderUse;
use crate::workers::Workers;

/// What is to be encoded.
pub(crate) struct Job<'a> {
    pub(crate) input: &'a InputFile,
    pub(crate) header: &'a Header,
    pub(crate) header_bytes: &'a [u8],
    pub(crate) same_as: BTreeMap<String, SameAs>,
    pub(crate) level: Level,
    pub(crate) check: bool,
}

/// What came out.
pub(crate) struct Encoded {
    pub(crate) sha256: Digest,
    pub(crate) mode: Mode,
    pub(crate) n_tied: u64,
    pub(crate) archive_bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) coders: BTreeMap<String, CoderUse>,
}

/// Whether a shard must be opaque whatever its size: it uses names that archives keep for themselves.
pub(crate) fn must_be_opaque(header: &Header) -> bool {
    header.tensors.iter().any(|entry| entry.name.starts_with(RESERVED_PREFIX))
}

/// The size promise: no archive shard is larger than this.
pub(crate) fn largest_archive_bytes(original_bytes: u64) -> u64 {
    original_bytes.saturating_add(original_bytes / 1000).saturating_add(4096)
}

/// Writes the archive shard of `job` to `out`.
pub(crate) fn encode_shard(
    workers: &Workers,
    job: &Job<'_>,
    out: &AtomicFile,
    progress: &dyn Progress,
) -> Result<Encoded> {
    let meter = Meter { progress, already_bytes: 0 };
    let (encoded, done_bytes) =
        if must_be_opaque(job.header) { (None, 0) } else { encode_tensors(workers, job, out, meter)? };
    if let Some(encoded) = encoded {
        return Ok(encoded);
    }
    out.set_len(0)?;
    encode_opaque(workers, job, out, Meter { progress, already_bytes: done_bytes })
}

/// One payload, or none, for a stretch of the original.
struct Plan<'a> {
    mode: Mode,
    names: Vec<&'a str>,
    dtypes: Vec<Dtype>,
    is_stored: Vec<bool>,
    spans: Vec<Span>,
    /// Bytes of the original before the first span.
    prefix: &'a [u8],
    /// Size that the archive may not pass.
    limit_bytes: Option<u64>,
}

/// `None` where the archive would break the size promise; then also how many bytes were gone through.
fn encode_tensors(
    workers: &Workers,
    job: &Job<'_>,
    out: &AtomicFile,
    meter: Meter<'_>,
) -> Result<(Option<Encoded>, u64)> {
    let tensors = &job.header.tensors;
    let chunk_bytes = job.level.chunk_bytes() as u64;
    let span = |entry: &netweight_container::Entry| Span {
        start: job.header.header_bytes + entry.start,
        len_bytes: entry.len_bytes(),
        chunk_bytes,
    };
    let plan = Plan {
        mode: Mode::Tensors,
        names: tensors.iter().map(|entry| entry.name.as_str()).collect(),
        dtypes: tensors.iter().map(|entry| entry.dtype).collect(),
        is_stored: tensors.iter().map(|entry| !job.same_as.contains_key(&entry.name)).collect(),
        spans: tensors.iter().map(span).collect(),
        prefix: job.header_bytes,
        limit_bytes: Some(largest_archive_bytes(job.input.len_bytes())),
    };
    encode_plan(workers, job, &plan, out, meter)
}

fn encode_opaque(workers: &Workers, job: &Job<'_>, out: &AtomicFile, meter: Meter<'_>) -> Result<Encoded> {
    let chunk_bytes = job.level.chunk_bytes() as u64;
    let plan = Plan {
        mode: Mode::Opaque,
        names: vec![OPAQUE_NAME],
        dtypes: vec![Dtype::BYTES],
        is_stored: vec![true],
        spans: vec![Span { start: 0, len_bytes: job.input.len_bytes(), chunk_bytes }],
        prefix: &[],
        limit_bytes: None,
    };
    let (encoded, _) = encode_plan(workers, job, &plan, out, meter)?;
    encoded.ok_or_else(|| Error::invalid("cannot be archived within the size promise").in_file(job.input.path()))
}

fn encode_plan(
    workers: &Workers,
    job: &Job<'_>,
    plan: &Plan<'_>,
    out: &AtomicFile,
    mut meter: Meter<'_>,
) -> Result<(Option<Encoded>, u64)> {
    let original_bytes = job.input.len_bytes();
    let most_bytes = plan.limit_bytes.unwrap_or(original_bytes.saturating_mul(2).saturating_add(1 << 20));
    let format = job.header.metadata.get("format").map(String::as_str);
    let header = ArchiveHeader::reserve(plan.names.clone(), format, most_bytes);
    let Some(header) = header.filter(|header| header.header_bytes() <= most_bytes) else { return Ok((None, 0)) };
    let mut writer = PayloadWriter::new(out, header.header_bytes(), &plan.spans);
    let (digest, done_bytes) = encode_batches(workers, job, plan, &mut writer, &mut meter, most_bytes)?;
    let Some(sha256) = digest else { return Ok((None, done_bytes)) };
    writer.flush()?;
    let same_as = if plan.mode == Mode::Opaque { BTreeMap::new() } else { job.same_as.clone() };
    let manifest = Manifest {
        writer: crate::WRITER.to_owned(),
        level: job.level.name().to_owned(),
        mode: plan.mode,
        chunk_bytes: job.level.chunk_bytes() as u64,
        original: Original { bytes: original_bytes, sha256, header_bytes: job.header.header_bytes },
        same_as,
        header: plan.prefix.to_vec(),
    };
    let mut body = manifest.encode()?;
    let (payload_bytes, mut sizes) = (writer.position() - header.header_bytes(), writer.sizes().to_vec());
    sizes.push(Manifest::sealed_bytes(&body));
    let archive_bytes = writer.position() + Manifest::sealed_bytes(&body);
    if archive_bytes > most_bytes {
        return Ok((None, done_bytes));
    }
    let archive_header = header.write(&sizes)?;
    Manifest::seal(&archive_header, &mut body);
    out.write_all_at(writer.position(), &body)?;
    out.write_all_at(0, &archive_header)?;
    let n_tied = manifest.same_as.len() as u64;
    let coders = writer.into_coders();
    Ok((Some(Encoded { sha256, mode: plan.mode, n_tied, archive_bytes, payload_bytes, coders }), done_bytes))
}

/// A batch on its way through the stages.
#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    raw: Vec<u8>,           // the pieces' bytes, one after the other
    coded: Vec<CodedChunk>, // (pieces,) and spare ones behind
}

/// Gives the original's SHA-256, or `None` where the payloads pass `most_bytes`; and the bytes gone through.
fn encode_batches(
    workers: &Workers,
    job: &Job<'_>,
    plan: &Plan<'_>,
    writer: &mut PayloadWriter<'_>,
    meter: &mut Meter<'_>,
    most_bytes: u64,
) -> Result<(Option<Digest>, u64)> {
    let mut hasher = Sha256::new();
    hasher.update(plan.prefix);
    meter.advance(plan.prefix.len() as u64);
    let mut done_bytes = plan.prefix.len() as u64;
    let mut batches = Batches::new(&plan.spans, workers.batch_bytes());
    let (mut before, mut current, mut next) = (Batch::default(), Batch::default(), Batch::default());
    batches.next_into(&mut current.pieces);
    workers.run(|| read_batch(job.input, &mut current))?;
    while !current.pieces.is_empty() {
        batches.next_into(&mut next.pieces);
        let Batch { pieces, raw, coded } = &mut current;
        let (encoded, (read, written)) = workers.run(|| {
            rayon::join(
                || encode_batch(workers, job, plan, pieces, raw, coded),
                || {
                    rayon::join(
                        || {
                            hasher.update(&raw[..]);
                            read_batch(job.input, &mut next)
                        },
                        || writer.write(&before.pieces, &before.coded, &plan.is_stored),
                    )
                },
            )
        });
        encoded.and(read).and(written)?;
        let batch_bytes = current.raw.len() as u64;
        done_bytes += batch_bytes;
        meter.advance(batch_bytes);
        if writer.position() > most_bytes {
            return Ok((None, done_bytes));
        }
        std::mem::swap(&mut before, &mut current);
        std::mem::swap(&mut current, &mut next);
    }
    writer.write(&before.pieces, &before.coded, &plan.is_stored)?;
    let digest = Digest(hasher.finalize().into());
    Ok(((writer.position() <= most_bytes).then_some(digest), done_bytes))
}

fn read_batch(input: &InputFile, batch: &mut Batch) -> Result<()> {
    batch.raw.resize(batch::len_bytes(&batch.pieces), 0);
    let slices = batch::split(&batch.pieces, &mut batch.raw);
    batch.pieces.par_iter().zip(slices).try_for_each(|(piece, slice)| input.read_exact_at(piece.start, slice))
}

fn encode_batch(
    workers: &Workers,
    job: &Job<'_>,
    plan: &Plan<'_>,
    pieces: &[Piece],
    raw: &[u8],
    coded: &mut Vec<CodedChunk>,
) -> Result<()> {
    if coded.len() < pieces.len() {
        coded.resize_with(pieces.len(), CodedChunk::default);
    }
    let Some(first) = pieces.first() else { return Ok(()) };
    let start = first.start;
    pieces.par_iter().zip(coded).filter(|(piece, _)| plan.is_stored[piece.span_idx]).try_for_each(|(piece, coded)| {
        let offset = (piece.start - start) as usize; // Inside the batch, which is in memory.
        let raw = &raw[offset..offset + piece.len_bytes];
        let dtype = plan.dtypes[piece.span_idx];
        let encoded = workers.with(|worker| chunk::encode(worker, dtype, raw, job.check, coded));
        encoded.in_tensor(plan.names[piece.span_idx]).in_file(job.input.path())
    })
}

/// Reports progress; bytes that an abandoned pass reported already are not reported again.
struct Meter<'a> {
    progress: &'a dyn Progress,
    already_bytes: u64,
}

impl Meter<'_> {
    fn advance(&mut self, bytes: u64) {
        let skipped = bytes.min(self.already_bytes);
        self.already_bytes -= skipped;
        self.progress.advance(bytes - skipped);
    }
}
