//! The declaration of a store's model. Next in the flow: names.rs.

use netweight_container::Error as FileError;
use netweight_model::{Attention, Spec};

use crate::store::Store;
use crate::text::SideFiles;
use crate::{Error, Result};

/// Bytes that are compared at a time.
const COMPARED_BYTES: usize = 1 << 20;

/// The declaration in a store's `config.json`.
///
/// # Errors
/// `File` where there is none; `Config` where it is not a model that can be run.
pub fn read_spec(store: &Store) -> Result<Spec> {
    let missing = || FileError::invalid("no config.json: it says what model the weights are");
    let config = store.side_file("config.json")?.ok_or_else(|| missing().in_file(store.path()))?;
    let config =
        String::from_utf8(config).map_err(|_| FileError::corrupt("config.json is not UTF-8").in_file(store.path()))?;
    let mut spec = Spec::from_config(&config)?;
    spec.is_tied = spec.is_tied && !has_other_head(store, &spec)?;
    Ok(spec)
}

/// Whether the weights have a head that is not the embeddings. It counts, even if the config ties the two: so does
/// transformers.
fn has_other_head(store: &Store, spec: &Spec) -> Result<bool> {
    let mut untied = spec.clone();
    untied.is_tied = false;
    let weights = untied.weights();
    let entry = |tensor: &netweight_model::Tensor| tensor.names.iter().find_map(|name| store.tensor(name));
    let heads = [weights.head.and_then(|head| entry(&head.linear)), entry(&weights.embed.linear)];
    let [Some(head), Some(embed)] = heads else { return Ok(false) };
    if (&head.shape, &head.dtype_name) != (&embed.shape, &embed.dtype_name) {
        return Ok(true);
    }
    let mut chunks = [const { Vec::new() }; 2];
    for begin in (0..head.len_bytes()).step_by(COMPARED_BYTES) {
        for (chunk, entry) in chunks.iter_mut().zip([head, embed]) {
            chunk.resize(COMPARED_BYTES.min((head.len_bytes() - begin) as usize), 0);
            store.read(&entry.name, begin, chunk)?;
        }
        if chunks[0] != chunks[1] {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Heads, which are the same in all layers.
///
/// # Errors
/// `InvalidArgument` where they are not, or there is no layer.
pub fn first_attention(spec: &Spec) -> Result<Attention> {
    let first = spec.layers.first().ok_or_else(|| Error::invalid("a model without layers"))?.attention;
    let heads = |attention: &Attention| (attention.n_heads, attention.n_kv_heads, attention.head_dim);
    if spec.layers.iter().any(|layer| heads(&layer.attention) != heads(&first)) {
        return Err(Error::invalid("layers whose attention heads differ"));
    }
    Ok(first)
}
