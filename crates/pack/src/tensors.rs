//! Tensors in memory in, an archive shard out: what [`compress`](crate::compress) does with a file, without the file.
//!
//! The original that the archive stands for, and restores to, is the file that the safetensors library would write.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Instant;

use netweight_container::{AtomicFile, Error, FileKind, Header, Result, SameAs};
use serde_json::{Map, Value, json};

use crate::compress::check_former_archive;
use crate::encode::{Input, Job, encode_shard, must_be_opaque};
use crate::workers::Workers;
use crate::{CompressOptions, FileReport, Progress, Report, places};

/// Smaller tensors are not worth a tie.
const MIN_TIE_BYTES: usize = 4096;

/// One tensor in memory.
#[derive(Clone, Debug)]
pub struct TensorBytes<'a> {
    /// Its name.
    pub name: String,
    /// Its dtype as headers spell it.
    pub dtype: String,
    /// Its dimensions; none for a scalar.
    pub shape: Vec<u64>,
    /// Its bytes, little-endian, without gaps.
    pub bytes: &'a [u8],
}

/// Dtypes in the order in which the safetensors library writes tensors: widest first, so that all are aligned.
const ORDER: [&str; 22] = [
    "U64",
    "I64",
    "F64",
    "C64",
    "F32",
    "U32",
    "I32",
    "BF16",
    "F16",
    "U16",
    "I16",
    "F8_E5M2FNUZ",
    "F8_E4M3FNUZ",
    "F8_E8M0",
    "F8_E4M3",
    "F8_E5M2",
    "I8",
    "U8",
    "F6_E3M2",
    "F6_E2M3",
    "F4",
    "BOOL",
];

/// Archives tensors as one archive shard at `destination`, which appears at the very end, whole. Tensors that share
/// their memory are stored once.
///
/// # Errors
/// `InvalidArgument` where the destination is there (without `force`), a name is there twice, or bytes do not fit a
/// shape; `Io`.
pub fn compress_tensors(
    tensors: Vec<TensorBytes<'_>>,
    metadata: &BTreeMap<String, String>,
    destination: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Report> {
    let begin = Instant::now();
    let memory = InMemory::new(tensors, metadata, destination)?;
    let header = Header::parse(&memory.header, memory.len_bytes).map_err(not_a_file)?;
    places::check_file_free(destination, options.force)?;
    check_former_archive(destination)?;
    let workers = Workers::new(options.threads, options.level)?;
    progress.start(memory.len_bytes);
    let out = AtomicFile::create(destination, options.force)?;
    let job = Job {
        input: &memory,
        header: &header,
        header_bytes: &memory.header,
        same_as: if must_be_opaque(&header) { BTreeMap::new() } else { memory.same_as() },
        level: options.level,
        resident: options.resident,
        grids: BTreeMap::new(),
        refines: None,
        check: options.check,
    };
    let encoded = encode_shard(&workers, &job, &out, progress)?;
    out.commit()?;
    let mut report = Report {
        n_tensors: header.tensors.len() as u64,
        n_tied: encoded.n_tied,
        coders: encoded.coders,
        ..Report::default()
    };
    report.push(FileReport {
        path: destination.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        kind: FileKind::Shard,
        original_bytes: memory.len_bytes,
        archive_bytes: encoded.archive_bytes,
        sha256: encoded.sha256,
        mode: Some(encoded.mode),
        is_resumed: false,
    });
    report.seconds = begin.elapsed().as_secs_f64();
    Ok(report)
}

/// A file that is nowhere but in memory.
struct InMemory<'a> {
    header: Vec<u8>,
    tensors: Vec<TensorBytes<'a>>, // in file order
    starts: Vec<u64>,              // (tensors,) offsets in the file
    len_bytes: u64,
    path: PathBuf,
}

