//! Files that an archive holds as they are.

use netweight_container::{AtomicFile, Digest, Error, FileKind, FolderFile, InputFile, Result};
use sha2::{Digest as _, Sha256};

use crate::Progress;
use crate::progress::check_interrupted;

const STEP_BYTES: usize = 1 << 20;

/// Goes through a file from its start.
pub(crate) fn for_each_part(input: &InputFile, mut part: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut buffer = vec![0; STEP_BYTES];
    let mut offset = 0;
    while offset < input.len_bytes() {
        let n = usize::try_from(input.len_bytes() - offset).map_or(STEP_BYTES, |left| left.min(STEP_BYTES));
        input.read_exact_at(offset, &mut buffer[..n])?;
        part(offset, &buffer[..n])?;
        offset += n as u64;
    }
    Ok(())
}

/// Checks that a side file has the size that `netweight.json` records.
pub(crate) fn check_bytes(file: &FolderFile, input: &InputFile) -> Result<()> {
    if file.kind != FileKind::Side || file.bytes == input.len_bytes() {
        return Ok(());
    }
    Err(Error::corrupt("netweight.json records another size").in_file(input.path()))
}

/// SHA-256 of a file.
pub(crate) fn sha256(input: &InputFile, progress: &dyn Progress) -> Result<Digest> {
    let mut hasher = Sha256::new();
    for_each_part(input, |_, bytes| {
        hasher.update(bytes);
        progress.advance(bytes.len() as u64);
        check_interrupted(progress)
    })?;
    Ok(Digest(hasher.finalize().into()))
}

/// Copies a file; gives its SHA-256, which must be `expected` where that is given.
pub(crate) fn copy(
    input: &InputFile,
    out: AtomicFile,
    expected: Option<Digest>,
    progress: &dyn Progress,
) -> Result<Digest> {
    let mut hasher = Sha256::new();
    for_each_part(input, |offset, bytes| {
        hasher.update(bytes);
        progress.advance(bytes.len() as u64);
        check_interrupted(progress)?;
        out.write_all_at(offset, bytes)
    })?;
    let sha256 = Digest(hasher.finalize().into());
    if expected.is_some_and(|expected| expected != sha256) {
        return Err(Error::corrupt("was changed since it was archived (SHA-256)").in_file(input.path()));
    }
    out.commit()?;
    Ok(sha256)
}
