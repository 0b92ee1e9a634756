//! Reads tensors out of the user's safetensors files, as much of each as a budget allows.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use netweight_tensor::Dtype;
use serde_json::{Map, Value};

use crate::options::Error;

/// Largest header that is read, as in the safetensors library.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Where a tensor lies.
struct Entry {
    path: PathBuf,
    dtype: Dtype,
    start_bytes: u64,
    len_bytes: u64,
}

/// Gives each tensor of a file, or of the `*.safetensors` files of a folder, to `sink`; where they have more
/// than `budget_bytes` together, the same share of the head of each.
///
/// # Errors
/// Those of reading; [`Error::NotSafetensors`].
pub(crate) fn read(path: &Path, budget_bytes: u64, mut sink: impl FnMut(Dtype, &[u8])) -> Result<(), Error> {
    let mut entries = Vec::new();
    for path in files(path).map_err(|source| Error::Io { path: path.into(), source })? {
        entries.append(&mut entries_of(&path)?);
    }
    let total: u64 = entries.iter().map(|entry| entry.len_bytes).sum();
    let share = (budget_bytes as f64 / total.max(1) as f64).min(1.0);
    let mut buffer = Vec::new();
    for entry in entries {
        let wanted = (entry.len_bytes as f64 * share) as u64;
        // 128 elements of any width, so that no element is cut.
        let kept = if share < 1.0 { wanted / 1024 * 1024 } else { entry.len_bytes };
        read_part(&entry, kept, &mut buffer).map_err(|source| Error::Io { path: entry.path.clone(), source })?;
        sink(entry.dtype, &buffer);
    }
    Ok(())
}

fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.into()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn read_part(entry: &Entry, len_bytes: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
    let mut file = File::open(&entry.path)?;
    file.seek(SeekFrom::Start(entry.start_bytes))?;
    buffer.clear();
    let n_read = file.take(len_bytes).read_to_end(buffer)?;
    if n_read as u64 == len_bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn entries_of(path: &Path) -> Result<Vec<Entry>, Error> {
    let bad = |what: &'static str| Error::NotSafetensors { path: path.into(), what };
    let (header, data_start) = read_header(path)?;
    let header: Map<String, Value> = serde_json::from_slice(&header).map_err(|_| bad("header is not JSON"))?;
    let mut entries = Vec::new();
    for (_, tensor) in header.iter().filter(|(name, _)| *name != "__metadata__") {
        let dtype = tensor["dtype"].as_str().ok_or(bad("tensor without dtype"))?;
        let offset = |idx: usize| tensor["data_offsets"][idx].as_u64().ok_or(bad("tensor without offsets"));
        let (start, end) = (offset(0)?, offset(1)?);
        let len_bytes = end.checked_sub(start).ok_or(bad("tensor ends before it starts"))?;
        let start_bytes = start.checked_add(data_start).ok_or(bad("offset too large"))?;
        entries.push(Entry { path: path.into(), dtype: Dtype::from_name(dtype), start_bytes, len_bytes });
    }
    entries.sort_by_key(|entry| entry.start_bytes);
    Ok(entries)
}

/// The JSON header and where the data begin.
fn read_header(path: &Path) -> Result<(Vec<u8>, u64), Error> {
    let io_error = |source| Error::Io { path: path.into(), source };
    let mut file = File::open(path).map_err(io_error)?;
    let mut len = [0u8; 8];
    file.read_exact(&mut len).map_err(io_error)?;
    let len_bytes = u64::from_le_bytes(len);
    if len_bytes > MAX_HEADER_BYTES {
        return Err(Error::NotSafetensors { path: path.into(), what: "header too long" });
    }
    let mut header = Vec::new();
    file.take(len_bytes).read_to_end(&mut header).map_err(io_error)?;
    Ok((header, 8 + len_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netweight_synth::{Kind, Shapes, generate, write_checkpoint};

    #[test]
    fn reads_folders_whole_and_in_part() {
        let dir = tempfile::tempdir().unwrap();
        write_checkpoint(dir.path(), Kind::Bf16, &Shapes::TINY, 1, 300_000).unwrap();
        let expected = generate(Kind::Bf16, &Shapes::TINY, 1);
        let check = |budget_bytes: u64| {
            let mut idx = 0;
            read(dir.path(), budget_bytes, |dtype, bytes| {
                assert_eq!(dtype, expected[idx].dtype);
                assert!(expected[idx].bytes.starts_with(bytes), "{}", expected[idx].name);
                assert!(budget_bytes < u64::MAX || bytes == expected[idx].bytes);
                idx += 1;
            })
            .unwrap();
            assert_eq!(idx, expected.len());
        };
        check(u64::MAX);
        check(100_000);
    }

    #[test]
    fn refuses_other_files() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = |content: &[u8]| {
            std::fs::write(file.path(), content).unwrap();
            assert!(read(file.path(), 1, |_, _| ()).is_err(), "{content:?}");
        };
        check(b"");
        check(&u64::MAX.to_le_bytes());
        check(b"\x02\0\0\0\0\0\0\0[]");
        check(b"\x0e\0\0\0\0\0\0\0{\"a\":{\"x\":1}} ");
    }
}
