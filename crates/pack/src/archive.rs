//! Reading archives: whole files, byte ranges, tensors and rows, decoding only the chunks that are needed.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use netweight_codec::Level;
use netweight_container::{
    Context, Digest, Entry, Error, FOLDER_MANIFEST_NAME, FileKind, FolderManifest, Header, InputFile, Mode, Result,
};

use crate::parts::{Part, Siblings, home};
use crate::shard_file::ShardFile;
use crate::workers::Worker;
use crate::{chunk, refinement};

/// An archive: a folder, or a single archive shard.
pub struct Archive {
    root: PathBuf,
    folder: Option<FolderManifest>,
    shards: BTreeMap<String, ArchiveShard>,
}

impl Archive {
    /// Opens an archive and checks everything but the chunks themselves.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no archive; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
    pub fn open(path: &Path) -> Result<Archive> {
        Archive::open_as(path, false)
    }

    /// As [`Archive::open`]; of shards that have a refinement not the tuned values but the original. For other archives
    /// this is the same.
    ///
    /// # Errors
    /// As [`Archive::open`]; `InvalidArgument` also where a refinement is not there.
    pub fn open_original(path: &Path) -> Result<Archive> {
        Archive::open_as(path, true)
    }

    fn open_as(path: &Path, is_refined: bool) -> Result<Archive> {
        let mut siblings = Siblings::default();
        let mut shards = BTreeMap::new();
        if !path.is_dir() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            shards.insert(name, ArchiveShard::open_with(path, &mut siblings)?);
            return Ok(Archive { root: path.to_path_buf(), folder: None, shards });
        }
        let mut folder = read_folder_manifest(path)?;
        for file in folder.files.iter_mut().filter(|file| file.kind == FileKind::Shard) {
            let mut shard_path = path.join(&file.path);
            if is_refined && let Some((refined, place)) = refinement::take(file, path)? {
                (file.bytes, file.sha256, shard_path) = (refined.bytes, refined.sha256, place);
            }
            let shard = ArchiveShard::open_with(&shard_path, &mut siblings)?;
            if shard.original_bytes() != file.bytes || shard.original_sha256() != file.sha256 {
                return Err(Error::corrupt("not the shard that netweight.json lists").in_file(&shard_path));
            }
            shards.insert(file.path.clone(), shard);
        }
        Ok(Archive { root: path.to_path_buf(), folder: Some(folder), shards })
    }

    /// Path that it was opened under.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// The manifest of an archive folder; `None` for a single archive shard.
    pub fn folder(&self) -> Option<&FolderManifest> {
        self.folder.as_ref()
    }

    /// The shards by relative path.
    pub fn shards(&self) -> impl Iterator<Item = (&str, &ArchiveShard)> {
        self.shards.iter().map(|(path, shard)| (path.as_str(), shard))
    }

    /// The shard at a relative path.
    pub fn shard(&self, relative: &str) -> Option<&ArchiveShard> {
        self.shards.get(relative)
    }

    /// The shards by relative path, for who keeps them.
    pub fn into_shards(self) -> impl Iterator<Item = (String, ArchiveShard)> {
        self.shards.into_iter()
    }

    /// The shard that holds the tensor, and the tensor.
    ///
    /// # Errors
    /// `InvalidArgument` where no shard, or more than one, has a tensor of that name.
    pub fn find(&self, tensor: &str) -> Result<(&ArchiveShard, &Entry)> {
        let mut found = self.shards.values().filter_map(|shard| Some((shard, shard.tensor(tensor)?)));
        match (found.next(), found.next()) {
            (Some(only), None) => Ok(only),
            (None, _) => Err(Error::invalid("no tensor of that name").in_tensor(tensor).in_file(&self.root)),
            _ => Err(Error::invalid("several shards have a tensor of that name").in_tensor(tensor).in_file(&self.root)),
        }
    }
}

pub(crate) fn read_folder_manifest(folder: &Path) -> Result<FolderManifest> {
    let path = folder.join(FOLDER_MANIFEST_NAME);
    if !path.exists() {
        return Err(Error::invalid("not a netweight archive: it has no netweight.json").in_file(folder));
    }
    let input = InputFile::open(&path)?;
    FolderManifest::decode(&input.read_vec(0, input.len_bytes())?).in_file(&path)
}

