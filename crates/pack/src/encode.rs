//! One shard: its bytes in, an archive shard out. Chunks are encoded in parallel, batch by batch, while the
//! original's SHA-256 is computed, the next batch is read and the one before is written.
//!
//! Modes are tried until one keeps the size promise: `resident` where it is asked for, `tensors`, `opaque`. With grids
//! there is one, `tensors`; refinements have their own.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use netweight_codec::Level;
use netweight_container::{
    ArchiveHeader, AtomicFile, Context, Digest, Entry, Error, Header, InputFile, Manifest, Mode, OPAQUE_NAME, Original,
    RESERVED_PREFIX, Refines, Resident, Result, STEPS_NAME, SameAs,
};
use netweight_layout::Layout;
use netweight_tensor::Dtype;
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};

use crate::batch::{self, Batches, Piece, Span};
use crate::chunk::{self, CodedChunk};
use crate::coding::Coding;
use crate::grid::Steps;
use crate::payload_writer::PayloadWriter;
use crate::progress::check_interrupted;
use crate::refined::Base;
use crate::report::CoderUse;
use crate::workers::Workers;
use crate::{Progress, grid, resident};

/// Where the bytes of an original are read from.
pub(crate) trait Input: Sync {
    /// Size in bytes.
    fn len_bytes(&self) -> u64;
    /// For errors.
    fn path(&self) -> &Path;
    /// Fills `dst` from `offset` on.
    fn read_exact_at(&self, offset: u64, dst: &mut [u8]) -> Result<()>;
}

impl Input for InputFile {
    fn len_bytes(&self) -> u64 {
        InputFile::len_bytes(self)
    }

    fn path(&self) -> &Path {
        InputFile::path(self)
    }

    fn read_exact_at(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        InputFile::read_exact_at(self, offset, dst)
    }
}

/// What is to be encoded.
pub(crate) struct Job<'a> {
    pub(crate) input: &'a dyn Input,
    pub(crate) header: &'a Header,
    pub(crate) header_bytes: &'a [u8],
    pub(crate) same_as: BTreeMap<String, SameAs>,
    pub(crate) level: Level,
    /// Layout for weight matrices; one that archives may use.
    pub(crate) resident: Option<Layout>,
    /// Steps of the tensors that are stored as grids, by name: their bytes are values of these grids.
    pub(crate) grids: BTreeMap<String, Arc<Steps>>,
    /// Where what comes out is the refinement of another shard: which, and the grids of its tensors by name.
    pub(crate) refines: Option<(Refines, BTreeMap<String, Arc<Base>>)>,
    pub(crate) check: bool,
}

/// What came out.
pub(crate) struct Encoded {
    pub(crate) sha256: Digest,
    pub(crate) mode: Mode,
    pub(crate) n_tied: u64,
    pub(crate) archive_bytes: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) sizes: Vec<u64>, // (payloads and the manifest,) bytes
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
    let mut meter = Meter { progress, done_bytes: 0, reported_bytes: 0 };
    if let Some((_, bases)) = &job.refines {
        return encode_refined(workers, job, bases, out, &mut meter);
    }
    if !job.grids.is_empty() {
        return encode_grids(workers, job, out, &mut meter);
    }
    if !must_be_opaque(job.header) {
        if let Some(layout) = job.resident
            && let Some(encoded) = encode_resident(workers, job, layout, out, &mut meter)?
        {
            return Ok(encoded);
        }
        let limit_bytes = largest_archive_bytes(job.input.len_bytes());
        let plan = Plan::of_tensors(job, Mode::Tensors, |entry| Coding::Chunks(entry.dtype), limit_bytes);
        if let Some(encoded) = encode_plan(workers, job, &plan, out, &mut meter)? {
            return Ok(encoded);
        }
    }
    let plan = Plan::of_file(job);
    let encoded = encode_plan(workers, job, &plan, out, &mut meter)?;
    encoded.ok_or_else(|| Error::invalid("cannot be archived within the size promise").in_file(job.input.path()))
}

