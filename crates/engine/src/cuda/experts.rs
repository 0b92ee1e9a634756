//! Layers with experts: routes rows on the GPU, and runs all experts of a layer at once. Next in the flow: backend.rs.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use netweight_kernels_cuda::launch::{self, Activation, Buffer, ExpertTable, Routed, Routing, Sent};
use netweight_kernels_cuda::{Device, Result, View};
use netweight_model::{Experts, Gated, Part};

use super::linear::CudaLinear;

/// Tables of the layers' experts, and buffers that layers of one kind share; both are made when a layer first runs.
pub struct ExpertTables {
    device: Device,
    max_tokens: usize,
    layers: HashMap<usize, Layer>, // by the address of the experts, which stay where they are
    buffers: HashMap<[usize; 4], Buffers>, // by experts, top_k, width, hidden
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

/// A layer as its parts, if all of them are in the GPU's memory and there is one output for each.
struct Resident<'a> {
    router: View<'a>,
    gate_up: Vec<Vec<View<'a>>>, // (n_experts), gate and up
    down: Vec<Vec<View<'a>>>,    // (n_experts), one each
}

impl<'a> Resident<'a> {
    fn of(experts: &Experts<'a, CudaLinear>) -> Option<Resident<'a>> {
        let views = |parts: &'a [Part<CudaLinear>]| -> Option<Vec<View<'a>>> {
            parts.iter().map(|part| part.linear.resident()).collect()
        };
        let gate_up = |gated: &'a Gated<CudaLinear>| views(&gated.gate_up).filter(|views| views.len() == 2);
        Some(Resident {
            router: experts.router.linear.resident()?,
            gate_up: experts.experts.iter().map(gate_up).collect::<Option<_>>()?,
            down: experts.experts.iter().map(|gated| views(std::slice::from_ref(&gated.down))).collect::<Option<_>>()?,
        })
    }
}

impl ExpertTables {
    /// None yet.
    pub fn new(device: &Device, max_tokens: usize) -> ExpertTables {
        ExpertTables { device: device.clone(), max_tokens, layers: HashMap::new(), buffers: HashMap::new() }
    }

    /// Whether [`ExpertTables::run`] takes a layer: all of it is in the GPU's memory, its experts alike.
    pub fn takes(&self, experts: &Experts<'_, CudaLinear>) -> bool {
        let Some(resident) = Resident::of(experts) else { return false };
        let is_alike = |views: &[Vec<View<'_>>]| {
            let first = views.first().and_then(|views| views.first());
            first.is_some_and(|first| views.iter().flatten().all(|view| view.is_same_kind(first)))
        };
        is_alike(&resident.gate_up) && is_alike(&resident.down)
    }

    /// Sends each row to its experts, and sums what they make of it to `out`.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    ///
    /// # Panics
    /// Where it does not take the layer.
    pub fn run(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        experts: &Experts<'_, CudaLinear>,
        activation: Activation,
        out: &mut Buffer,
    ) -> Result<()> {
        let resident = Resident::of(experts).expect("asked before");
        let layer = match self.layers.entry(experts.experts.as_ptr() as usize) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Layer {
                gate_up: ExpertTable::new(&self.device, &resident.gate_up)?,
                down: ExpertTable::new(&self.device, &resident.down)?,
            }),
        };
        let routed = experts.routed;
        let routed = Routed { n_experts: routed.n_experts, top_k: routed.top_k, norm_top_k: routed.norm_top_k };
        let (width, hidden) = (resident.down[0][0].shape().cols, resident.down[0][0].shape().rows);
        let buffers = match self.buffers.entry([routed.n_experts, routed.top_k, width, hidden]) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Buffers::new(&self.device, self.max_tokens, routed, [width, hidden])?),
        };
        let Buffers { router, gated, output, routing } = buffers;
        let part = launch::Part { matrix: resident.router, out_col: 0 };
        launch::linear(x, n_rows, &[part], launch::Epilogue::Store, router)?;
        launch::route(router, n_rows, routed, routing)?;
        let sent = Sent { routing, n_rows, top_k: routed.top_k };
        layer.gate_up.gated_linear(x, sent, activation, gated)?;
        layer.down.linear(gated, sent, output)?;
        launch::combine(output, n_rows, hidden, routed.top_k, routing, out)
    }
}

impl Buffers {
    fn new(device: &Device, max_tokens: usize, routed: Routed, [width, hidden]: [usize; 2]) -> Result<Buffers> {
        let n_entries = max_tokens * routed.top_k;
        Ok(Buffers {
            router: Buffer::new(device, max_tokens, routed.n_experts)?,
            gated: Buffer::new(device, n_entries, width)?,
            output: Buffer::new(device, n_entries, hidden)?,
            routing: Routing::new(device, max_tokens, routed.n_experts, routed.top_k)?,
        })
    }
}
