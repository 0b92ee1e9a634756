//! The tensors that a declaration asks for, in a store: all there, of the right shape, and nothing else. Next in the
//! flow: transcode.rs.

use std::collections::HashSet;

use netweight_container::Error as FileError;
use netweight_layout::Layout;
use netweight_model::{Kind, Spec, Tensor, Transform};

use super::transcode::{MatrixRequest, checked_entry, layout_for};
use super::vectors::{check_vector, load_vector};
use crate::Result;
use crate::store::Store;

/// Checks that `store` has every tensor of `spec`, of the right shape and a dtype that can be run.
///
/// # Errors
/// `File`, naming the tensor.
pub fn check_tensors(store: &Store, spec: &Spec) -> Result<()> {
    let mut used = HashSet::new();
    for tensor in spec.tensors() {
        used.insert(name_in(store, &tensor).to_owned());
        if tensor.kind == Kind::Vector {
            check_vector(store, name_in(store, &tensor), tensor.rows)?;
        } else {
            layout_for(checked_entry(store, &request(store, &tensor))?, Layout::Bf16)?;
        }
    }
    no_other_layers(store, &used)
}

/// Checks that `store` has nothing in its layers that is not `used`: further layers, biases or norms belong to another
/// model than that of the config. What stands outside of the layers, like a part for pictures, may stay.
fn no_other_layers(store: &Store, used: &HashSet<String>) -> Result<()> {
    const LAYERS: &str = "layers.";
    let prefix = used.iter().find_map(|name| name.find(LAYERS).map(|at| &name[..at + LAYERS.len()]));
    let Some(prefix) = prefix else { return Ok(()) };
    let is_other = |name: &&str| {
        name.starts_with(prefix) && !used.contains(*name) && !name.ends_with("rotary_emb.inv_freq") // a table
    };
    match store.tensor_names().filter(is_other).min() {
        None => Ok(()),
        Some(name) => {
            let what = "the model that config.json describes has no such tensor: config and weights differ";
            Err(FileError::invalid(what).in_tensor(name).in_file(store.path()).into())
        }
    }
}

/// The first of the tensor's names that the store knows; the usual one where it knows none.
pub fn name_in<'t>(store: &Store, tensor: &'t Tensor) -> &'t str {
    tensor.names.iter().find(|name| store.tensor(name).is_some()).map_or(tensor.name(), String::as_str)
}

/// What to ask the store for.
pub fn request(store: &Store, tensor: &Tensor) -> MatrixRequest {
    MatrixRequest { name: name_in(store, tensor).to_owned(), rows: tensor.rows, cols: tensor.cols }
}

/// A vector as the forward pass wants it.
///
/// # Errors
/// `File`, as [`load_vector`].
pub fn load_transformed(store: &Store, tensor: &Tensor) -> Result<Vec<f32>> {
    let mut values = load_vector(store, name_in(store, tensor), tensor.rows)?;
    match tensor.transform {
        Transform::None => (),
        Transform::AddOne => values.iter_mut().for_each(|value| *value += 1.0),
    }
    Ok(values)
}
