//! One archive shard on disk, its header, manifest and chunk directories checked.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use netweight_codec::Level;
use netweight_container::{
    ALIGNMENT, ChunkRef, Context, Entry, Error, Header, InputFile, MANIFEST_NAME, MAX_HEADER_BYTES, METADATA_KEY,
    Manifest, Mode, OPAQUE_NAME, Result, STEPS_NAME, check_format_mark, check_format_shown, check_padding, n_chunks,
    read_directory,
};
use netweight_tensor::Dtype;

use crate::coding::Coding;
use crate::workers::Worker;
use crate::{chunk, grid, refined, resident};

/// A payload and what it stands for.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) coding: Coding,
    /// Bytes that it stands for.
    pub(crate) len_bytes: u64,
    /// Bytes that each of its chunks but the last stands for.
    pub(crate) chunk_bytes: u64,
    /// Offset in the file of its first byte.
    pub(crate) start: u64,
    /// Offset in the file behind its last byte.
    pub(crate) end: u64,
    pub(crate) chunks: Vec<ChunkRef>,
}

impl Payload {
    /// Its own size in bytes.
    pub(crate) fn stored_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// An archive shard on its own, without its siblings.
#[derive(Debug)]
pub(crate) struct ShardFile {
    pub(crate) input: InputFile,
    pub(crate) manifest: Manifest,
    /// The original's header.
    pub(crate) original: Header,
    /// The original's header as it stood.
    pub(crate) header_bytes: Vec<u8>,
    /// (original.tensors,), empty for tied tensors; one in mode `opaque`.
    pub(crate) payloads: Vec<Payload>,
    /// The steps of grids, where there are any.
    pub(crate) steps: Option<Payload>,
    /// Of a refinement: size in bytes of the shard that it refines.
    pub(crate) base_bytes: u64,
}

/// Whether a safetensors header is that of an archive shard.
pub(crate) fn is_archive(header: &Header) -> bool {
    header.metadata.contains_key(METADATA_KEY)
}

impl ShardFile {
    /// `base`: opens the sibling that a refinement is of.
    pub(crate) fn open(path: &Path, base: impl FnOnce(&Path) -> Result<Arc<ShardFile>>) -> Result<ShardFile> {
        let input = InputFile::open(path)?;
        let (header, bytes) = Header::read(&input)?;
        let format = check_header(&header).in_file(path)?;
        let (tensors, manifest) = manifest(&input, &header, &bytes).in_file(path)?;
        if format != u64::from(manifest.format()) {
            return Err(Error::corrupt("the header and the manifest are of other format versions").in_file(path));
        }
        let payloads = match manifest.mode {
            Mode::Tensors | Mode::Resident | Mode::Refined => {
                let original = Header::parse(&manifest.header, manifest.original.bytes).in_file(path)?;
                check_format_shown(&header, &original).in_file(path)?;
                let (tensors, steps) = split_steps(&input, &header, tensors, &manifest, &original).in_file(path)?;
                let mut base_bytes = 0;
                let codings = match &manifest.refines {
                    Some(refines) => {
                        let place = path.with_file_name(&refines.shard);
                        let base = base(&place)?;
                        refined::check_base(refines, &base, &place).in_file(path)?;
                        base_bytes = base.input.len_bytes();
                        refined::codings(&manifest, &original.tensors, refines, &base).in_file(path)?
                    }
                    None => codings(&input, &manifest, &original, steps.as_ref()).in_file(path)?,
                };
                let payloads =
                    tensor_payloads(&input, &header, tensors, &manifest, &original, codings).in_file(path)?;
                let header_bytes = manifest.header.clone();
                return Ok(ShardFile { input, manifest, original, header_bytes, payloads, steps, base_bytes });
            }
            Mode::Opaque => opaque_payload(&input, &header, tensors, &manifest).in_file(path)?,
            _ => return Err(Error::unsupported("a mode that this version does not read").in_file(path)),
        };
        let header_bytes = opaque_header_bytes(&input, &payloads, &manifest).in_file(path)?;
        let original = Header::parse(&header_bytes, manifest.original.bytes).in_file(path)?;
        check_format_shown(&header, &original).in_file(path)?;
        Ok(ShardFile { input, manifest, original, header_bytes, payloads, steps: None, base_bytes: 0 })
    }

