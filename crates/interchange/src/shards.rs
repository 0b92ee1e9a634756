//! A folder of safetensors shards that grows tensor by tensor and appears whole: goes in a plan of tensors and a
//! function that writes each. Next in the flow: import.rs.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use netweight_container::{AtomicFile, Error, InputFile, Result, Staging};
use netweight_pack::{Progress, WRITER, check_apart, check_folder_free};
use netweight_tensor::{Dtype, n_bytes};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// Bytes of tensors that a shard may have; more only where one tensor is larger.
const SHARD_BYTES: u64 = 5_000_000_000;
/// Where the data of a shard begins: at a multiple of this.
const HEADER_ALIGNMENT: usize = 8;
/// Bytes that are written at once.
const BUFFER_BYTES: usize = 4 << 20;

/// A tensor to write.
#[derive(Clone, Debug)]
pub(crate) struct OutTensor {
    pub(crate) name: String,
    /// Name of its type in safetensors.
    pub(crate) dtype: &'static str,
    pub(crate) shape: Vec<u64>,
}

impl OutTensor {
    /// Its size; 0 where the type is unknown, which the types here never are.
    pub(crate) fn n_bytes(&self) -> u64 {
        n_bytes(Dtype::from_name(self.dtype), &self.shape).unwrap_or(0)
    }
}

/// Takes the bytes of a tensor, in order.
pub(crate) type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;
/// Writes the tensor of that index.
pub(crate) type Fill<'a> = dyn FnMut(usize, &mut Sink) -> Result<()> + 'a;

/// What tells one run from another; a run that was interrupted goes on only where all of it is the same.
#[derive(Debug, Serialize)]
struct Record<'a> {
    writer: &'a str,
    verb: &'a str,
    options: &'a str,
    sources: &'a [(String, u64, u64)],
}

/// A folder that is being written.
pub(crate) struct Folder {
    destination: PathBuf,
    force: bool,
    tensors: Vec<OutTensor>,
    shards: Vec<Range<usize>>,
    outputs: BTreeSet<String>,
    staging: Staging,
    pub(crate) n_resumed: u64,
    pub(crate) n_bytes: u64,
}

impl Folder {
    /// Plans the shards of a folder and begins it. `sides`: names of the other files; `sources`: path, size and time of
    /// what is read.
    ///
    /// # Errors
    /// `InvalidArgument` where something is in the way; `Io`.
    pub(crate) fn begin(
        (source, destination): (&Path, &Path),
        force: bool,
        options: &str,
        sources: &[(String, u64, u64)],
        tensors: Vec<OutTensor>,
        sides: &[&str],
    ) -> Result<Folder> {
        check_apart(source, destination)?;
        let shards = cut_into_shards(&tensors, SHARD_BYTES);
        let mut outputs: BTreeSet<String> = sides.iter().map(|name| (*name).to_owned()).collect();
        outputs.extend((0..shards.len()).map(|idx| shard_name(idx, shards.len())));
        outputs.insert("model.safetensors.index.json".to_owned());
        check_folder_free(destination, force, &outputs)?;
        let record = Record { writer: WRITER, verb: "interchange", options, sources };
        let record = serde_json::to_vec(&record).map_err(|error| Error::invalid(error.to_string()))?;
        let staging = Staging::open(destination, &record)?;
        let destination = destination.to_path_buf();
        Ok(Folder { destination, force, tensors, shards, outputs, staging, n_resumed: 0, n_bytes: 0 })
    }

    pub(crate) fn tensors(&self) -> &[OutTensor] {
        &self.tensors
    }

    /// Writes all shards and, where there are several, their index. Shards that an earlier run finished stay.
    ///
    /// # Errors
    /// `Io`; what `fill` says.
    pub(crate) fn write(&mut self, progress: &dyn Progress, fill: &mut Fill) -> Result<()> {
        let mut weight_map = Map::new();
        for (shard_idx, range) in self.shards.clone().into_iter().enumerate() {
            let name = shard_name(shard_idx, self.shards.len());
            let tensors = &self.tensors[range.clone()];
            weight_map.extend(tensors.iter().map(|tensor| (tensor.name.clone(), json!(name))));
            let header = header(tensors);
            let n_bytes = header.len() as u64 + tensors.iter().map(OutTensor::n_bytes).sum::<u64>();
            self.n_bytes += n_bytes;
            let finished = self.staging.is_resumed().then(|| InputFile::open(&self.staging.place(&name).ok()?).ok());
            if finished.flatten().is_some_and(|input| input.len_bytes() == n_bytes) {
                progress.note(&format!("{name}: kept from an earlier run"));
                self.n_resumed += 1;
                continue;
            }
            self.shard(&name, &header, range, fill)?;
        }
        if self.shards.len() > 1 {
            let total_size: u64 = self.tensors.iter().map(OutTensor::n_bytes).sum();
            let index = json!({"metadata": {"total_size": total_size}, "weight_map": weight_map});
            self.put_json("model.safetensors.index.json", &index)?;
        }
        Ok(())
    }

