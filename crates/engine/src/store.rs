//! A model's files: goes in a path to a checkpoint or an archive, comes out any tensor's bytes and any side file.
//! Next in the flow: load/mod.rs.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use netweight_container::{
    Checkpoint, Context, Entry, Error, FOLDER_MANIFEST_NAME, FileKind, Header, InputFile, Result,
};
use netweight_pack::{Archive, ArchiveShard, GridSteps, ResidentTensor};

use crate::text::SideFiles;

/// An open checkpoint or archive.
pub struct Store {
    root: PathBuf,
    folder: PathBuf,
    is_archive: bool,
    shards: Vec<Shard>,
    tensors: HashMap<String, Location>,
    archive: Option<Archive>,
}

struct Shard {
    name: String,
    raw: Option<InputFile>, // None: a shard of the archive
    header: Header,
}

#[derive(Clone, Copy)]
struct Location {
    shard_idx: usize,
    tensor_idx: usize,
}

impl Store {
    /// Opens a folder or a single file, raw or archived, and reads the headers. A single file stands for its folder's
    /// config and tokenizer too.
    ///
    /// # Errors
    /// `InvalidArgument` where there are no weights; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
    pub fn open(path: &Path) -> Result<Store> {
        let about = std::fs::metadata(path).in_file(path)?;
        let folder = if about.is_dir() {
            path.to_path_buf()
        } else {
            path.parent().map_or_else(|| PathBuf::from("."), |parent| parent.to_path_buf())
        };
        let is_archive =
            if about.is_dir() { path.join(FOLDER_MANIFEST_NAME).exists() } else { is_archive_shard(path)? };
        let mut store = Store {
            root: path.to_path_buf(),
            folder,
            is_archive,
            shards: Vec::new(),
            tensors: HashMap::new(),
            archive: None,
        };
        if is_archive {
            store.open_archive(path)?
        } else {
            store.open_checkpoint(path)?
        }
        store.index()?;
        Ok(store)
    }

    /// Path that it was opened under.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether the weights are archived.
    pub fn is_archive(&self) -> bool {
        self.is_archive
    }

    /// Bytes of all shards' originals, headers included.
    pub fn original_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.header.header_bytes + shard.header.data_bytes()).sum()
    }

    /// The tensor of that name, as its shard's header describes it.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.tensors.get(name).map(|at| &self.shards[at.shard_idx].header.tensors[at.tensor_idx])
    }

    /// Names of all tensors, in no order.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Fills `dst` with the bytes of a tensor from `offset` on, decoding where archived. Threads may call it at once.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no such tensor or range; `Truncated`, `Corrupt`, `Io`.
    pub fn read(&self, name: &str, offset: u64, dst: &mut [u8]) -> Result<()> {
        let at = self.tensors.get(name).ok_or_else(|| Error::invalid("no tensor of that name").in_tensor(name))?;
        let shard = &self.shards[at.shard_idx];
        let entry = &shard.header.tensors[at.tensor_idx];
        if offset.checked_add(dst.len() as u64).is_none_or(|end| end > entry.len_bytes()) {
            return Err(Error::invalid("a range beyond the tensor's end").in_tensor(name));
        }
        let start = shard.header.header_bytes + entry.start + offset;
        match (&shard.raw, &self.archive) {
            (Some(input), _) => input.read_exact_at(start, dst),
            (None, Some(archive)) => self.archived(archive, &shard.name)?.read_range(start, dst),
            (None, None) => unreachable!("a shard is raw or belongs to the archive"),
        }
        .in_tensor(name)
    }

    /// Where a tensor's groups lie, if it is archived in a resident layout.
    pub fn resident(&self, name: &str) -> Option<ResidentTensor> {
        let shard = &self.shards[self.tensors.get(name)?.shard_idx];
        self.archive.as_ref()?.shard(&shard.name)?.resident(name)
    }

    /// The steps of a tensor that is archived as a grid.
    pub fn grid(&self, name: &str) -> Option<GridSteps<'_>> {
        let shard = &self.shards[self.tensors.get(name)?.shard_idx];
        self.archive.as_ref()?.shard(&shard.name)?.grid(name)
    }

    /// Number of tensors that are archived as grids.
    pub fn n_grids(&self) -> usize {
        self.tensor_names().filter(|name| self.grid(name).is_some()).count()
    }

    /// Fills `dst` with the indices of rows of a tensor that is archived as a grid, (rows.len(), cols) i8. Threads may call
    /// it at once.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no such grid or row; `Truncated`, `Corrupt`, `Io`.
    pub fn read_indices(&self, name: &str, rows: Range<usize>, dst: &mut [u8]) -> Result<()> {
        let missing = || Error::invalid("not archived as a grid").in_tensor(name);
        let (at, archive) = self.tensors.get(name).zip(self.archive.as_ref()).ok_or_else(missing)?;
        self.archived(archive, &self.shards[at.shard_idx].name)?.read_indices(name, rows, dst)
    }

    fn archived<'a>(&self, archive: &'a Archive, name: &str) -> Result<&'a ArchiveShard> {
        archive.shard(name).ok_or_else(|| Error::corrupt("a shard is gone").in_file(&self.root))
    }

    fn open_archive(&mut self, path: &Path) -> Result<()> {
        let archive = Archive::open(path)?;
        for (name, shard) in archive.shards().filter(|(name, _)| is_at_top(name)) {
            self.shards.push(Shard { name: name.to_owned(), raw: None, header: shard.header().clone() });
        }
        self.archive = Some(archive);
        Ok(())
    }

    fn open_checkpoint(&mut self, path: &Path) -> Result<()> {
        let checkpoint = Checkpoint::discover(path)?;
        for file in checkpoint.files.iter().filter(|file| file.kind == FileKind::Shard && is_at_top(&file.relative)) {
            let input = InputFile::open(&file.path)?;
            let (header, _) = Header::read(&input)?;
            self.shards.push(Shard { name: file.relative.clone(), raw: Some(input), header });
        }
        Ok(())
    }

    /// Where two shards have a tensor of the same name, as in folders that hold the weights twice, the shard of the
    /// `model` series counts.
    fn index(&mut self) -> Result<()> {
        if self.shards.is_empty() {
            return Err(Error::invalid("no .safetensors file here").in_file(&self.root));
        }
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            for (tensor_idx, entry) in shard.header.tensors.iter().enumerate() {
                let here = Location { shard_idx, tensor_idx };
                let Some(there) = self.tensors.get(&entry.name) else {
                    self.tensors.insert(entry.name.clone(), here);
                    continue;
                };
                let is_model = |idx: usize| self.shards[idx].name.starts_with("model");
                match (is_model(there.shard_idx), is_model(shard_idx)) {
                    (true, false) => (),
                    (false, true) => _ = self.tensors.insert(entry.name.clone(), here),
                    _ => {
                        let error = Error::invalid("two shards have a tensor of that name");
                        return Err(error.in_tensor(&entry.name).in_file(&self.root));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Files beside the weights, which an archive keeps as they are.
impl SideFiles for Store {
    fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.folder.side_file(name)
    }
}

fn is_at_top(relative: &str) -> bool {
    !relative.contains('/')
}

/// Whether a single file is an archive shard: it has a manifest.
fn is_archive_shard(path: &Path) -> Result<bool> {
    let input = InputFile::open(path)?;
    let (header, _) = Header::read(&input)?;
    Ok(header.metadata.contains_key(netweight_container::METADATA_KEY))
}
