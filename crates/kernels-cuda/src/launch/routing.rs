//! Which experts tokens are sent to, without the host.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Device, Memory};
use crate::error::Result;
use crate::runtime::Grid;

/// How rows are routed: softmax over a router's logits, then the `top_k` largest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routed {
    /// Experts.
    pub n_experts: usize,
    /// Experts that a row is sent to; at most `n_experts`, more than 0.
    pub top_k: usize,
    /// Whether the chosen experts' weights are divided by their sum.
    pub norm_top_k: bool,
}

/// What rows were sent to, on the GPU.
#[derive(Debug)]
pub struct Routing {
    chosen: Memory<u32>,         // (n_rows, top_k): experts, largest first
    chosen_weights: Memory<f32>, // (n_rows, top_k)
    /// Where each expert's rows begin, and the end.
    pub starts: Memory<u32>, // (n_experts + 1)
    /// Rows by expert, ascending for each: what `gather` takes.
    pub rows: Memory<u32>, // (n_rows * top_k)
    /// Their weights.
    pub weights: Memory<f32>, // (n_rows * top_k)
    /// Where in `rows` each row stands, by expert ascending.
    pub places: Memory<u32>, // (n_rows, top_k)
}

impl Routing {
    /// For up to `max_rows` rows, the most experts and the largest `top_k` of any layer.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(device: &Device, max_rows: usize, n_experts: usize, top_k: usize) -> Result<Routing> {
        let n = max_rows.saturating_mul(top_k);
        Ok(Routing {
            chosen: device.zeroed(n)?,
            chosen_weights: device.zeroed(n)?,
            starts: device.zeroed(n_experts + 1)?,
            rows: device.zeroed(n)?,
            weights: device.zeroed(n)?,
            places: device.zeroed(n)?,
        })
    }
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct ChooseArgs {
    logits: u64,
    chosen: u64,
    weights: u64,
    n_rows: u32,
    n_experts: u32,
    stride: u32,
    top_k: u32,
    norm_top_k: u32,
    padding: u32,
}

impl Args for ChooseArgs {
    const KERNEL: &'static str = "choose_experts";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct SortArgs {
    chosen: u64,
    weights: u64,
    starts: u64,
    sorted_rows: u64,
    sorted_weights: u64,
    places: u64,
    n_rows: u32,
    n_experts: u32,
    top_k: u32,
    padding: u32,
}

impl Args for SortArgs {
    const KERNEL: &'static str = "sort_by_expert";
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct CombineArgs {
    x: u64,
    places: u64,
    weights: u64,
    out: u64,
    out_bf16: u64,
    x_stride: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    width: u32,
    top_k: u32,
    n_sorted: u32,
}

impl Args for CombineArgs {
    const KERNEL: &'static str = "combine_experts";
}

/// Routes the first `n_rows` rows of a router's logits. Afterwards `starts[..n_experts + 1]`, `rows`, `weights` and
/// `places` (`..n_rows * top_k` each) are of these.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller, or `top_k` is 0 or more than `n_experts`.
pub fn route(logits: &Buffer, n_rows: usize, routed: Routed, routing: &mut Routing) -> Result<()> {
    let Routed { n_experts, top_k, norm_top_k } = routed;
    assert!((1..=n_experts).contains(&top_k), "{top_k} of {n_experts} experts");
    let n = n_rows * top_k;
    let choose = ChooseArgs {
        logits: logits.floats_at(0, n_rows, n_experts),
        chosen: routing.chosen.at(0, n),
        weights: routing.chosen_weights.at(0, n),
        n_rows: n_rows as u32,
        n_experts: n_experts as u32,
        stride: logits.width as u32,
        top_k: top_k as u32,
        norm_top_k: u32::from(norm_top_k),
        padding: 0,
    };
    let sort = SortArgs {
        chosen: choose.chosen,
        weights: choose.weights,
        starts: routing.starts.at(0, n_experts + 1),
        sorted_rows: routing.rows.at(0, n),
        sorted_weights: routing.weights.at(0, n),
        places: routing.places.at(0, n),
        n_rows: n_rows as u32,
        n_experts: n_experts as u32,
        top_k: top_k as u32,
        padding: 0,
    };
    let rows = Grid { blocks: [n_rows.div_ceil(4) as u32, 1, 1], threads: 128, shared_bytes: 0 };
    let experts = Grid { blocks: [n_experts as u32, 1, 1], threads: 256, shared_bytes: 0 };
    let device = routing.rows.device();
    // SAFETY: all lengths were checked above; experts are below `n_experts` because the kernel before wrote them.
    unsafe {
        device.launch(&choose, rows)?;
        device.launch(&sort, experts)
    }
}

/// `out[i]`, for `i < n_rows`, becomes the weighted sum of what its experts gave, in ascending order of experts, from 0,
/// product and sum rounded each: as `zero`, then `scatter_add` for each expert.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where memory is smaller.
pub fn combine(
    x: &Buffer, // (n_rows * top_k, width): in the order of `routing.rows`
    n_rows: usize,
    width: usize,
    top_k: usize,
    routing: &Routing,
    out: &mut Buffer, // (n_rows, width)
) -> Result<()> {
    let args = CombineArgs {
        x: x.floats_at(0, n_rows * top_k, width),
        places: routing.places.at(0, n_rows * top_k),
        weights: routing.weights.at(0, n_rows * top_k),
        out: out.floats_at(0, n_rows, width),
        out_bf16: out.halves_at(0, n_rows, width),
        x_stride: x.width as u32,
        out_stride: out.width as u32,
        out_bf16_stride: out.halves_stride() as u32,
        width: width as u32,
        top_k: top_k as u32,
        n_sorted: (n_rows * top_k) as u32,
    };
    let grid = Grid { blocks: [n_rows as u32, width.div_ceil(256) as u32, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all rows and columns were checked above; the kernel takes no place beyond them.
    unsafe { routing.rows.device().launch(&args, grid) }
}
