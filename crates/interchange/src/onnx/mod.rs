//! ONNX: a decoder as a graph of operators, for ONNX Runtime and what else reads such files. Goes in a declaration of
//! the model and its weights. Comes out: a folder with model.onnx, the graph, and model.onnx.data, the weights.
//!
//! Inputs and outputs are those that Hugging Face's optimum gives a model "with past", so that its users find them:
//! `input_ids`, `attention_mask`, `position_ids` and a `past_key_values.N.key` and `.value` of each layer in; `logits`
//! and a `present.N.key` and `.value` of each layer out. All arithmetic is in f32.
//! Reading order: proto.rs, graph.rs, decoder.rs, matrix.rs, weights.rs, data.rs, write.rs.

mod data;
mod decoder;
mod graph;
mod matrix;
mod proto;
mod weights;
mod write;

pub(crate) use weights::Choice;
pub(crate) use write::{Onnx, export};
