//! Where the bytes of an original come from: its own archive shard, or a sibling for tied tensors.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netweight_container::{Entry, Error, Result};

use crate::shard_file::{Payload, ShardFile};

/// Shards opened already, by path: siblings refer to each other.
#[derive(Default)]
pub(crate) struct Siblings {
    open: HashMap<PathBuf, Arc<ShardFile>>,
}

impl Siblings {
    pub(crate) fn open(&mut self, path: &Path) -> Result<Arc<ShardFile>> {
        let plain = |path: &Path| -> Result<Arc<ShardFile>> {
            let twice = |_: &Path| Err(Error::corrupt("the refinement of a refinement").in_file(path));
            Ok(Arc::new(ShardFile::open(path, twice)?))
        };
        if let Some(file) = self.open.get(path) {
            return Ok(Arc::clone(file));
        }
        let open = &mut self.open;
        let base = |base: &Path| match open.get(base) {
            Some(file) => Ok(Arc::clone(file)),
            None => Ok(Arc::clone(open.entry(base.to_path_buf()).or_insert(plain(base)?))),
        };
        let file = Arc::new(ShardFile::open(path, base)?);
        self.open.insert(path.to_path_buf(), Arc::clone(&file));
        Ok(file)
    }
}

/// A stretch of the original and where its bytes come from.
pub(crate) struct Part {
    /// Offset in the original file.
    pub(crate) start: u64,
    pub(crate) len_bytes: u64,
    pub(crate) chunk_bytes: u64,
    /// The file and the index of its payload; `None` for the header, which is in memory.
    pub(crate) home: Option<(Arc<ShardFile>, usize)>,
}

impl Part {
    pub(crate) fn payload(&self) -> Option<(&ShardFile, &Payload)> {
        self.home.as_ref().map(|(file, payload_idx)| (&**file, &file.payloads[*payload_idx]))
    }
}

/// The file and payload that hold the bytes of a tensor.
pub(crate) fn home(
    file: &Arc<ShardFile>,
    path: &Path,
    tensor_idx: usize,
    entry: &Entry,
    siblings: &mut Siblings,
) -> Result<(Arc<ShardFile>, usize)> {
    let Some(same) = file.manifest.same_as.get(&entry.name) else { return Ok((Arc::clone(file), tensor_idx)) };
    let owner = match &same.shard {
        Some(shard) => siblings.open(&path.with_file_name(shard))?,
        None => Arc::clone(file),
    };
    let payload_idx = owner.payload_of(&same.tensor);
    let payload_idx = payload_idx.ok_or_else(|| Error::corrupt("tied to a tensor that is not stored there"))?;
    if owner.payloads[payload_idx].len_bytes != entry.len_bytes() {
        return Err(Error::corrupt("tied to a tensor of another size"));
    }
    Ok((owner, payload_idx))
}
