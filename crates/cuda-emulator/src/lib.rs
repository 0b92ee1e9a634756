//! Runs the CUDA kernels of `netweight-kernels-cuda` on a CPU, so that machines without a GPU can test them.
//!
//! The very `.cu` files are compiled by a C++ compiler; `cpp/emulator.hpp` spells what is CUDA in them. Threads of a
//! block are fibers that change at barriers and warp exchanges, in an order that the test picks: a result that depends
//! on it is a race. Memory ends at a page that nobody may touch, so that reading past it ends the test, and is full of
//! NaN at first. Copies beside kernels happen as late as they may, or at once. What it cannot show: the tensor cores'
//! last bits, memory models, time.
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod kernel;
#[allow(unsafe_code)]
mod memory;
mod operation;
#[allow(unsafe_code)]
mod runtime;
mod stub;

pub use runtime::{Emulator, Options};
pub use stub::Stub;
