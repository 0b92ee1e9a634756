//! How fast a GPU computes, by its own clock, in one run: [`run_kernels`] measures single linear layers in every layout
//! beside the vendor's library, [`run_gpu_model`] whole models, which may be made of random weights on the GPU itself.
//!
//! What a figure means: microseconds are those between two events of the GPU, median, least and most of all rounds, of
//! calls that a graph issues without gaps and whose weights no cache holds. GB (10^9 bytes) are those that the weights
//! take as they are stored. A share of memory is of what reading alone was measured to reach in the same run.

mod kernels;
mod kernels_table;

mod options;

mod model;
mod model_table;

pub use kernels::{
    DecodeRow, Gpu, KernelOptions, KernelReport, LinearRow, MatrixShape, MemoryRate, PrefillRow, run_kernels,
};
pub use model::{GpuBatch, GpuCheck, GpuModelReport, GpuModelRow, run_gpu_model};
pub use options::{GpuModel, GpuModelOptions, open_gpu};
