//! The header of a safetensors file: untrusted bytes in, a [`Header`] that cannot be wrong out.
//!
//! The rules are those of the safetensors crate, with two differences: dtypes that it does not know are
//! legal (their size follows from the offsets), and a tensor named twice is an error.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use netweight_tensor::{Dtype, n_bytes};
use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::{Context, Error, InputFile, Result};

/// Largest JSON part of a header that safetensors reads, in bytes.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

const LFS_MARK: &[u8] = b"version https://git-lfs";

/// One tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its dtype as the header spells it.
    pub dtype_name: String,
    /// The dtype's row.
    pub dtype: Dtype,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Offset of its first byte from the start of the data.
    pub start: u64,
    /// Offset behind its last byte.
    pub end: u64,
}

impl Entry {
    /// Size in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// The header of a safetensors file. The tensors are sorted by (start, end, name), contiguous from 0, and
/// cover the data exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Size of the header with its 8-byte length: where the data begins.
    pub header_bytes: u64,
    /// The strings under `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// The tensors.
    pub tensors: Vec<Entry>,
}

impl Header {
    /// Reads and checks the header of `input`; also gives its bytes, length included.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `Io`; `InvalidArgument` for a git-lfs pointer.
    pub fn read(input: &InputFile) -> Result<(Header, Vec<u8>)> {
        read(input).in_file(input.path())
    }

    /// Checks `bytes`, which must be the whole header with its 8-byte length, of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// `Truncated` where the file is shorter than the header says; `Corrupt`.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Header> {
        let length = bytes.first_chunk::<8>().ok_or_else(|| Error::truncated(8, bytes.len() as u64))?;
        let header_bytes = checked_header_bytes(u64::from_le_bytes(*length))?;
        if bytes.len() as u64 != header_bytes {
            return Err(Error::truncated(header_bytes, bytes.len() as u64));
        }
        let json = std::str::from_utf8(&bytes[8..]).map_err(|_| Error::corrupt("the header is not UTF-8"))?;
        if !json.starts_with('{') {
            return Err(Error::corrupt("the header does not begin with '{'"));
        }
        let raw: RawHeader = serde_json::from_str(json)
            .map_err(|error| Error::corrupt(format!("the header is not what safetensors allows: {error}")))?;
        let mut tensors = raw.tensors.into_iter().map(checked_entry).collect::<Result<Vec<Entry>>>()?;
        tensors.sort_unstable_by(|a, b| (a.start, a.end, &a.name).cmp(&(b.start, b.end, &b.name)));
        check_coverage(&tensors, header_bytes, file_bytes)?;
        Ok(Header { header_bytes, metadata: raw.metadata, tensors })
    }

    /// Size of the data in bytes.
    pub fn data_bytes(&self) -> u64 {
        self.tensors.last().map_or(0, |last| last.end)
    }
}

fn read(input: &InputFile) -> Result<(Header, Vec<u8>)> {
    let mut start = [0; LFS_MARK.len()];
    let n_start = usize::try_from(input.len_bytes()).map_or(start.len(), |len| len.min(start.len()));
    input.read_exact_at(0, &mut start[..n_start])?;
    if start == LFS_MARK {
        return Err(Error::invalid("a git-lfs pointer, not the weights; fetch them with: git lfs pull"));
    }
    let length = start[..n_start].first_chunk::<8>().ok_or_else(|| Error::truncated(8, input.len_bytes()))?;
    let header_bytes = checked_header_bytes(u64::from_le_bytes(*length))?;
    let bytes = input.read_vec(0, header_bytes)?;
    Ok((Header::parse(&bytes, input.len_bytes())?, bytes))
}

fn checked_header_bytes(json_bytes: u64) -> Result<u64> {
    if json_bytes > MAX_HEADER_BYTES {
        return Err(Error::corrupt(
            "the header is longer than safetensors allows (100 MB); is this a safetensors file?",
        ));
    }
    Ok(json_bytes + 8)
}

fn checked_entry((name, raw): (String, RawTensor)) -> Result<Entry> {
    let (start, end) = raw.data_offsets;
    let dtype = Dtype::from_name(&raw.dtype);
    if start > end {
        return Err(Error::corrupt("the tensor ends before it starts").in_tensor(&name));
    }
    if dtype.bits().is_some() && n_bytes(dtype, &raw.shape) != Some(end - start) {
        return Err(Error::corrupt("the tensor's shape and dtype do not give its size").in_tensor(&name));
    }
    Ok(Entry { name, dtype_name: raw.dtype, dtype, shape: raw.shape, start, end })
}

/// `tensors`: sorted by (start, end).
fn check_coverage(tensors: &[Entry], header_bytes: u64, file_bytes: u64) -> Result<()> {
    let mut position = 0;
    for entry in tensors {
        if entry.start != position {
            return Err(Error::corrupt("the tensor does not begin where the one before it ends")
                .in_tensor(&entry.name)
                .at_offset(entry.start));
        }
        position = entry.end;
    }
    let expected = header_bytes.checked_add(position).ok_or_else(|| Error::corrupt("offsets beyond 64 bits"))?;
    match expected.cmp(&file_bytes) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater => Err(Error::truncated(expected, file_bytes)),
        std::cmp::Ordering::Less => Err(Error::corrupt("bytes follow the last tensor").at_offset(expected)),
    }
}

#[derive(Deserialize)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

#[derive(Default)]
struct RawHeader {
    metadata: BTreeMap<String, String>,
    tensors: Vec<(String, RawTensor)>,
}

// By hand, because a derived map would silently keep the last of two tensors with one name.
impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<RawHeader, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<RawHeader, A::Error> {
        let mut header = RawHeader::default();
        let mut seen = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format_args!("{name:?} stands there twice")));
            }
            if name == "__metadata__" {
                header.metadata = map.next_value::<Option<BTreeMap<String, String>>>()?.unwrap_or_default();
            } else {
                header.tensors.push((name, map.next_value()?));
            }
        }
        Ok(header)
    }
}
