//! GGUF files: goes in a file of any bytes, comes out metadata and where tensors lie; and the other way.
//! Next in the flow: keys.rs, which knows what metadata means.

mod cursor;
mod metadata;
mod read;
mod write;

pub(crate) use metadata::{MetaValue, Metadata};
pub(crate) use read::{Gguf, TensorInfo};
pub(crate) use write::{Layout, OutTensor};

#[cfg(test)]
pub(crate) mod tests;

const MAGIC: [u8; 4] = *b"GGUF";
/// Where nothing else is said.
const ALIGNMENT: u64 = 32;
