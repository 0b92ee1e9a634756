//! Config-driven decoders: a family is a declaration, the forward pass is one function.
//!
//! Goes in: a checkpoint's `config.json`. Comes out: a [`Spec`], everything that distinguishes one decoder from
//! another; the list of [`Tensor`]s that it needs; and, with a [`Source`] of weights, a [`Model`] whose
//! [`forward`](Model::forward) turns [`Batch`]es of tokens into logits on any [`Backend`]. [`Reference`] is the
//! backend of plain loops. Nothing here knows files, codecs, layouts, element types or devices.
//! Next in the flow: `netweight-engine`, which is the source of weights and brings the backends.
//!
//! ```
//! use netweight_model::Spec;
//! let spec = Spec::from_config(
//!     r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
//!         "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 500000.0}"#,
//! )?;
//! assert_eq!(spec.layers[1].attention.head_dim, 8);
//! assert_eq!(spec.tensors().next().unwrap().name(), "model.embed_tokens.weight");
//! # Ok::<(), netweight_model::Error>(())
//! ```
#![forbid(unsafe_code)]

mod spec;

mod families;
mod fields;
mod read;
mod rope;

mod tensors;
mod weights;

mod backend;
mod forward;
mod model;
mod reference;
mod routing;
mod workspace;

mod error;

pub use backend::{Attend, Backend, Experts, HeadNorms, Heads, Place, Room, Rotation};
pub use error::{Error, Result};
pub use families::architectures;
pub use forward::Batch;
pub use model::{MAX_CONTEXT, Model};
pub use reference::{Buffer, Cache, Matrix, Reference};
pub use rope::{LongRope, Rope};
pub use spec::{Activation, Attention, Layer, Mlp, Routed, Spec, limits};
pub use tensors::{Kind, Tensor, Transform};
pub use weights::{Gated, LayerWeights, MlpWeights, Part, Source, Weights};
pub use workspace::Workspace;
