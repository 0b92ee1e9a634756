//! The Python module `netweight`: archives as numpy arrays and torch tensors, and matrices that stay packed in memory.
//!
//! Goes in: calls from Python. Comes out: bytes in memory that Python has allocated, or reports as JSON, which
//! `netweight/*.py` turn into classes. This crate knows paths, names and addresses; dtypes and frameworks are Python's.
//! Suggested reading: `reader.rs` with `source.rs` (tensors by name), `matrix.rs` and `linear.rs` (packed matrices; `gpu.rs`, on GPUs), `verbs.rs`,
//! `errors.rs` (errors become text and exceptions here only), `memory.rs` (addresses become slices), `pools.rs`, `openmp.rs`.
#![deny(unsafe_code)]

mod reader;
mod source;

mod linear;
mod matrix;

mod verbs;

// Says why its `unsafe` is sound, as memory.rs does.
#[allow(unsafe_code)]
mod gpu;

mod errors;

#[allow(unsafe_code)]
mod memory;
#[allow(unsafe_code)]
mod openmp;
mod pools;

use pyo3::prelude::*;

/// The part of `netweight` that is written in Rust. What stands here is documented in `netweight`.
#[pymodule]
mod _netweight {
    #[pymodule_export]
    use crate::gpu::{gpu_embed_at, gpu_linear_at, gpu_pack_at, gpu_padded, gpu_unpack_at};
    #[pymodule_export]
    use crate::linear::linear_at;
    #[pymodule_export]
    use crate::matrix::{pack_matrix, pack_matrix_at, packed_info, packed_info_at, unpack_matrix, unpack_matrix_at};
    #[pymodule_export]
    use crate::memory::AlignedBuffer;
    #[pymodule_export]
    use crate::reader::Reader;
    #[pymodule_export]
    use crate::verbs::{compress, compress_tensors, estimate, inspect, is_archive, restore, restore_tensor, verify};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        crate::openmp::remember_process();
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
