//! CPU kernels: linear layers over tiles, attention, norms, and the pool of threads that runs them.
#![deny(unsafe_code)]

mod aligned;
mod error;
mod isa;
mod lanes;

#[allow(unsafe_code)]
mod pool;

mod ops;

mod kv_cache;

mod attention;

mod input;
#[allow(unsafe_code)]
mod linear;

pub use attention::{Attend, Attention, AttentionShape};
pub use error::{Error, Result};
pub use input::{Input, Precision};
pub use isa::Isa;
pub use kv_cache::{KvCache, KvShape, KvType, MAX_HEAD_DIM, Place};
pub use linear::{Job, Scratch, grid_rows, linear, rows};
pub use ops::{Activation, Heads, Rows, RowsMut, add, gate, head_norm, rms_norm, rope, scale, scatter_add, softcap};
pub use pool::{Pool, Work};
