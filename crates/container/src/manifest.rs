//! The manifest tensor (section 2): what an archive shard says about its original.

use std::collections::BTreeMap;
use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Error, MAX_HEADER_BYTES, Result};

/// The newest format version that this crate reads. It writes the oldest that says what is to be said.
pub const FORMAT: u32 = 2;
/// The format version without grids.
pub(crate) const FORMAT_EXACT: u32 = 1;

const MIN_CHUNK_BYTES: u64 = 4096;
const MAX_CHUNK_BYTES: u64 = 16 << 20;
const DIGEST_BYTES: usize = 32;
/// Inflating begins with a buffer no larger than this, whatever the manifest announces.
const MAX_PREALLOC_BYTES: u64 = 1 << 20;

/// How an archive shard stands for its original.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Mode {
    /// A payload for each tensor, the header beside them.
    Tensors,
    /// As `Tensors`, and some tensors lie in a resident layout.
    Resident,
    /// One payload for the whole file.
    Opaque,
    /// As `Tensors`, and some payloads say how tensors differ from the grids of another archive shard.
    Refined,
}

/// The original file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Original {
    /// Its size in bytes.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Digest,
    /// Size of its header with the 8-byte length, in bytes.
    pub header_bytes: u64,
}

/// The tensor whose bytes a tensor without payload shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SameAs {
    /// Its name.
    pub tensor: String,
    /// File name of its sibling shard, or `None` where it is in the same shard.
    #[serde(deserialize_with = "Option::deserialize")] // Null, but there.
    pub shard: Option<String>,
}

/// The tensors whose payloads are groups of a resident layout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resident {
    /// Name of the layout; which there are is not known here.
    pub layout: String,
    /// Their names, in offset order.
    pub tensors: Vec<String>,
}

/// The archive shard that a refinement makes an original of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refines {
    /// File name of its sibling.
    pub shard: String,
    /// SHA-256 of the values that the sibling stands for: its own `original`.
    pub sha256: Digest,
    /// Names of the tensors that are refined, in offset order.
    pub tensors: Vec<String>,
}

/// The manifest of an archive shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Name and version of the program that wrote the archive.
    pub writer: String,
    /// Name of the level it was written at.
    pub level: String,
    /// Whether there is a payload for each tensor.
    pub mode: Mode,
    /// Bytes of an original tensor that one chunk stands for.
    pub chunk_bytes: u64,
    /// The original file.
    pub original: Original,
    /// Tensors without payload of their own.
    pub same_as: BTreeMap<String, SameAs>,
    /// Tensors in a resident layout; there in mode `resident` and in no other.
    pub resident: Option<Resident>,
    /// Names of the tensors that are stored as grids, in offset order; in mode `tensors` only. An archive shard that
    /// has any is of format 2.
    pub grids: Vec<String>,
    /// What is refined; there in mode `refined`, which is of format 2, and in no other.
    pub refines: Option<Refines>,
    /// The original's header bytes with their 8-byte length; empty in mode `opaque`.
    pub header: Vec<u8>,
}

#[derive(Deserialize)]
struct Version {
    format: u64,
}

#[derive(Serialize, Deserialize)]
struct Json {
    format: u64,
    writer: String,
    level: String,
    mode: Mode,
    chunk_bytes: u64,
    original: Original,
    same_as: BTreeMap<String, SameAs>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    resident: Option<Resident>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    grids: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    refines: Option<Refines>,
}

pub(crate) fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
) -> std::result::Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

impl Manifest {
    /// The format version of the archive shard.
    pub fn format(&self) -> u32 {
        format_of(!self.grids.is_empty() || self.mode == Mode::Refined)
    }

    /// The manifest tensor's bytes before its digest; [`Manifest::seal`] completes them.
    ///
    /// # Errors
    /// `InvalidArgument` where the JSON would be longer than 4 GiB.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let json = Json {
            format: u64::from(self.format()),
            writer: self.writer.clone(),
            level: self.level.clone(),
            mode: self.mode,
            chunk_bytes: self.chunk_bytes,
            original: self.original.clone(),
            same_as: self.same_as.clone(),
            resident: self.resident.clone(),
            grids: self.grids.clone(),
            refines: self.refines.clone(),
        };
        let json = serde_json::to_vec(&json).map_err(|error| Error::invalid(error.to_string()))?;
        let json_len = u32::try_from(json.len()).map_err(|_| Error::invalid("the manifest is too long"))?;
        let mut body = json_len.to_le_bytes().to_vec();
        body.extend_from_slice(&json);
        if self.mode != Mode::Opaque {
            body.extend_from_slice(&deflate(&self.header));
        }
        Ok(body)
    }

    /// Size of the manifest tensor whose bytes before the digest are `body`, in bytes.
    pub fn sealed_bytes(body: &[u8]) -> u64 {
        (body.len() + DIGEST_BYTES) as u64
    }

    /// Appends the digest. `archive_header`: all bytes of the archive shard before its data.
    pub fn seal(archive_header: &[u8], body: &mut Vec<u8>) {
        let digest = Digest::of(&[archive_header, body]);
        body.extend_from_slice(&digest.0);
    }

    /// Checks and takes apart the bytes of a manifest tensor.
    ///
    /// # Errors
    /// `Unsupported` for a newer format, `Truncated`, `Corrupt`.
    pub fn decode(archive_header: &[u8], bytes: &[u8]) -> Result<Manifest> {
        let short = || Error::truncated((4 + DIGEST_BYTES) as u64, bytes.len() as u64);
        let (body, digest) = bytes.split_last_chunk::<DIGEST_BYTES>().ok_or_else(short)?;
        let (json_len, rest) = body.split_first_chunk::<4>().ok_or_else(short)?;
        let json_len = u32::from_le_bytes(*json_len);
        let json = usize::try_from(json_len).ok().and_then(|json_len| rest.split_at_checked(json_len));
        let (json, header_zlib) = json.ok_or_else(|| Error::truncated(u64::from(json_len), rest.len() as u64))?;
        if let Ok(Version { format }) = serde_json::from_slice(json) {
            check_format(format)?;
        }
        if Digest::of(&[archive_header, body]).0 != *digest {
            return Err(Error::corrupt("the manifest or the header was changed (SHA-256)"));
        }
        let json: Json =
            serde_json::from_slice(json).map_err(|error| Error::corrupt(format!("the manifest: {error}")))?;
        json.checked(header_zlib)
    }
}