impl<'a> InMemory<'a> {
    fn new(
        mut tensors: Vec<TensorBytes<'a>>,
        metadata: &BTreeMap<String, String>,
        destination: &Path,
    ) -> Result<InMemory<'a>> {
        let rank = |dtype: &str| ORDER.iter().position(|&other| other == dtype).unwrap_or(ORDER.len());
        tensors.sort_by(|a, b| (rank(&a.dtype), &a.name).cmp(&(rank(&b.dtype), &b.name)));
        let mut json = Map::new();
        if !metadata.is_empty() {
            json.insert("__metadata__".to_owned(), json!(metadata));
        }
        let (mut starts, mut position) = (Vec::with_capacity(tensors.len()), 0);
        for tensor in &tensors {
            starts.push(position);
            let end = position + tensor.bytes.len() as u64;
            let entry = json!({ "dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [position, end] });
            if json.insert(tensor.name.clone(), entry).is_some() {
                return Err(
                    Error::invalid("two tensors of that name, or one that headers keep").in_tensor(&tensor.name)
                );
            }
            position = end;
        }
        let text = serde_json::to_vec(&Value::Object(json)).map_err(|error| Error::invalid(error.to_string()))?;
        let mut header = (text.len().next_multiple_of(8) as u64).to_le_bytes().to_vec();
        header.extend(text);
        header.resize(header.len().next_multiple_of(8), b' ');
        starts.iter_mut().for_each(|start| *start += header.len() as u64);
        let len_bytes = header.len() as u64 + position;
        Ok(InMemory { header, tensors, starts, len_bytes, path: destination.to_path_buf() })
    }

    /// Tensors whose bytes are those of one before.
    fn same_as(&self) -> BTreeMap<String, SameAs> {
        let mut owners: HashMap<(*const u8, usize, &str), &str> = HashMap::new();
        let mut same_as = BTreeMap::new();
        for tensor in self.tensors.iter().filter(|tensor| tensor.bytes.len() >= MIN_TIE_BYTES) {
            let key = (tensor.bytes.as_ptr(), tensor.bytes.len(), tensor.dtype.as_str());
            let owner = *owners.entry(key).or_insert(&tensor.name);
            if owner != tensor.name {
                same_as.insert(tensor.name.clone(), SameAs { tensor: owner.to_owned(), shard: None });
            }
        }
        same_as
    }
}

impl Input for InMemory<'_> {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_exact_at(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let end = offset + dst.len() as u64;
        let first = self.starts.partition_point(|&start| start <= offset).saturating_sub(1);
        let header = std::iter::once((0, self.header.as_slice()));
        let tensors =
            self.starts[first..].iter().zip(&self.tensors[first..]).map(|(&start, tensor)| (start, tensor.bytes));
        for (start, bytes) in header.chain(tensors).take_while(|(start, _)| *start < end) {
            let (from, to) = (offset.max(start), end.min(start + bytes.len() as u64));
            if from < to {
                let src = &bytes[(from - start) as usize..(to - start) as usize];
                dst[(from - offset) as usize..(to - offset) as usize].copy_from_slice(src);
            }
        }
        Ok(())
    }
}

/// What is wrong with the header is the caller's mistake, not a file's.
fn not_a_file(error: Error) -> Error {
    let place = error.place().clone();
    match error {
        Error::Corrupt { what, .. } => Error::InvalidArgument { place, what },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Archive, RestoreOptions, Silent, restore};

    fn tensor<'a>(name: &str, dtype: &str, shape: &[u64], bytes: &'a [u8]) -> TensorBytes<'a> {
        TensorBytes { name: name.to_owned(), dtype: dtype.to_owned(), shape: shape.to_vec(), bytes }
    }

    #[test]
    fn restores_to_what_safetensors_writes() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..40_000u32).map(|idx| ((idx * idx) >> 7) as u8).collect();
        let check = |tensors: Vec<TensorBytes<'_>>, metadata: &[(&str, &str)], n_tied| {
            let metadata: BTreeMap<String, String> =
                metadata.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            let views = tensors.iter().map(|tensor| {
                let dtype = serde_json::from_value(Value::String(tensor.dtype.clone())).unwrap();
                let shape = tensor.shape.iter().map(|&dim| dim as usize).collect();
                (tensor.name.clone(), safetensors::tensor::TensorView::new(dtype, shape, tensor.bytes).unwrap())
            });
            let info = (!metadata.is_empty()).then(|| metadata.clone().into_iter().collect());
            let expected = safetensors::serialize(views, info).unwrap();
            let (archive, back) = (folder.path().join("archive"), folder.path().join("back"));
            let options = CompressOptions { force: true, ..CompressOptions::default() };
            let report = compress_tensors(tensors, &metadata, &archive, &options, &Silent).unwrap();
            assert_eq!((report.n_tied, report.original_bytes), (n_tied, expected.len() as u64));
            let options = RestoreOptions { force: true, ..RestoreOptions::default() };
            restore(&archive, &back, &options, &Silent).unwrap();
            assert!(std::fs::read(&back).unwrap() == expected);
            assert!(Archive::open(&archive).is_ok());
        };
        check(Vec::new(), &[], 0);
        let all = ORDER.iter().zip(0..).map(|(dtype, idx)| {
            tensor(&format!("t{}", 100 - idx), dtype, &[8], {
                let bits = netweight_tensor::Dtype::from_name(dtype).bits().unwrap() as usize;
                &bytes[idx * 100..][..bits]
            })
        });
        check(all.collect(), &[("format", "pt")], 0);
        let tied = vec![
            tensor("b", "BF16", &[100, 200], &bytes),
            tensor("a", "F16", &[20_000], &bytes),
            tensor("c", "BF16", &[20_000], &bytes),
            tensor("scalar", "F32", &[], &bytes[..4]),
            tensor("empty", "F32", &[0, 3], &[]),
        ];
        check(tied, &[], 1);
        check(vec![tensor("netweight.x", "U8", &[100], &bytes[..100])], &[], 0);
    }

    #[test]
    fn what_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let check = |tensors: Vec<TensorBytes<'_>>, part: &str| {
            let options = CompressOptions::default();
            let destination = folder.path().join("archive");
            let error = compress_tensors(tensors, &BTreeMap::new(), &destination, &options, &Silent).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert_eq!(error.kind(), crate::ErrorKind::InvalidArgument);
            assert!(!destination.exists());
        };
        check(vec![tensor("a", "F32", &[2], &[0; 4])], "do not give its size");
        check(vec![tensor("a", "U8", &[1], &[0]), tensor("a", "U8", &[1], &[0])], "two tensors");
        check(vec![tensor("__metadata__", "U8", &[1], &[0])], "header");
    }
}
