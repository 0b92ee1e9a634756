//! Folders of compressed-tensors, the format of llm-compressor and vLLM. Next in the flow: read.rs.

mod read;
mod scheme;
mod write;

pub(crate) use read::import;
pub(crate) use write::export;
