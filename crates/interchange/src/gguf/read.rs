//! The header of a GGUF file (versions 2 and 3, little-endian): untrusted bytes in, metadata and a table of tensors
//! that cannot be wrong out. Next in the flow: write.rs, which does the same the other way.

use std::collections::BTreeMap;

use netweight_container::{Context, Error, InputFile, Result};

use super::cursor::Cursor;
use super::metadata::{Metadata, Places};
use super::{ALIGNMENT, MAGIC};
use crate::types::Type;

/// A header is refused where it is longer; the largest known ones have some 20 MB, most of it vocabulary.
const MAX_HEADER_BYTES: u64 = 1 << 30;
/// What is read first.
const FIRST_BYTES: u64 = 1 << 20;
const MAX_DIMENSIONS: u32 = 4;

/// One tensor of a file.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// Dimensions, the one that varies slowest first: as Hugging Face writes them, and not as GGUF does.
    pub(crate) shape: Vec<u64>,
    pub(crate) ty: Type,
    /// Offset of its first byte in the file.
    pub(crate) offset: u64,
    pub(crate) n_bytes: u64,
}

/// A GGUF file's header.
#[derive(Debug, Default)]
pub(crate) struct Gguf {
    pub(crate) metadata: Metadata,
    /// By name; inside the file, and no two over each other.
    pub(crate) tensors: BTreeMap<String, TensorInfo>,
}

impl Gguf {
    /// Reads and checks the header of a file.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no GGUF file; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
    pub(crate) fn read(input: &InputFile) -> Result<Gguf> {
        read(input).in_file(input.path())
    }

    /// Checks the header at the front of `bytes`, of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// `Truncated` where `bytes` ends within the header, with how many it takes at least, or the file within a tensor.
    pub(crate) fn parse(bytes: &[u8], file_bytes: u64) -> Result<Gguf> {
        let mut cursor = Cursor::new(bytes);
        check_magic(cursor.take(4)?)?;
        check_version(cursor.u32()?)?;
        let (n_tensors, n_values) = (cursor.u64()?, cursor.u64()?);
        let places = Places::read(&mut cursor, n_values)?;
        let metadata_bytes = cursor.position();
        let alignment = places.number(bytes, "general.alignment")?.unwrap_or(ALIGNMENT);
        if !alignment.is_power_of_two() || alignment > 1 << 20 {
            return Err(Error::corrupt("general.alignment is not a power of two up to 2^20"));
        }
        let mut infos = Vec::new(); // Grows with the bytes that are there, whatever n_tensors says.
        for _ in 0..n_tensors {
            let at = cursor.position() as u64;
            infos.push(tensor_info(&mut cursor, alignment).map_err(|error| error.at_offset(at))?);
        }
        let data_start = (cursor.position() as u64).next_multiple_of(alignment);
        let tensors = placed(infos, data_start, file_bytes)?;
        Ok(Gguf { metadata: places.with_bytes(bytes[..metadata_bytes].to_vec()), tensors })
    }
}

fn read(input: &InputFile) -> Result<Gguf> {
    let file_bytes = input.len_bytes();
    let mut n_bytes = FIRST_BYTES.min(file_bytes);
    loop {
        let bytes = input.read_vec(0, n_bytes)?;
        match Gguf::parse(&bytes, file_bytes) {
            Err(Error::Truncated { place, expected, .. }) if expected > file_bytes => {
                return Err(Error::Truncated { place, expected, actual: file_bytes });
            }
            Err(Error::Truncated { .. }) if n_bytes == MAX_HEADER_BYTES => {
                return Err(Error::corrupt("the header is longer than 1 GiB; is this a GGUF file?"));
            }
            Err(Error::Truncated { expected, .. }) if n_bytes < file_bytes => {
                n_bytes = expected.max(n_bytes * 4).min(file_bytes).min(MAX_HEADER_BYTES);
            }
            result => return result,
        }
    }
}

fn check_magic(magic: &[u8]) -> Result<()> {
    if magic == MAGIC {
        return Ok(());
    }
    Err(Error::invalid("not a GGUF file: it does not begin with \"GGUF\""))
}

fn check_version(version: u32) -> Result<()> {
    match version {
        2 | 3 => Ok(()),
        _ if version & 0xffff == 0 && version != 0 => Err(Error::unsupported("a big-endian GGUF file")),
        _ => Err(Error::unsupported(format!("GGUF version {version}; known are 2 and 3"))),
    }
}

/// Its offset counts from the start of the data still.
fn tensor_info(cursor: &mut Cursor, alignment: u64) -> Result<TensorInfo> {
    let name = cursor.text()?;
    let n_dimensions = cursor.u32()?;
    if n_dimensions > MAX_DIMENSIONS {
        return Err(Error::corrupt(format!("{n_dimensions} dimensions; there are at most 4")).in_tensor(&name));
    }
    let mut shape = (0..n_dimensions).map(|_| cursor.u64()).collect::<Result<Vec<u64>>>()?;
    let type_id = cursor.u32()?;
    let offset = cursor.u64()?;
    let ty = Type::from_id(type_id)
        .ok_or_else(|| Error::unsupported(format!("elements of type {type_id}")).in_tensor(&name))?;
    let n_values = shape.iter().try_fold(1u64, |product, &n| product.checked_mul(n));
    // A row, the first dimension, is whole blocks.
    let row_is_whole = shape.first().is_none_or(|row| row.is_multiple_of(ty.block_values()));
    let n_bytes = n_values.filter(|_| row_is_whole).and_then(|n_values| ty.n_bytes(n_values));
    let n_bytes = n_bytes.ok_or_else(|| {
        Error::corrupt(format!("rows of {shape:?} are no whole blocks of {}, or too many", ty.name())).in_tensor(&name)
    })?;
    if !offset.is_multiple_of(alignment) {
        return Err(Error::corrupt("it does not begin at a multiple of general.alignment").in_tensor(&name));
    }
    shape.reverse();
    Ok(TensorInfo { name, shape, ty, offset, n_bytes })
}

/// Puts tensors where they are in the file.
fn placed(mut infos: Vec<TensorInfo>, data_start: u64, file_bytes: u64) -> Result<BTreeMap<String, TensorInfo>> {
    infos.sort_unstable_by(|a, b| (a.offset, &a.name).cmp(&(b.offset, &b.name)));
    let mut tensors = BTreeMap::new();
    let mut previous_end = data_start;
    for mut info in infos {
        let start = data_start.checked_add(info.offset);
        let bounds = start.and_then(|start| Some((start, start.checked_add(info.n_bytes)?)));
        let (start, end) = bounds.ok_or_else(|| Error::corrupt("offsets beyond 64 bits").in_tensor(&info.name))?;
        if end > file_bytes {
            return Err(Error::truncated(end, file_bytes).in_tensor(&info.name));
        }
        if start < previous_end {
            return Err(Error::corrupt("it lies over another tensor").in_tensor(&info.name));
        }
        (info.offset, previous_end) = (start, end);
        let name = info.name.clone();
        if tensors.insert(name.clone(), info).is_some() {
            return Err(Error::corrupt("the tensor stands there twice").in_tensor(&name));
        }
    }
    Ok(tensors)
}