    /// Bytes of all payloads.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.payloads.iter().chain(&self.steps).map(Payload::stored_bytes).sum()
    }

    /// Index of the payload that holds the tensor's bytes, if this file has it and it is not tied.
    pub(crate) fn payload_of(&self, tensor: &str) -> Option<usize> {
        let is_untied = self.manifest.mode != Mode::Opaque && !self.manifest.same_as.contains_key(tensor);
        is_untied.then(|| self.original.tensors.iter().position(|entry| entry.name == tensor)).flatten()
    }

    pub(crate) fn check_padding(&self) -> Result<()> {
        self.payloads.iter().chain(&self.steps).try_for_each(|payload| {
            let Payload { start, chunks, end, .. } = payload;
            check_padding(&self.input, *start, chunks, *end)
        })
    }
}

/// Gives the format version.
fn check_header(header: &Header) -> Result<u64> {
    let mark = header.metadata.get(METADATA_KEY);
    let format = check_format_mark(mark.ok_or_else(|| Error::invalid("not a netweight archive"))?)?;
    if !header.header_bytes.is_multiple_of(ALIGNMENT) {
        return Err(Error::corrupt("the data does not begin at a multiple of 64"));
    }
    for entry in &header.tensors {
        if entry.dtype_name != "U8" || entry.shape.len() != 1 {
            return Err(Error::corrupt("a payload that is not one-dimensional U8").in_tensor(&entry.name));
        }
    }
    Ok(format)
}

/// The payloads' entries and the manifest. `bytes`: the archive's header.
fn manifest<'h>(input: &InputFile, header: &'h Header, bytes: &[u8]) -> Result<(&'h [Entry], Manifest)> {
    let last = header.tensors.split_last().filter(|(last, _)| last.name == MANIFEST_NAME);
    let (last, tensors) = last.ok_or_else(|| Error::corrupt("the last tensor is not the manifest"))?;
    let body = input.read_vec(header.header_bytes + last.start, last.len_bytes())?;
    Ok((tensors, Manifest::decode(bytes, &body).in_tensor(MANIFEST_NAME)?))
}

/// The tensors' entries and, where there are grids, the payload of their steps, which is the last.
fn split_steps<'h>(
    input: &InputFile,
    header: &Header,
    tensors: &'h [Entry],
    manifest: &Manifest,
    original: &Header,
) -> Result<(&'h [Entry], Option<Payload>)> {
    if manifest.grids.is_empty() {
        return Ok((tensors, None));
    }
    let last = tensors.split_last().filter(|(last, _)| last.name == STEPS_NAME);
    let (last, tensors) = last.ok_or_else(|| Error::corrupt("the last payload is not that of the grids' steps"))?;
    let len_bytes = grid::steps_len(manifest, &original.tensors)?;
    let coding = Coding::Chunks(Dtype::from_name("BF16"));
    let steps = payload(input, header, last, manifest.chunk_bytes, coding, len_bytes).in_tensor(STEPS_NAME)?;
    Ok((tensors, Some(steps)))
}

/// The coding of each of the original's tensors.
fn codings(input: &InputFile, manifest: &Manifest, original: &Header, steps: Option<&Payload>) -> Result<Vec<Coding>> {
    let tensors = &original.tensors;
    if let Some(resident) = &manifest.resident {
        return resident::codings(resident, tensors, |name| manifest.same_as.contains_key(name));
    }
    let Some(steps) = steps else { return Ok(tensors.iter().map(|tensor| Coding::Chunks(tensor.dtype)).collect()) };
    let mut worker = Worker::new(Level::Default);
    let read = |chunk_idx: usize, bytes: &mut Vec<u8>| {
        let (start, before) = (chunk_idx as u64 * steps.chunk_bytes, bytes.len());
        bytes.resize(before + (steps.len_bytes - start).min(steps.chunk_bytes) as usize, 0); // At most 16 MiB.
        let coding = (&steps.coding, chunk_idx);
        chunk::decode(&mut worker, input, steps.chunks[chunk_idx], coding, &mut bytes[before..]).in_tensor(STEPS_NAME)
    };
    grid::codings(manifest, tensors, read)
}