/// With grids, whose steps are a payload of their own.
fn encode_grids(workers: &Workers, job: &Job<'_>, out: &AtomicFile, meter: &mut Meter<'_>) -> Result<Encoded> {
    if must_be_opaque(job.header) {
        return Err(Error::invalid("a tensor has a name that archives keep for themselves").in_file(job.input.path()));
    }
    let coding = |entry: &Entry| match job.grids.get(&entry.name) {
        Some(steps) => Coding::Grid(Arc::clone(steps)),
        None => Coding::Chunks(entry.dtype),
    };
    let mut plan = Plan::of_tensors(job, Mode::Tensors, coding, generous_bytes(job));
    let steps =
        plan.codings.iter().filter_map(|coding| if let Coding::Grid(steps) = coding { Some(&**steps) } else { None });
    plan.steps = grid::steps_bytes(steps)?;
    plan.names.push(STEPS_NAME);
    plan.is_stored.push(true);
    plan.codings.push(Coding::Chunks(Dtype::from_name("BF16")));
    let (len_bytes, chunk_bytes) = (plan.steps.len() as u64, job.level.chunk_bytes() as u64);
    plan.spans.push(Span { start: 0, len_bytes, chunk_bytes });
    let encoded = encode_plan(workers, job, &plan, out, meter)?;
    encoded.ok_or_else(|| Error::invalid("cannot be archived: its header would be too long").in_file(job.input.path()))
}

/// As what grids of another shard lack.
fn encode_refined(
    workers: &Workers,
    job: &Job<'_>,
    bases: &BTreeMap<String, Arc<Base>>,
    out: &AtomicFile,
    meter: &mut Meter<'_>,
) -> Result<Encoded> {
    let coding = |entry: &Entry| match bases.get(&entry.name) {
        Some(base) => Coding::Refined(Arc::clone(base)),
        None => Coding::Chunks(entry.dtype),
    };
    let plan = Plan::of_tensors(job, Mode::Refined, coding, generous_bytes(job));
    let encoded = encode_plan(workers, job, &plan, out, meter)?;
    encoded.ok_or_else(|| Error::invalid("cannot be refined: its header would be too long").in_file(job.input.path()))
}

/// With matrices in `layout`, except those that it does not make smaller, which are known only once they are encoded:
/// where there are any, they are left out and all is written again. `None` where none is left, or the archive would
/// break the size promise.
fn encode_resident(
    workers: &Workers,
    job: &Job<'_>,
    layout: Layout,
    out: &AtomicFile,
    meter: &mut Meter<'_>,
) -> Result<Option<Encoded>> {
    let mut left_out: BTreeSet<&str> = BTreeSet::new();
    loop {
        let coding = |entry: &Entry| {
            let is_left_out = left_out.contains(entry.name.as_str()) || job.same_as.contains_key(&entry.name);
            let geometry = (!is_left_out).then(|| resident::worthwhile(layout, entry)).flatten();
            geometry.map_or(Coding::Chunks(entry.dtype), Coding::Groups)
        };
        let most_bytes = generous_bytes(job); // The pass must end for all that are to be left out to be known.
        let plan = Plan::of_tensors(job, Mode::Resident, coding, most_bytes);
        if plan.resident_names().next().is_none() {
            return Ok(None);
        }
        let Some(encoded) = encode_plan(workers, job, &plan, out, meter)? else { return Ok(None) };
        let n_left_out = left_out.len();
        for (tensor_idx, entry) in job.header.tensors.iter().enumerate() {
            let is_resident = matches!(plan.codings[tensor_idx], Coding::Groups(_));
            if is_resident && encoded.sizes[tensor_idx] >= entry.len_bytes() {
                left_out.insert(&entry.name);
            }
        }
        if left_out.len() == n_left_out {
            let holds = encoded.archive_bytes <= largest_archive_bytes(job.input.len_bytes());
            return Ok(holds.then_some(encoded));
        }
    }
}

/// More than an archive of the job ever takes.
fn generous_bytes(job: &Job<'_>) -> u64 {
    job.input.len_bytes().saturating_mul(2).saturating_add(1 << 20)
}

