//! Norm weights and biases: small, so they are f32 once loaded.

use netweight_container::{Entry, Error as FileError};

use super::transcode::for_each_f32;
use crate::Result;
use crate::store::Store;

/// The tensor of one dimension, (len), where it is what was asked for.
///
/// # Errors
/// `File` where it is missing, of another shape, or of a dtype that cannot be run.
pub fn check_vector<'a>(store: &'a Store, name: &str, len: usize) -> Result<&'a Entry> {
    let missing = || FileError::invalid("the model needs this tensor, which is missing").in_tensor(name);
    let entry = store.tensor(name).ok_or_else(|| missing().in_file(store.path()))?;
    if entry.shape != [len as u64] {
        let what = format!("its shape is {:?}, but the config asks for [{len}]", entry.shape);
        return Err(FileError::invalid(what).in_tensor(name).in_file(store.path()).into());
    }
    if !["BF16", "F16", "F32"].contains(&entry.dtype_name.as_str()) {
        let what = format!("weights of dtype {} cannot be run; BF16, F16 and F32 can", entry.dtype_name);
        return Err(FileError::unsupported(what).in_tensor(name).in_file(store.path()).into());
    }
    Ok(entry)
}

/// Loads a tensor of one dimension, (len), as f32.
///
/// # Errors
/// As [`check_vector`]; `File` also where it cannot be read.
pub fn load_vector(store: &Store, name: &str, len: usize) -> Result<Vec<f32>> {
    let entry = check_vector(store, name, len)?;
    let mut bytes = vec![0; len * entry.dtype.element_bytes()];
    store.read(name, 0, &mut bytes)?;
    let mut values = Vec::with_capacity(len);
    for_each_f32(entry.dtype, &bytes, |value| values.push(value));
    Ok(values)
}
