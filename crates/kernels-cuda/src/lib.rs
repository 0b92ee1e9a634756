//! Runs language models compressed on NVIDIA GPUs: resident layouts, kernels, and a driver that is found at run time.
//!
//! ```text
//! cu/*.cu -> artefacts/          compiled ahead, for each kind of GPU; see tools/build-cuda-kernels.py
//! Runtime                        what launching needs: the driver's, or the emulator's in tests
//! driver::{devices, open}        real GPUs
//! Device, Memory, Pinned         a GPU, and memory with owners
//! layout, Loader, Matrix         how weights lie in its memory, and how they get there
//! PagedCache                     keys and values of sequences, in pages
//! measure::*                     how fast all that is
//! launch::*                      one safe function for each kernel, which checks lengths
//! twin::*                        what each kernel computes, in scalar Rust
//! ```
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod runtime;

mod error;

#[allow(unsafe_code)]
pub mod driver;

#[allow(unsafe_code)]
mod device;

mod kv_cache;

#[allow(unsafe_code)]
pub mod launch;

pub mod layout;
mod matrix;
pub mod measure;
#[allow(unsafe_code)]
mod slots;
pub mod twin;
#[allow(unsafe_code)]
mod wide;

pub use device::{Device, Graph, Memory, Pinned};
pub use error::{Error, Result};
pub use kv_cache::{KvType, MAX_HEAD_DIM, PAGE_POSITIONS, PagedCache, PagedShape};
pub use layout::Layout;
pub use matrix::{CHUNK_BYTES, HostMatrix, Loader, Matrix, Packed, View};
pub use slots::Slots;
pub use wide::{WideKind, WideMatrix};