impl Json {
    fn checked(self, header_zlib: &[u8]) -> Result<Manifest> {
        let Json { format, writer, level, mode, chunk_bytes, original, same_as, resident, grids, refines } = self;
        let sizes_hold = chunk_bytes.is_power_of_two()
            && (MIN_CHUNK_BYTES..=MAX_CHUNK_BYTES).contains(&chunk_bytes)
            && original.header_bytes <= MAX_HEADER_BYTES + 8
            && original.header_bytes <= original.bytes;
        if !sizes_hold {
            return Err(Error::corrupt("a size in the manifest is out of range"));
        }
        let header = match mode {
            Mode::Tensors | Mode::Resident | Mode::Refined => inflate(header_zlib, original.header_bytes)?,
            Mode::Opaque if header_zlib.is_empty() && same_as.is_empty() => Vec::new(),
            Mode::Opaque => return Err(Error::corrupt("an opaque manifest with a header or ties")),
        };
        let is_resident = resident.as_ref().map(|resident| !resident.tensors.is_empty());
        if is_resident != (mode == Mode::Resident).then_some(true) {
            return Err(Error::corrupt("the mode and the list of resident tensors do not agree"));
        }
        let has_grids = !grids.is_empty() || mode == Mode::Refined;
        if format != u64::from(format_of(has_grids)) || (mode != Mode::Tensors && !grids.is_empty()) {
            return Err(Error::corrupt("the format, the mode and the list of grids do not agree"));
        }
        if (mode == Mode::Refined) != refines.is_some() {
            return Err(Error::corrupt("the mode and what is refined do not agree"));
        }
        let names = same_as.values().filter_map(|same| same.shard.as_deref());
        let names = names.chain(refines.as_ref().map(|refines| refines.shard.as_str()));
        if names.into_iter().any(|shard| !is_file_name(shard)) {
            return Err(Error::corrupt("a sibling shard that is not a file name"));
        }
        Ok(Manifest { writer, level, mode, chunk_bytes, original, same_as, resident, grids, refines, header })
    }
}

fn is_file_name(name: &str) -> bool {
    !name.contains('/') && crate::check_relative_path(name).is_ok()
}

/// The format version of archives, with or without grids (or what refines them).
pub(crate) fn format_of(has_grids: bool) -> u32 {
    if has_grids { FORMAT } else { FORMAT_EXACT }
}

pub(crate) fn check_format(format: u64) -> Result<()> {
    match format {
        1 | 2 => Ok(()),
        0 => Err(Error::corrupt("format version 0")),
        _ => Err(Error::unsupported(format!(
            "archive format {format}; this program reads formats up to {FORMAT}, a newer netweight reads it"
        ))),
    }
}

/// Checks the value under [`crate::METADATA_KEY`] in an archive shard's `__metadata__`, and gives the format version.
///
/// # Errors
/// `Unsupported` for a newer format, `Corrupt` for what is not a version.
pub fn check_format_mark(mark: &str) -> Result<u64> {
    if !mark.bytes().all(|byte| byte.is_ascii_digit()) || mark.starts_with('0') {
        return Err(Error::corrupt("the archive's format version is not a number"));
    }
    let format = mark.parse().map_err(|_| Error::corrupt("the archive's format version is not a number"))?;
    check_format(format).map(|()| format)
}

pub(crate) fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    // Writing to memory cannot fail; were it to, the reader of the result would say so.
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default()
}

/// Inflates a zlib stream that must give exactly `len_bytes` bytes and use up `zlib`.
pub(crate) fn inflate(zlib: &[u8], len_bytes: u64) -> Result<Vec<u8>> {
    let mut decoder = ZlibDecoder::new(zlib);
    let capacity = usize::try_from(len_bytes.min(MAX_PREALLOC_BYTES)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(capacity);
    let read = (&mut decoder).take(len_bytes.saturating_add(1)).read_to_end(&mut bytes);
    let whole = read.is_ok() && bytes.len() as u64 == len_bytes && decoder.total_in() == zlib.len() as u64;
    if !whole {
        return Err(Error::corrupt("a zlib stream that does not give what was announced"));
    }
    Ok(bytes)
}
