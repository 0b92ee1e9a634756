//! Little checkpoints for the tests, and ways to run the verbs on them.
#![allow(dead_code)] // Each test file uses a part of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netweight_pack::{
    CompressOptions, Report, RestoreOptions, Result, Silent, VerifyOptions, compress, restore, verify,
};

/// A tensor for [`safetensors`].
pub struct Tensor {
    pub name: String,
    pub dtype: &'static str,
    pub shape: Vec<u64>,
    pub bytes: Vec<u8>,
}

pub fn tensor(name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

/// Bytes that look like BF16 weights: few exponents, random mantissas.
pub fn weights(n_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(n_bytes + 1);
    while bytes.len() < n_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let exponent = 120 - (state.trailing_zeros() as u16).min(20);
        let value = (state >> 32) as u16 & 0x807f | exponent << 7;
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.truncate(n_bytes);
    bytes
}

/// A file from a header as it stands and its data.
pub fn file(json: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// A file that holds the tensors in this order.
pub fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let mut rows = vec![r#""__metadata__":{"format":"pt"}"#.to_owned()];
    let mut data = Vec::new();
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        let (name, dtype, shape) = (&tensor.name, tensor.dtype, &tensor.shape);
        rows.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        ));
    }
    file(&format!("{{{}}}", rows.join(",")), &data)
}

pub fn options(threads: usize) -> CompressOptions {
    CompressOptions { threads, ..CompressOptions::default() }
}

pub fn try_compress(source: &Path, destination: &Path) -> Result<Report> {
    compress(source, destination, &options(2), &Silent)
}

pub fn try_restore(archive: &Path, destination: &Path) -> Result<Report> {
    restore(archive, destination, &RestoreOptions { threads: 2, ..RestoreOptions::default() }, &Silent)
}

/// The problems that `verify` finds, or its error, as text.
pub fn problems(archive: &Path) -> Vec<String> {
    match verify(archive, &VerifyOptions { threads: 2, against: None }, &Silent) {
        Ok(report) => {
            report.problems.into_iter().map(|problem| format!("{}: {}", problem.path, problem.what)).collect()
        }
        Err(error) => vec![error.to_string()],
    }
}

/// Writes files, given by relative path, below a new folder.
pub fn write_folder(root: &Path, files: &[(&str, Vec<u8>)]) {
    for (relative, bytes) in files {
        let path = root.join(relative);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

/// All files below a folder, by relative path.
pub fn read_folder(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.insert(path.strip_prefix(root).unwrap().to_path_buf(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// xorshift64*.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// About normal: twelve even numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / 16_777_216.0).sum::<f32>() - 6.0
    }
}

/// Cut to bf16.
pub fn bf16(value: f32) -> f32 {
    f32::from_bits(value.to_bits() & 0xffff_0000)
}

/// Archives a single file, checks everything about it, and gives the archive's bytes.
pub fn round_trip(name: &str, original: &[u8]) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (source, archive, back) =
        (folder.path().join("a.safetensors"), folder.path().join("b.safetensors"), folder.path().join("c.safetensors"));
    std::fs::write(&source, original).unwrap();
    let report = try_compress(&source, &archive).unwrap_or_else(|error| panic!("{name}: {error}"));
    let archived = std::fs::read(&archive).unwrap();
    assert_eq!(report.archive_bytes, archived.len() as u64, "{name}");
    assert_eq!(report.original_bytes, original.len() as u64, "{name}");
    let most = original.len() + original.len() / 1000 + 4096;
    assert!(archived.len() <= most, "{name}: {} bytes became {}", original.len(), archived.len());
    assert_eq!(problems(&archive), Vec::<String>::new(), "{name}");
    try_restore(&archive, &back).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(std::fs::read(&back).unwrap() == original, "{name}: restored bytes differ");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "{name}: leftovers");
    archived
}
