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
    apart: Vec<Apart>,
}

/// Buffers for experts that run each on its own.
pub struct Apart {
    pub router: Buffer, // (max_tokens, n_experts)
    pub input: Buffer,  // (max_tokens, hidden): rows of one expert
    pub output: Buffer, // (max_tokens, hidden)
    routing: Routing,
}

/// Rows that were sent to experts, on the host.
pub struct SentRows {
    pub starts: Vec<u32>,  // (n_experts + 1)
    pub rows: Vec<u32>,    // (n_rows * top_k)
    pub weights: Vec<f32>, // (n_rows * top_k)
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
            down: experts
                .experts
                .iter()
                .map(|gated| views(std::slice::from_ref(&gated.down)))
                .collect::<Option<_>>()?,
        })
    }
}

impl ExpertTables {
    /// None yet.
    pub fn new(device: &Device, max_tokens: usize) -> ExpertTables {
        ExpertTables {
            device: device.clone(),
            max_tokens,
            layers: HashMap::new(),
            buffers: HashMap::new(),
            apart: Vec::new(),
        }
    }

    /// Buffers for a layer whose experts run each on its own, to be [put back](ExpertTables::put_back).
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn apart(&mut self, routed: &netweight_model::Routed, hidden: usize) -> Result<Apart> {
        let fits = |apart: &Apart| apart.router.width == routed.n_experts && apart.input.width == hidden;
        if let Some(idx) = self.apart.iter().position(fits) {
            return Ok(self.apart.swap_remove(idx));
        }
        Ok(Apart {
            router: Buffer::new(&self.device, self.max_tokens, routed.n_experts)?,
            input: Buffer::new(&self.device, self.max_tokens, hidden)?,
            output: Buffer::new(&self.device, self.max_tokens, hidden)?,
            routing: Routing::new(&self.device, self.max_tokens, routed.n_experts, routed.top_k)?,
        })
    }

    /// Keeps buffers for the next layer.
    pub fn put_back(&mut self, apart: Apart) {
        self.apart.push(apart);
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
        let routed = routed_of(experts.routed);
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

impl Apart {
    /// Routes by the logits in `router`, and waits for what comes of it.
    ///
    /// # Errors
    /// The driver's.
    pub fn route(&mut self, routed: &netweight_model::Routed, n_rows: usize) -> Result<SentRows> {
        launch::route(&self.router, n_rows, routed_of(routed), &mut self.routing)?;
        let n_entries = n_rows * routed.top_k;
        let mut sent =
            SentRows { starts: vec![0; routed.n_experts + 1], rows: vec![0; n_entries], weights: vec![0.0; n_entries] };
        self.routing.starts.read(0, &mut sent.starts)?;
        self.routing.rows.read(0, &mut sent.rows)?;
        self.routing.weights.read(0, &mut sent.weights)?;
        Ok(sent)
    }
}

fn routed_of(routed: &netweight_model::Routed) -> Routed {
    Routed { n_experts: routed.n_experts, top_k: routed.top_k, norm_top_k: routed.norm_top_k }
}
