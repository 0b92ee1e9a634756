//! Tensors by name, wherever they are: an archive or plain safetensors files, one file or a folder. Goes in: a path.
//! Comes out: headers, and any ranges of tensors, read and decoded on all threads. Next in the flow: `reader.rs`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use netweight_container::{
    Checkpoint, Context, Entry, Error, FOLDER_MANIFEST_NAME, Header, InputFile, METADATA_KEY, Result,
};
use netweight_kernels_cpu::Pool;
use netweight_pack::{Archive, ArchiveShard};

use crate::errors::Failure;
use crate::memory::BytesMut;
use crate::pools::try_run;

/// Bytes of a plain file that one thread reads at a time.
const PIECE_BYTES: u64 = 2 << 20;
/// Pieces between two looks at whether the user has pressed Ctrl-C.
const PIECES_PER_LOOK: usize = 512;

/// The tensors of one path.
pub struct Source {
    root: PathBuf,
    shards: Vec<Shard>,
    tensors: HashMap<String, (usize, usize)>, // name -> (shard, tensor within its header)
}

/// One safetensors file, or the archive shard that stands for one.
pub struct Shard {
    name: String,
    header: Header,
    store: Store,
}

enum Store {
    Plain(InputFile),
    Archived(Box<ArchiveShard>),
}

/// A stretch of a shard's original, and where it is to go.
pub struct Request {
    pub shard_idx: usize,
    pub range: Range<u64>,
    pub target: BytesMut, // as long as the range
}

struct Piece {
    shard_idx: usize,
    range: Range<u64>,
    target: BytesMut,
    target_offset: usize,
}

impl Source {
    /// Opens a file or a folder. Of a folder, the files at its top count.
    pub fn open(path: &Path) -> Result<Source> {
        let about = std::fs::metadata(path).in_file(path)?;
        let shards = match about.is_dir() {
            false => vec![Shard::open(file_name(path), path)?],
            true if path.join(FOLDER_MANIFEST_NAME).exists() => {
                let shards = Archive::open(path)?.into_shards().filter(|(name, _)| is_at_top(name));
                shards.map(|(name, shard)| Shard::archived(name, shard)).collect()
            }
            true => {
                let checkpoint = Checkpoint::discover(path)?;
                let files = checkpoint.shards().filter(|file| is_at_top(&file.relative));
                files.map(|file| Shard::open(file.relative.clone(), &file.path)).collect::<Result<Vec<Shard>>>()?
            }
        };
        if shards.is_empty() {
            let what = "no .safetensors file at the top of this folder, only in folders of it: name one of those";
            return Err(Error::invalid(what).in_file(path));
        }
        let mut source = Source { root: path.to_path_buf(), shards, tensors: HashMap::new() };
        source.index()?;
        Ok(source)
    }

