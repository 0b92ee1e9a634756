//! The header of an archive shard (section 1): its size is fixed before the payloads' sizes are known, so
//! payloads can be written while they are made and the header last.

use std::fmt::Write as _;

use crate::manifest::format_of;
use crate::payload::{ALIGNMENT, padded};
use crate::{Error, Header, MAX_HEADER_BYTES, Result};

/// Name of the manifest tensor.
pub const MANIFEST_NAME: &str = "netweight.manifest";
/// Name of the payload that stands for a whole file in mode `opaque`.
pub const OPAQUE_NAME: &str = "netweight.file";
/// Name of the payload that stands for the steps of an archive shard's grids.
pub const STEPS_NAME: &str = "netweight.steps";
/// Names of tensors that an archive keeps for itself begin so.
pub const RESERVED_PREFIX: &str = "netweight.";
/// Key in `__metadata__` that makes a safetensors file an archive shard.
pub const METADATA_KEY: &str = "netweight";

/// A longer `format` of the original is not repeated in the archive's header; the original's own header keeps it.
const MAX_FORMAT_BYTES: usize = 64;

/// Writer of the header of an archive shard.
#[derive(Debug)]
pub struct ArchiveHeader<'a> {
    original_format: Option<&'a str>,
    names: Vec<&'a str>,
    format: u32,
    header_bytes: u64,
}

impl<'a> ArchiveHeader<'a> {
    /// Reserves room for the payloads `names` and the manifest, in this order, with data of at most
    /// `max_data_bytes` bytes; `has_grids`, or refines some, decides the format version. `None` where the header would
    /// be longer than safetensors allows.
    pub fn reserve(
        names: Vec<&'a str>,
        has_grids: bool,
        original_format: Option<&'a str>,
        max_data_bytes: u64,
    ) -> Option<ArchiveHeader<'a>> {
        let original_format = original_format.filter(|format| is_shown(format));
        let widest = std::iter::repeat_n(max_data_bytes, names.len() + 1);
        let format = format_of(has_grids);
        let json = json(&names, format, original_format, widest.map(|most| (most, most, most)));
        let header_bytes = padded(8 + json.len() as u64);
        (header_bytes - 8 <= MAX_HEADER_BYTES).then_some(ArchiveHeader { original_format, names, format, header_bytes })
    }

    /// Size in bytes with the 8-byte length, a multiple of [`ALIGNMENT`]: where the data begins.
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// The header for payloads of these sizes in bytes, the manifest's last.
    ///
    /// # Errors
    /// `InvalidArgument` where the sizes are not one for each name, or need more digits than reserved.
    pub fn write(&self, sizes: &[u64]) -> Result<Vec<u8>> {
        if sizes.len() != self.names.len() + 1 {
            return Err(Error::invalid("one size for each tensor of an archive header"));
        }
        let spans = sizes.iter().scan(0u64, |position, &size| {
            let start = *position;
            *position = start.saturating_add(size);
            Some((size, start, *position))
        });
        let json = json(&self.names, self.format, self.original_format, spans);
        let room = self.header_bytes - 8;
        if json.len() as u64 > room {
            return Err(Error::invalid("the payloads are larger than their header has room for"));
        }
        let mut bytes = room.to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        while (bytes.len() as u64) < self.header_bytes {
            bytes.push(b' ');
        }
        debug_assert_eq!(self.header_bytes % ALIGNMENT, 0);
        Ok(bytes)
    }
}

fn is_shown(format: &str) -> bool {
    format.len() <= MAX_FORMAT_BYTES
}

/// Checks that an archive's header shows the `format` of its original, as section 1 has it.
///
/// # Errors
/// `Corrupt`.
pub fn check_format_shown(archive: &Header, original: &Header) -> Result<()> {
    let expected = original.metadata.get("format").filter(|format| is_shown(format));
    if archive.metadata.get("format") == expected {
        return Ok(());
    }
    Err(Error::corrupt("the archive's metadata show another format than the original's"))
}

/// `spans`: (size, start, end) of each payload, then of the manifest.
fn json(
    names: &[&str],
    format: u32,
    original_format: Option<&str>,
    spans: impl Iterator<Item = (u64, u64, u64)>,
) -> String {
    let mut text = format!("{{\"__metadata__\":{{\"{METADATA_KEY}\":\"{format}\"");
    if let Some(format) = original_format {
        let _ = write!(text, ",\"format\":{}", quoted(format));
    }
    text.push('}');
    for (name, (size, start, end)) in names.iter().copied().chain([MANIFEST_NAME]).zip(spans) {
        let name = quoted(name);
        let _ = write!(text, ",{name}:{{\"dtype\":\"U8\",\"shape\":[{size}],\"data_offsets\":[{start},{end}]}}");
    }
    text.push('}');
    text
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