fn tensor_payloads(
    input: &InputFile,
    header: &Header,
    tensors: &[Entry],
    manifest: &Manifest,
    original: &Header,
    codings: Vec<Coding>,
) -> Result<Vec<Payload>> {
    if original.header_bytes != manifest.original.header_bytes || tensors.len() != original.tensors.len() {
        return Err(Error::corrupt("the archive and its original's header do not agree"));
    }
    let by_name: HashMap<&str, &Entry> = tensors.iter().map(|entry| (entry.name.as_str(), entry)).collect();
    let is_tied = |name: &str| manifest.same_as.contains_key(name);
    let mut n_tied = 0;
    let mut position = 0;
    let mut payloads = Vec::with_capacity(original.tensors.len());
    for (tensor, coding) in original.tensors.iter().zip(codings) {
        let entry = by_name.get(tensor.name.as_str());
        let entry = entry.ok_or_else(|| Error::corrupt("the tensor has no payload").in_tensor(&tensor.name))?;
        if entry.start < position {
            return Err(Error::corrupt("payloads are not in the original's order").in_tensor(&tensor.name));
        }
        position = entry.end;
        let is_tied = is_tied(&tensor.name);
        n_tied += usize::from(is_tied);
        let len_bytes = if is_tied { 0 } else { tensor.len_bytes() };
        let payload = payload(input, header, entry, manifest.chunk_bytes, coding, len_bytes);
        payloads.push(payload.in_tensor(&tensor.name)?);
    }
    if n_tied != manifest.same_as.len() {
        return Err(Error::corrupt("the manifest ties a tensor that is not there"));
    }
    Ok(payloads)
}

fn opaque_payload(input: &InputFile, header: &Header, tensors: &[Entry], manifest: &Manifest) -> Result<Vec<Payload>> {
    match tensors {
        [entry] if entry.name == OPAQUE_NAME => {
            let coding = Coding::Chunks(Dtype::BYTES);
            let payload = payload(input, header, entry, manifest.chunk_bytes, coding, manifest.original.bytes)?;
            Ok(vec![payload])
        }
        _ => Err(Error::corrupt("an opaque archive with other tensors")),
    }
}

fn payload(
    input: &InputFile,
    header: &Header,
    entry: &Entry,
    coded_bytes: u64,
    coding: Coding,
    len_bytes: u64,
) -> Result<Payload> {
    let (start, end) = (header.header_bytes + entry.start, header.header_bytes + entry.end);
    let chunk_bytes = coding.chunk_bytes(coded_bytes);
    let chunks = read_directory(input, start, end, n_chunks(len_bytes, chunk_bytes), coding.chunk_alignment())?;
    Ok(Payload { coding, len_bytes, chunk_bytes, start, end, chunks })
}

/// The original's header, from the first chunks of the whole file.
fn opaque_header_bytes(input: &InputFile, payloads: &[Payload], manifest: &Manifest) -> Result<Vec<u8>> {
    let original = &manifest.original;
    let (Some(payload), 8..) = (payloads.first(), original.header_bytes) else {
        return Err(Error::corrupt("an original without a header"));
    };
    debug_assert!(original.header_bytes <= MAX_HEADER_BYTES + 8); // Manifest::decode checked it.
    let mut worker = Worker::new(Level::Default);
    let mut bytes = Vec::new();
    for (chunk_idx, &chunk) in payload.chunks.iter().enumerate() {
        if bytes.len() as u64 >= original.header_bytes {
            break;
        }
        let start = chunk_idx as u64 * manifest.chunk_bytes;
        let len_bytes = (payload.len_bytes - start).min(manifest.chunk_bytes) as usize; // At most 16 MiB.
        let before = bytes.len();
        bytes.resize(before + len_bytes, 0);
        chunk::decode(&mut worker, input, chunk, (&payload.coding, chunk_idx), &mut bytes[before..])?;
    }
    bytes.truncate(original.header_bytes as usize);
    Ok(bytes)
}
