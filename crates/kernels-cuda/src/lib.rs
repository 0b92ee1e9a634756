//! Runs language models compressed on NVIDIA GPUs: resident layouts, kernels, and a driver that is found at run time.
//!
//! ```text
//! cu/*.cu -> artefacts/          compiled ahead, for each kind of GPU; see tools/build-cuda-kernels.py
//! Runtime                        what launching needs: the driver's, or the emulator's in tests
//! Device, Memory, Pinned         a GPU, and memory with owners
//! PagedCache                     keys and values of sequences, in pages
//! launch::*                      one safe function for each kernel, which checks lengths
//! twin::*                        what each kernel computes, in scalar Rust
//! ```
#![deny(unsafe_code)]

#[allow(unsafe_code)]
pub mod runtime;

mod error;

#[allow(unsafe_code)]
mod device;

mod kv_cache;

#[allow(unsafe_code)]
pub mod launch;

pub mod twin;

pub use device::{Device, Memory, Pinned};
pub use error::{Error, Result};
pub use kv_cache::{KvType, MAX_HEAD_DIM, PAGE_POSITIONS, PagedCache, PagedShape};
