//! A checkpoint or an archive as tensors by name and files beside them. Next in the flow: export.rs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use netweight_container::{
    CARD_NAME, Checkpoint, Context, Entry, Error, FOLDER_MANIFEST_NAME, FileKind, Header, InputFile, METADATA_KEY,
    Result,
};
use netweight_pack::{Archive, ArchiveShard, GridSteps};
use serde_json::{Map, Value};

/// Side files are read whole; this bounds them.
const MAX_SIDE_FILE_BYTES: u64 = 256 << 20;

/// An open checkpoint or archive: a folder.
pub(crate) struct Source {
    root: PathBuf,
    shards: Vec<Shard>,
    /// Which shard holds a tensor, and which of its tensors that is.
    places: BTreeMap<String, (usize, usize)>,
    archive: Option<Archive>,
}

struct Shard {
    relative: String,
    raw: Option<InputFile>, // None: a shard of the archive
    header: Header,
}

impl Source {
    /// Opens a folder and reads the headers of its shards.
    ///
    /// # Errors
    /// `InvalidArgument` where it is no folder with weights; `Truncated`, `Corrupt`, `Unsupported`, `Io`.
    pub(crate) fn open(root: &Path) -> Result<Source> {
        if !std::fs::metadata(root).in_file(root)?.is_dir() {
            return Err(
                Error::invalid("not a folder with config.json, tokenizer.json and .safetensors files").in_file(root)
            );
        }
        let mut source =
            Source { root: root.to_path_buf(), shards: Vec::new(), places: BTreeMap::new(), archive: None };
        if root.join(FOLDER_MANIFEST_NAME).exists() {
            let archive = Archive::open(root)?;
            let shards = archive.shards().filter(|(relative, _)| is_at_top(relative));
            source.shards = shards
                .map(|(relative, shard)| Shard {
                    relative: relative.to_owned(),
                    raw: None,
                    header: shard.header().clone(),
                })
                .collect();
            source.archive = Some(archive);
        } else {
            let checkpoint = Checkpoint::discover(root)?;
            for file in checkpoint.shards().filter(|file| is_at_top(&file.relative)) {
                let input = InputFile::open(&file.path)?;
                let (header, _) = Header::read(&input)?;
                check_raw(&header).in_file(&file.path)?;
                source.shards.push(Shard { relative: file.relative.clone(), raw: Some(input), header });
            }
        }
        source.index()?;
        Ok(source)
    }