/// One payload, or none, for a stretch of the original.
struct Plan<'a> {
    mode: Mode,
    names: Vec<&'a str>,
    codings: Vec<Coding>,
    is_stored: Vec<bool>,
    spans: Vec<Span>,
    /// What the last span stands for, which is not a part of the original: the steps of grids; else empty.
    steps: Vec<u8>,
    /// Bytes of the original before the first span.
    prefix: &'a [u8],
    /// Size that the archive may not pass.
    most_bytes: u64,
}

impl<'a> Plan<'a> {
    fn of_tensors(job: &Job<'a>, mode: Mode, coding: impl Fn(&Entry) -> Coding, most_bytes: u64) -> Plan<'a> {
        let tensors = &job.header.tensors;
        let coded_bytes = job.level.chunk_bytes() as u64;
        let codings: Vec<Coding> = tensors.iter().map(coding).collect();
        let span = |(entry, coding): (&Entry, &Coding)| Span {
            start: job.header.header_bytes + entry.start,
            len_bytes: entry.len_bytes(),
            chunk_bytes: coding.chunk_bytes(coded_bytes),
        };
        Plan {
            mode,
            names: tensors.iter().map(|entry| entry.name.as_str()).collect(),
            is_stored: tensors.iter().map(|entry| !job.same_as.contains_key(&entry.name)).collect(),
            spans: tensors.iter().zip(&codings).map(span).collect(),
            codings,
            steps: Vec::new(),
            prefix: job.header_bytes,
            most_bytes,
        }
    }

    fn of_file(job: &Job<'a>) -> Plan<'a> {
        let chunk_bytes = job.level.chunk_bytes() as u64;
        Plan {
            mode: Mode::Opaque,
            names: vec![OPAQUE_NAME],
            codings: vec![Coding::Chunks(Dtype::BYTES)],
            is_stored: vec![true],
            spans: vec![Span { start: 0, len_bytes: job.input.len_bytes(), chunk_bytes }],
            steps: Vec::new(),
            prefix: &[],
            most_bytes: generous_bytes(job),
        }
    }

    /// The stretches of the original.
    fn original_spans(&self) -> &[Span] {
        &self.spans[..self.spans.len() - usize::from(!self.steps.is_empty())]
    }

    fn grid_names(&self) -> impl Iterator<Item = &'a str> {
        let is_grid = |(_, coding): &(&&str, &Coding)| matches!(coding, Coding::Grid(_));
        self.names.iter().zip(&self.codings).filter(is_grid).map(|(name, _)| *name)
    }

    fn resident_names(&self) -> impl Iterator<Item = &'a str> {
        let is_resident = |(_, coding): &(&&str, &Coding)| matches!(coding, Coding::Groups(_));
        self.names.iter().zip(&self.codings).filter(is_resident).map(|(name, _)| *name)
    }
}

fn encode_plan(
    workers: &Workers,
    job: &Job<'_>,
    plan: &Plan<'_>,
    out: &AtomicFile,
    meter: &mut Meter<'_>,
) -> Result<Option<Encoded>> {
    let (original_bytes, most_bytes) = (job.input.len_bytes(), plan.most_bytes);
    meter.restart();
    out.set_len(0)?;
    let format = job.header.metadata.get("format").map(String::as_str);
    let has_grids = !plan.steps.is_empty() || plan.mode == Mode::Refined;
    let header = ArchiveHeader::reserve(plan.names.clone(), has_grids, format, most_bytes);
    let Some(header) = header.filter(|header| header.header_bytes() <= most_bytes) else { return Ok(None) };
    let mut writer = PayloadWriter::new(out, header.header_bytes(), &plan.spans, &plan.codings);
    let Some(sha256) = encode_batches(workers, job, plan, &mut writer, meter)? else { return Ok(None) };
    writer.flush()?;
    let same_as = if plan.mode == Mode::Opaque { BTreeMap::new() } else { job.same_as.clone() };
    let resident = job.resident.filter(|_| plan.mode == Mode::Resident).map(|layout| Resident {
        layout: layout.name().to_owned(),
        tensors: plan.resident_names().map(str::to_owned).collect(),
    });
    let manifest = Manifest {
        writer: crate::WRITER.to_owned(),
        level: job.level.name().to_owned(),
        mode: plan.mode,
        chunk_bytes: job.level.chunk_bytes() as u64,
        original: Original { bytes: original_bytes, sha256, header_bytes: job.header.header_bytes },
        same_as,
        resident,
        grids: plan.grid_names().map(str::to_owned).collect(),
        refines: job.refines.as_ref().map(|(refines, _)| refines.clone()),
        header: plan.prefix.to_vec(),
    };
    let mut body = manifest.encode()?;
    let (payload_bytes, mut sizes) = (writer.position() - header.header_bytes(), writer.sizes().to_vec());
    sizes.push(Manifest::sealed_bytes(&body));
    let archive_bytes = writer.position() + Manifest::sealed_bytes(&body);
    if archive_bytes > most_bytes {
        return Ok(None);
    }
    let archive_header = header.write(&sizes)?;
    Manifest::seal(&archive_header, &mut body);
    out.write_all_at(writer.position(), &body)?;
    out.write_all_at(0, &archive_header)?;
    let n_tied = manifest.same_as.len() as u64;
    let coders = writer.into_coders();
    Ok(Some(Encoded { sha256, mode: plan.mode, n_tied, archive_bytes, payload_bytes, sizes, coders }))
}

