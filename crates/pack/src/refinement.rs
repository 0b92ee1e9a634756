//! Refinements as files: an archive shard beside a tuned one, from which the original comes. Goes in: the tuned shard as it
//! was written, and its original's header. Comes out: which tensors of the original are told how. Next in the flow:
//! refined.rs, which is how their chunks are coded.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use netweight_container::{Checkpoint, Error, FolderFile, Header, REFINEMENT_SUFFIX, Refined, Refines, Result, SameAs};

use crate::refined::Base;
use crate::shard_file::ShardFile;

/// Refuses a checkpoint that cannot have refinements beside its shards.
pub(crate) fn check_source(checkpoint: &Checkpoint) -> Result<()> {
    if !checkpoint.is_folder {
        return Err(
            Error::invalid("the refinement of a single file has no place: name its folder").in_file(&checkpoint.root)
        );
    }
    let is_taken = |relative: &str| checkpoint.files.iter().any(|file| file.relative == relative);
    match checkpoint.shards().find(|shard| is_taken(&format!("{}{REFINEMENT_SUFFIX}", shard.relative))) {
        None => Ok(()),
        Some(shard) => {
            let what = format!("beside it a file stands where its refinement is needed, {REFINEMENT_SUFFIX}");
            Err(Error::invalid(what).in_file(&shard.path))
        }
    }
}

/// Tensors without payload, what is refined, and the grids of these by name.
type Plan = (BTreeMap<String, SameAs>, (Refines, BTreeMap<String, Arc<Base>>));

/// How the refinement of the shard `base`, at `relative`, tells each tensor of the original: what is stored exactly there
/// is not stored again, a bf16 matrix with a grid is refined, any other matrix with a grid is stored. `ties`: of tensors
/// with grids whose originals are equal.
pub(crate) fn plan(
    base: &Arc<ShardFile>,
    relative: &str,
    original: &Header,
    grid_names: &BTreeSet<String>,
    ties: BTreeMap<String, SameAs>,
) -> Plan {
    let base_name = relative.rsplit('/').next().unwrap_or(relative);
    let with_suffix = |shard: String| format!("{shard}{REFINEMENT_SUFFIX}");
    let mut same_as: BTreeMap<String, SameAs> = BTreeMap::new();
    let (mut bases, mut names) = (BTreeMap::new(), Vec::new());
    for (name, same) in ties {
        same_as.insert(name, SameAs { tensor: same.tensor, shard: same.shard.map(with_suffix) });
    }
    for entry in original.tensors.iter().filter(|entry| !same_as.contains_key(&entry.name)).collect::<Vec<_>>() {
        if !grid_names.contains(&entry.name) {
            let same = base.manifest.same_as.get(&entry.name);
            let (tensor, shard) = same.map_or((&entry.name, None), |same| (&same.tensor, same.shard.as_deref()));
            let same = SameAs { tensor: tensor.clone(), shard: Some(shard.unwrap_or(base_name).to_owned()) };
            same_as.insert(entry.name.clone(), same);
        } else if let Some(of_grid) = Base::find(base, entry) {
            names.push(entry.name.clone());
            bases.insert(entry.name.clone(), Arc::new(of_grid));
        }
    }
    let sha256 = base.manifest.original.sha256;
    (same_as, (Refines { shard: base_name.to_owned(), sha256, tensors: names }, bases))
}

/// Takes the refinement of a shard from its row, if it has one: the file that comes out, and where the refinement lies.
///
/// # Errors
/// `InvalidArgument` where it is not there.
pub(crate) fn take(file: &mut FolderFile, root: &Path) -> Result<Option<(Refined, PathBuf)>> {
    let Some(place) = file.refinement().map(|relative| root.join(relative)) else { return Ok(None) };
    if !place.exists() {
        return Err(
            Error::invalid("its refinement is not here, without which there are only tuned values").in_file(&place)
        );
    }
    Ok(file.refined.take().map(|refined| (refined, place)))
}
