//! One tensor of an archive, or some of its rows, as a safetensors file of its own.

use std::ops::Range;
use std::path::Path;

use netweight_container::{AtomicFile, Error, Result};
use serde::Serialize;

use crate::archive::Archive;
use crate::{RestoreOptions, places};

const STEP_BYTES: u64 = 16 << 20;

/// What [`restore_rows`] wrote.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct RowsReport {
    /// The tensor's name.
    pub tensor: String,
    /// Its dtype as the header spells it.
    pub dtype: String,
    /// Dimensions of what was written.
    pub shape: Vec<u64>,
    /// Bytes of tensor data written.
    pub bytes: u64,
}

/// Writes a safetensors file that holds one tensor of an archive, or the rows `rows` (indices of its first
/// dimension) of it. Only the chunks that hold them are decoded, and their checksums checked. Of the options `force` and
/// `tuned` count.
///
/// # Errors
/// `InvalidArgument` where there is no such tensor or row, or `destination` is there (without `force`) or in the
/// archive; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
pub fn restore_rows(
    archive: &Path,
    tensor: &str,
    rows: Option<Range<u64>>,
    destination: &Path,
    options: &RestoreOptions,
) -> Result<RowsReport> {
    let archive = if options.tuned { Archive::open(archive)? } else { Archive::open_original(archive)? };
    places::check_apart(archive.path(), destination)?;
    let (shard, entry) = archive.find(tensor)?;
    let mut shape = entry.shape.clone();
    let range = match &rows {
        Some(rows) => {
            let range = shard.rows_range(tensor, rows)?;
            shape[0] = rows.end - rows.start; // rows_range refuses scalars.
            range
        }
        None => shard.header().header_bytes + entry.start..shard.header().header_bytes + entry.end,
    };
    let bytes = range.end - range.start;
    let header = header(tensor, &entry.dtype_name, &shape, bytes)?;
    let out = AtomicFile::create(destination, options.force)?;
    out.write_all_at(0, &header)?;
    let mut buffer = Vec::new();
    let mut done = 0;
    while done < bytes {
        buffer.resize((bytes - done).min(STEP_BYTES) as usize, 0); // At most 16 MiB.
        shard.read_range(range.start + done, &mut buffer)?;
        out.write_all_at(header.len() as u64 + done, &buffer)?;
        done += buffer.len() as u64;
    }
    out.commit()?;
    Ok(RowsReport { tensor: tensor.to_owned(), dtype: entry.dtype_name.clone(), shape, bytes })
}

/// The header of a file with one tensor, padded so that the data begins at a multiple of 8.
fn header(tensor: &str, dtype: &str, shape: &[u64], bytes: u64) -> Result<Vec<u8>> {
    let mut tensors = serde_json::Map::new();
    let entry = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [0, bytes] });
    tensors.insert(tensor.to_owned(), entry);
    let mut json = serde_json::to_vec(&tensors).map_err(|error| Error::invalid(error.to_string()))?;
    json.resize(json.len().next_multiple_of(8), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    Ok(header)
}