/// One archive shard, ready to be read, with the siblings that its tied tensors need.
pub struct ArchiveShard {
    pub(crate) file: Arc<ShardFile>,
    pub(crate) parts: Vec<Part>, // in order, without gaps; covers the original file
    spare_workers: Mutex<Vec<Worker>>,
}

impl ArchiveShard {
    /// Opens an archive shard, and the siblings in its folder that it names.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no archive shard; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
    pub fn open(path: &Path) -> Result<ArchiveShard> {
        ArchiveShard::open_with(path, &mut Siblings::default())
    }

    pub(crate) fn open_with(path: &Path, siblings: &mut Siblings) -> Result<ArchiveShard> {
        let file = siblings.open(path)?;
        let mut parts = Vec::with_capacity(file.original.tensors.len() + 1);
        let header_bytes = file.original.header_bytes;
        let chunk_bytes = file.manifest.chunk_bytes;
        if file.manifest.mode == Mode::Opaque {
            let len_bytes = file.manifest.original.bytes;
            parts.push(Part { start: 0, len_bytes, chunk_bytes, home: Some((Arc::clone(&file), 0)) });
        } else {
            parts.push(Part { start: 0, len_bytes: header_bytes, chunk_bytes, home: None });
            for (tensor_idx, entry) in file.original.tensors.iter().enumerate() {
                let home = home(&file, path, tensor_idx, entry, siblings).in_tensor(&entry.name).in_file(path)?;
                let chunk_bytes = home.0.payloads[home.1].chunk_bytes;
                let start = header_bytes + entry.start;
                parts.push(Part { start, len_bytes: entry.len_bytes(), chunk_bytes, home: Some(home) });
            }
        }
        Ok(ArchiveShard { file, parts, spare_workers: Mutex::default() })
    }

    /// Path that it was opened under.
    pub fn path(&self) -> &Path {
        self.file.input.path()
    }

    /// Size of the archive shard in bytes.
    pub fn archive_bytes(&self) -> u64 {
        self.file.input.len_bytes()
    }

    /// Size of the original file in bytes.
    pub fn original_bytes(&self) -> u64 {
        self.file.manifest.original.bytes
    }

    /// SHA-256 of the original file, as recorded.
    pub fn original_sha256(&self) -> Digest {
        self.file.manifest.original.sha256
    }

    /// How it stands for its original.
    pub fn mode(&self) -> Mode {
        self.file.manifest.mode
    }

    /// Name of the level it was written at.
    pub fn level(&self) -> &str {
        &self.file.manifest.level
    }

    /// The original's header.
    pub fn header(&self) -> &Header {
        &self.file.original
    }

    /// The original's tensors, in offset order.
    pub fn tensors(&self) -> &[Entry] {
        &self.file.original.tensors
    }