/// A batch on its way through the stages.
#[derive(Default)]
struct Batch {
    pieces: Vec<Piece>,
    raw: Vec<u8>,           // the pieces' bytes, one after the other
    coded: Vec<CodedChunk>, // (pieces,) and spare ones behind
}

/// Gives the original's SHA-256, or `None` where the payloads pass the most that the plan allows.
fn encode_batches(
    workers: &Workers,
    job: &Job<'_>,
    plan: &Plan<'_>,
    writer: &mut PayloadWriter<'_>,
    meter: &mut Meter<'_>,
) -> Result<Option<Digest>> {
    let mut hasher = Sha256::new();
    hasher.update(plan.prefix);
    meter.advance(plan.prefix.len() as u64);
    let mut batches = Batches::new(plan.original_spans(), workers.batch_bytes());
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
        meter.advance(current.raw.len() as u64);
        check_interrupted(meter.progress)?;
        if writer.position() > plan.most_bytes {
            return Ok(None);
        }
        std::mem::swap(&mut before, &mut current);
        std::mem::swap(&mut current, &mut next);
    }
    writer.write(&before.pieces, &before.coded, &plan.is_stored)?;
    write_steps(workers, job, plan, writer)?;
    let digest = Digest(hasher.finalize().into());
    Ok((writer.position() <= plan.most_bytes).then_some(digest))
}

/// The last span, where it stands for steps.
fn write_steps(workers: &Workers, job: &Job<'_>, plan: &Plan<'_>, writer: &mut PayloadWriter<'_>) -> Result<()> {
    if plan.steps.is_empty() {
        return Ok(());
    }
    let mut batches = Batches::new(&plan.spans, usize::MAX);
    batches.skip_to(plan.spans.len() - 1);
    let Batch { mut pieces, mut coded, .. } = Batch::default();
    while batches.next_into(&mut pieces) {
        let from = pieces[0].start as usize; // In memory.
        let raw = &plan.steps[from..from + batch::len_bytes(&pieces)];
        workers.run(|| encode_batch(workers, job, plan, &pieces, raw, &mut coded))?;
        writer.write(&pieces, &coded, &plan.is_stored)?;
    }
    Ok(())
}

fn read_batch(input: &dyn Input, batch: &mut Batch) -> Result<()> {
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
        let coding = &plan.codings[piece.span_idx];
        let encoded = workers.with(|worker| chunk::encode(worker, coding, piece.chunk_idx, raw, job.check, coded));
        encoded.in_tensor(plan.names[piece.span_idx]).in_file(job.input.path())
    })
}

/// Reports progress; bytes that an abandoned pass reported already are not reported again.
struct Meter<'a> {
    progress: &'a dyn Progress,
    done_bytes: u64, // in this pass
    reported_bytes: u64,
}

impl Meter<'_> {
    fn restart(&mut self) {
        self.done_bytes = 0;
    }

    fn advance(&mut self, bytes: u64) {
        self.done_bytes += bytes;
        let more = self.done_bytes.saturating_sub(self.reported_bytes);
        self.reported_bytes += more;
        self.progress.advance(more);
    }
}
