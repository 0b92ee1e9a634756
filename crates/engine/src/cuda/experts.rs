//! Layers with experts: routes rows on the GPU, and runs all experts of a layer at once. Next in the flow: backend.rs.

use std::collections::HashMap;

use netweight_kernels_cuda::launch::{self, Activation, Buffer, ExpertTable, Routing, Sent};
use netweight_kernels_cuda::{Device, Matrix, Result};
use netweight_model::Experts;

use super::linear::CudaLinear;

/// Tables of the layers' experts, and buffers that they share; both made when a layer first runs.
pub struct ExpertTables {
    device: Device,
    max_tokens: usize,
    layers: HashMap<usize, Layer>, // by the address of the experts
    buffers: HashMap<[usize; 4], Buffers>,
}

struct Layer {
    gate_up: ExpertTable,
    down: ExpertTable,
}

struct Buffers {
    router: Buffer, // (max_tokens, n_experts)
    gated: Buffer,  // (max_tokens * top_k, width)
    output: Buffer, // (max_tokens * top_k, hidden)
    routing: Routing,
}