    /// Where two shards have a tensor of the same name, as in folders that hold the weights twice, the shard of the
    /// `model` series counts.
    fn index(&mut self) -> Result<()> {
        let is_model = |shard: &Shard| shard.name.starts_with("model");
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            for (tensor_idx, entry) in shard.header.tensors.iter().enumerate() {
                let there = self.tensors.get(&entry.name).map(|&(there, _)| is_model(&self.shards[there]));
                match (there, is_model(shard)) {
                    (None, _) | (Some(false), true) => {
                        self.tensors.insert(entry.name.clone(), (shard_idx, tensor_idx));
                    }
                    (Some(true), false) => {}
                    _ => {
                        let error = Error::invalid("several shards have a tensor of that name");
                        return Err(error.in_tensor(&entry.name).in_file(&self.root));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether some shard is archived.
    pub fn is_archive(&self) -> bool {
        self.shards.iter().any(|shard| matches!(shard.store, Store::Archived(_)))
    }

    /// Names by shard and offset.
    pub fn names(&self) -> Vec<String> {
        let shards = self.shards.iter().enumerate();
        let entries = shards.flat_map(|(shard_idx, shard)| shard.header.tensors.iter().map(move |e| (shard_idx, e)));
        let here = entries.filter(|(shard_idx, entry)| self.tensors[&entry.name].0 == *shard_idx);
        here.map(|(_, entry)| entry.name.clone()).collect()
    }

    /// What the shards' headers have under `__metadata__`; of a key that several have, the first shard's.
    pub fn metadata(&self) -> BTreeMap<String, String> {
        let mut metadata = BTreeMap::new();
        for (key, value) in self.shards.iter().flat_map(|shard| &shard.header.metadata) {
            metadata.entry(key.clone()).or_insert_with(|| value.clone());
        }
        metadata
    }

    /// A tensor and the index of its shard.
    pub fn find(&self, name: &str) -> Result<(usize, &Entry)> {
        let unknown = || Error::invalid("no tensor of that name").in_tensor(name).in_file(&self.root);
        let &(shard_idx, tensor_idx) = self.tensors.get(name).ok_or_else(unknown)?;
        Ok((shard_idx, &self.shards[shard_idx].header.tensors[tensor_idx]))
    }

    /// The archive shard that holds a tensor, if it is archived.
    pub fn archived(&self, shard_idx: usize) -> Option<&ArchiveShard> {
        match &self.shards[shard_idx].store {
            Store::Archived(shard) => Some(shard),
            Store::Plain(_) => None,
        }
    }

    /// Where a tensor, or some of its rows, lies in its shard's original.
    pub fn range(&self, name: &str, rows: Option<Range<u64>>) -> Result<(usize, Range<u64>)> {
        let (shard_idx, entry) = self.find(name)?;
        let start = self.shards[shard_idx].header.header_bytes + entry.start;
        let Some(rows) = rows else { return Ok((shard_idx, start..start + entry.len_bytes())) };
        let invalid = |what: &'static str| Error::invalid(what).in_tensor(name).in_file(&self.root);
        let &n_rows = entry.shape.first().ok_or_else(|| invalid("a scalar has no rows"))?;
        if rows.start > rows.end || rows.end > n_rows {
            return Err(invalid("the tensor has no such rows"));
        }
        if n_rows > 0 && !entry.len_bytes().is_multiple_of(n_rows) {
            return Err(invalid("its rows are not whole bytes"));
        }
        let row_bytes = entry.len_bytes().checked_div(n_rows).unwrap_or(0);
        Ok((shard_idx, start + rows.start * row_bytes..start + rows.end * row_bytes))
    }

    /// Reads all requests on the pool. `look` is called now and then, by the thread that called.
    pub fn read(
        &self,
        pool: &Pool,
        requests: &[Request],
        look: &dyn Fn() -> std::result::Result<(), Failure>,
    ) -> std::result::Result<(), Failure> {
        let mut pieces = Vec::new();
        for request in requests {
            request.target.expect_writes();
            for range in self.shards[request.shard_idx].cut(&request.range) {
                let target_offset = (range.start - request.range.start) as usize; // Inside the target.
                let (shard_idx, target) = (request.shard_idx, request.target);
                pieces.push(Piece { shard_idx, range, target, target_offset });
            }
        }
        for pieces in pieces.chunks(PIECES_PER_LOOK * pool.n_threads()) {
            try_run(pool, pieces.len(), &|piece_idx| {
                let piece = &pieces[piece_idx];
                let len = (piece.range.end - piece.range.start) as usize; // Inside the target.
                let dst = piece.target.part(piece.target_offset..piece.target_offset + len);
                self.shards[piece.shard_idx].read(piece.range.start, dst).map_err(Failure::Error)
            })?;
            look()?;
        }
        Ok(())
    }
}

impl Shard {
    fn open(name: String, path: &Path) -> Result<Shard> {
        let input = InputFile::open(path)?;
        let (header, _) = Header::read(&input)?;
        if header.metadata.contains_key(METADATA_KEY) {
            return Ok(Shard::archived(name, ArchiveShard::open(path)?));
        }
        Ok(Shard { name, header, store: Store::Plain(input) })
    }

    fn archived(name: String, shard: ArchiveShard) -> Shard {
        Shard { name, header: shard.header().clone(), store: Store::Archived(Box::new(shard)) }
    }

    /// Cuts a range into what one thread should read.
    fn cut(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        match &self.store {
            Store::Archived(shard) => shard.cut(range),
            Store::Plain(_) => {
                let starts =
                    (0..(range.end - range.start).div_ceil(PIECE_BYTES)).map(|n| range.start + n * PIECE_BYTES);
                starts.map(|start| start..range.end.min(start + PIECE_BYTES)).collect()
            }
        }
    }

    fn read(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        match &self.store {
            Store::Archived(shard) => shard.read_range(offset, dst),
            Store::Plain(input) => input.read_exact_at(offset, dst),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn is_at_top(relative: &str) -> bool {
    !relative.contains('/')
}
