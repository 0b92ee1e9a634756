//! Matrices that an archive stores in the layout they are multiplied in: nothing is read, the file is mapped. Goes in: a
//! store and requests. Comes out: the matrices that can be had so; the others go through transcode.rs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use netweight_container::{Context, MappedFile};
use netweight_layout::{Layout, Matrix};

use super::transcode::{MatrixRequest, checked_entry};
use crate::Result;
use crate::store::Store;

/// The matrix of each request whose tensor is stored in `wanted`, or in any layout where nothing is wanted.
///
/// # Errors
/// `File` where a tensor is missing or of another shape, or a file cannot be mapped or holds no such groups. Checksums
/// are not checked: that would read it all; `netweight verify` does.
pub fn map_matrices(store: &Store, requests: &[MatrixRequest], wanted: Option<Layout>) -> Result<Vec<Option<Matrix>>> {
    let mut files: HashMap<PathBuf, Arc<MappedFile>> = HashMap::new();
    let mut map = |request: &MatrixRequest| -> Result<Option<Matrix>> {
        checked_entry(store, request)?;
        let Some(resident) = store.resident(&request.name) else { return Ok(None) };
        if wanted.is_some_and(|wanted| wanted != resident.layout) {
            return Ok(None);
        }
        let file = match files.get(&resident.path) {
            Some(file) => Arc::clone(file),
            None => {
                Arc::clone(files.entry(resident.path.clone()).or_insert(Arc::new(MappedFile::open(&resident.path)?)))
            }
        };
        Ok(Some(resident.matrix(file).in_tensor(&request.name)?))
    };
    requests.iter().map(&mut map).collect()
}
