//! Runs language models compressed on NVIDIA GPUs: resident layouts, kernels, and a driver that is found at run time.
//!
//! ```text
//! cu/*.cu -> artefacts/          compiled ahead, for each kind of GPU; see tools/build-cuda-kernels.py
//! Runtime                        what launching needs: the driver's, or the emulator's in tests
//! driver::{devices, open}        real GPUs
//! Device, Memory, Pinned         a GPU, and memory with owners
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

#[allow(unsafe_code)]
pub mod launch;

pub mod twin;

pub use device::{Device, Memory, Pinned};
pub use error::{Error, Result};