    fn shard(&self, name: &str, header: &[u8], range: Range<usize>, fill: &mut Fill) -> Result<()> {
        let file = self.staging.create(name)?;
        let mut out = Buffered { file: &file, buffer: header.to_vec(), offset: 0 };
        for idx in range {
            let tensor = &self.tensors[idx];
            let end = out.position() + tensor.n_bytes();
            fill(idx, &mut |bytes| out.write(bytes)).map_err(|error| error.in_tensor(&tensor.name))?;
            assert_eq!(out.position(), end, "{} is written as long as it was planned", tensor.name);
        }
        out.flush()?;
        file.commit()
    }

    /// Writes a file beside the weights.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn put(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.staging.create(name)?;
        file.write_all_at(0, bytes)?;
        self.n_bytes += bytes.len() as u64;
        file.commit()
    }

    /// The same, of JSON.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn put_json(&mut self, name: &str, value: &Value) -> Result<()> {
        self.put(name, format!("{value:#}\n").as_bytes())
    }

    /// Moves the folder to its place.
    ///
    /// # Errors
    /// `InvalidArgument` where something is there now; `Io`.
    pub(crate) fn finish(self) -> Result<()> {
        check_folder_free(&self.destination, self.force, &self.outputs)?; // Again: that was long ago.
        self.staging.commit(self.force)
    }
}

/// Gathers what is written into large pieces.
pub(crate) struct Buffered<'a> {
    pub(crate) file: &'a AtomicFile,
    pub(crate) buffer: Vec<u8>,
    pub(crate) offset: u64,
}

impl Buffered<'_> {
    pub(crate) fn position(&self) -> u64 {
        self.offset + self.buffer.len() as u64
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        self.file.write_all_at(self.offset, &self.buffer)?;
        self.offset += self.buffer.len() as u64;
        self.buffer.clear();
        Ok(())
    }
}

fn shard_name(idx: usize, n_shards: usize) -> String {
    match n_shards {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{n_shards:05}.safetensors", idx + 1),
    }
}

/// Consecutive tensors, greedily.
fn cut_into_shards(tensors: &[OutTensor], shard_bytes: u64) -> Vec<Range<usize>> {
    let (mut shards, mut start, mut n_bytes) = (Vec::new(), 0, 0u64);
    for (idx, tensor) in tensors.iter().enumerate() {
        if idx > start && n_bytes + tensor.n_bytes() > shard_bytes {
            shards.push(start..idx);
            (start, n_bytes) = (idx, 0);
        }
        n_bytes += tensor.n_bytes();
    }
    shards.push(start..tensors.len());
    shards
}

/// The front of a shard.
fn header(tensors: &[OutTensor]) -> Vec<u8> {
    let mut object = Map::from_iter([("__metadata__".to_owned(), json!({"format": "pt"}))]);
    let mut start = 0u64;
    for tensor in tensors {
        let end = start + tensor.n_bytes();
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]});
        object.insert(tensor.name.clone(), entry);
        start = end;
    }
    let mut json = Value::Object(object).to_string().into_bytes();
    json.resize(json.len().next_multiple_of(HEADER_ALIGNMENT), b' ');
    let mut header = (json.len() as u64).to_le_bytes().to_vec();
    header.append(&mut json);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_cut_before_they_are_too_large() {
        let tensor = |n: u64| OutTensor { name: n.to_string(), dtype: "I8", shape: vec![n] };
        let check = |sizes: &[u64], expected: &[usize]| {
            let tensors: Vec<OutTensor> = sizes.iter().map(|n| tensor(*n)).collect();
            let lens: Vec<usize> = cut_into_shards(&tensors, 10).into_iter().map(|shard| shard.len()).collect();
            assert_eq!(lens, expected, "{sizes:?}");
        };
        check(&[4, 6, 1], &[2, 1]);
        check(&[20, 20], &[1, 1]);
        check(&[1], &[1]);
        check(&[], &[0]);
    }
}