    fn index(&mut self) -> Result<()> {
        for (shard_idx, shard) in self.shards.iter().enumerate() {
            for (tensor_idx, entry) in shard.header.tensors.iter().enumerate() {
                if self.places.insert(entry.name.clone(), (shard_idx, tensor_idx)).is_some() {
                    let error = Error::invalid("two shards have a tensor of that name");
                    return Err(error.in_tensor(&entry.name).in_file(&self.root));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Bytes of all tensors.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.header.data_bytes()).sum()
    }

    /// Names of all tensors, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    pub(crate) fn tensor(&self, name: &str) -> Option<&Entry> {
        self.places.get(name).map(|(shard_idx, tensor_idx)| &self.shards[*shard_idx].header.tensors[*tensor_idx])
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// `Corrupt` where there is none.
    pub(crate) fn needed(&self, name: &str) -> Result<&Entry> {
        self.tensor(name)
            .ok_or_else(|| Error::corrupt("the model lacks this tensor").in_tensor(name).in_file(&self.root))
    }

    /// The shard that stores a tensor as a grid, and its steps; `None` where it is stored otherwise.
    pub(crate) fn grid(&self, name: &str) -> Option<(&ArchiveShard, GridSteps<'_>)> {
        let (shard_idx, _) = self.places.get(name)?;
        let shard = self.archive.as_ref()?.shard(&self.shards[*shard_idx].relative)?;
        Some((shard, shard.grid(name)?))
    }

    /// Fills `dst` with bytes of a tensor, decoding them where archived.
    ///
    /// # Errors
    /// `Truncated`, `Corrupt`, `Io`.
    pub(crate) fn read(&self, name: &str, offset: u64, dst: &mut [u8]) -> Result<()> {
        let entry = self.needed(name)?;
        if offset.checked_add(dst.len() as u64).is_none_or(|end| end > entry.len_bytes()) {
            return Err(Error::corrupt("the tensor is shorter than the model needs").in_tensor(name));
        }
        let shard = &self.shards[self.places[name].0];
        let start = shard.header.header_bytes + entry.start + offset;
        match (&shard.raw, &self.archive) {
            (Some(input), _) => input.read_exact_at(start, dst),
            (None, archive) => {
                let archived = archive.as_ref().and_then(|archive| archive.shard(&shard.relative));
                let archived = archived.ok_or_else(|| Error::corrupt("a shard is gone").in_file(&self.root))?;
                archived.read_range(start, dst)
            }
        }
        .in_tensor(name)
    }

    /// All bytes of a small tensor.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn read_whole(&self, name: &str) -> Result<Vec<u8>> {
        let n_bytes = usize::try_from(self.needed(name)?.len_bytes());
        let mut bytes = vec![0; n_bytes.map_err(|_| Error::corrupt("too large for this machine").in_tensor(name))?];
        self.read(name, 0, &mut bytes)?;
        Ok(bytes)
    }

    /// The original's bytes of a file beside the weights; `None` where there is none.
    ///
    /// # Errors
    /// `InvalidArgument` where it is absurdly large; `Io`.
    pub(crate) fn side_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let rewritten = self.archive.as_ref().and_then(Archive::folder).and_then(|folder| {
            let file = folder.files.iter().find(|file| file.path == name)?;
            file.rewritten.as_ref().map(|(_, original)| original.clone())
        });
        let path = self.root.join(name);
        if rewritten.is_some() || !path.is_file() {
            return Ok(rewritten);
        }
        let input = InputFile::open(&path)?;
        if input.len_bytes() > MAX_SIDE_FILE_BYTES {
            return Err(Error::invalid("too large for a side file").in_file(&path));
        }
        input.read_vec(0, input.len_bytes()).map(Some)
    }

    /// A file beside the weights as a JSON object; `None` where there is none.
    ///
    /// # Errors
    /// `Corrupt` where it is none; as [`Source::side_file`].
    pub(crate) fn object(&self, name: &str) -> Result<Option<Map<String, Value>>> {
        let Some(bytes) = self.side_file(name)? else { return Ok(None) };
        let parsed: Value = serde_json::from_slice(&bytes)
            .map_err(|error| Error::corrupt(error.to_string()).in_file(&self.root.join(name)))?;
        match parsed {
            Value::Object(object) => Ok(Some(object)),
            _ => Err(Error::corrupt("not a JSON object").in_file(&self.root.join(name))),
        }
    }

    /// config.json.
    ///
    /// # Errors
    /// `Corrupt` where there is none.
    pub(crate) fn config(&self) -> Result<Map<String, Value>> {
        let config = self.object("config.json")?;
        config.ok_or_else(|| Error::corrupt("there is no config.json").in_file(&self.root))
    }

    /// Names of files at the top of the folder that hold neither weights nor an index of them. An archive's card is left
    /// out: it is about the archive.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn side_names(&self) -> Result<Vec<String>> {
        let files = Checkpoint::list(&self.root)?.files;
        let is_side = |kind: FileKind| !matches!(kind, FileKind::Shard | FileKind::Index);
        let names = files.into_iter().filter(|file| is_side(file.kind)).map(|file| file.relative);
        Ok(names.filter(|name| is_at_top(name) && name != FOLDER_MANIFEST_NAME && name != CARD_NAME).collect())
    }

    /// What tells this source from another: sizes and times of its shards.
    ///
    /// # Errors
    /// `Io`.
    pub(crate) fn identity(&self) -> Result<Vec<(String, u64, u64)>> {
        let files = Checkpoint::list(&self.root)?.files;
        Ok(files.into_iter().map(|file| (file.relative, file.bytes, file.modified_ns)).collect())
    }
}

/// Refuses a shard of an archive that stands by itself: its tensors are payloads.
fn check_raw(header: &Header) -> Result<()> {
    if header.metadata.contains_key(METADATA_KEY) {
        return Err(Error::invalid("part of an archive whose netweight.json is missing"));
    }
    Ok(())
}

fn is_at_top(relative: &str) -> bool {
    !relative.contains('/')
}