    /// The original's tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Entry> {
        self.tensors().iter().find(|entry| entry.name == name)
    }

    /// Fills `dst` with the original file's bytes from `offset` on. On error the content of `dst` is unspecified.
    ///
    /// # Errors
    /// `InvalidArgument` where the original has no such range; `Truncated`, `Corrupt`, `Io`.
    pub fn read_range(&self, offset: u64, dst: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(dst.len() as u64).filter(|&end| end <= self.original_bytes());
        let end = end.ok_or_else(|| Error::invalid("a range beyond the end of the original").in_file(self.path()))?;
        let mut worker = self.spare_workers().pop().unwrap_or_else(|| Worker::new(Level::Default));
        let first = self.parts.partition_point(|part| part.start + part.len_bytes <= offset);
        let mut result = Ok(());
        for part in self.parts[first..].iter().take_while(|part| part.start < end) {
            let (from, to) = (offset.max(part.start), end.min(part.start + part.len_bytes));
            let slice = &mut dst[(from - offset) as usize..(to - offset) as usize];
            result = result.and_then(|()| self.read_part(&mut worker, part, from - part.start, slice));
        }
        self.spare_workers().push(worker);
        result
    }

    /// Cuts a range of the original such that no chunk lies in two pieces: threads that read a piece each with
    /// [`ArchiveShard::read_range`] decode every chunk once. What lies beyond the original is left out.
    pub fn cut(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.parts.partition_point(|part| part.start + part.len_bytes <= range.start);
        let mut pieces = Vec::new();
        for part in self.parts[first..].iter().take_while(|part| part.start < range.end) {
            let end = range.end.min(part.start + part.len_bytes);
            let mut begin = range.start.max(part.start);
            while begin < end {
                let chunk_idx = (begin - part.start) / part.chunk_bytes;
                let next = end.min(part.start + (chunk_idx + 1) * part.chunk_bytes);
                pieces.push(begin..next);
                begin = next;
            }
        }
        pieces
    }

    /// Reads all bytes of a tensor into `dst`, which must be as long as the tensor.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no such tensor or `dst` has another length; as [`ArchiveShard::read_range`].
    pub fn read_tensor(&self, name: &str, dst: &mut [u8]) -> Result<()> {
        let entry = self.entry(name)?;
        if dst.len() as u64 != entry.len_bytes() {
            return Err(Error::invalid("the buffer is not as long as the tensor").in_tensor(name));
        }
        self.read_range(self.header().header_bytes + entry.start, dst).in_tensor(name)
    }

    /// Reads rows (indices of the first dimension) into `dst`, which must be as long as those rows.
    ///
    /// # Errors
    /// `InvalidArgument` where there are no such rows or `dst` has another length; as [`ArchiveShard::read_range`].
    pub fn read_rows(&self, name: &str, rows: Range<u64>, dst: &mut [u8]) -> Result<()> {
        let range = self.rows_range(name, &rows)?;
        if dst.len() as u64 != range.end - range.start {
            return Err(Error::invalid("the buffer is not as long as the rows").in_tensor(name));
        }
        self.read_range(range.start, dst).in_tensor(name)
    }

    /// Where rows of a tensor lie in the original file.
    ///
    /// # Errors
    /// `InvalidArgument` where there is no such tensor, or it has no such rows.
    pub fn rows_range(&self, name: &str, rows: &Range<u64>) -> Result<Range<u64>> {
        let entry = self.entry(name)?;
        let invalid = |what: &'static str| Error::invalid(what).in_tensor(name).in_file(self.path());
        let &n_rows = entry.shape.first().ok_or_else(|| invalid("a scalar has no rows"))?;
        if rows.start > rows.end || rows.end > n_rows {
            return Err(invalid("the tensor has no such rows"));
        }
        if n_rows > 0 && !entry.len_bytes().is_multiple_of(n_rows) {
            return Err(invalid("its rows are not whole bytes"));
        }
        let row_bytes = entry.len_bytes().checked_div(n_rows).unwrap_or(0);
        let start = self.header().header_bytes + entry.start;
        Ok(start + rows.start * row_bytes..start + rows.end * row_bytes)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensor(name).ok_or_else(|| Error::invalid("no tensor of that name").in_tensor(name).in_file(self.path()))
    }

    pub(crate) fn spare_workers(&self) -> std::sync::MutexGuard<'_, Vec<Worker>> {
        self.spare_workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `offset`: from the start of the part; `dst` ends inside the part.
    fn read_part(&self, worker: &mut Worker, part: &Part, offset: u64, dst: &mut [u8]) -> Result<()> {
        let Some((file, payload)) = part.payload() else {
            let start = offset as usize; // The header is in memory.
            dst.copy_from_slice(&self.file.header_bytes[start..start + dst.len()]);
            return Ok(());
        };
        let mut done = 0;
        while done < dst.len() {
            let position = offset + done as u64;
            let chunk_idx = (position / part.chunk_bytes) as usize; // Below payload.chunks.len().
            let start = chunk_idx as u64 * part.chunk_bytes;
            let chunk_len = (part.len_bytes - start).min(part.chunk_bytes) as usize; // At most 16 MiB.
            let from = (position - start) as usize;
            let n = (chunk_len - from).min(dst.len() - done);
            let (chunk, slice) = (payload.chunks[chunk_idx], &mut dst[done..done + n]);
            if n == chunk_len {
                chunk::decode(worker, &file.input, chunk, (&payload.coding, chunk_idx), slice)?;
            } else {
                let mut raw = std::mem::take(&mut worker.raw);
                raw.resize(chunk_len, 0);
                let decoded = chunk::decode(worker, &file.input, chunk, (&payload.coding, chunk_idx), &mut raw);
                decoded.map(|()| slice.copy_from_slice(&raw[from..from + n]))?;
                worker.raw = raw;
            }
            done += n;
        }
        Ok(())
    }
}
