//! Element by element. Values are in `twin`; here are rows and columns.

use bytemuck::{Pod, Zeroable};

use super::Buffer;
use crate::device::{Args, Device, Memory};
use crate::error::Result;
use crate::runtime::Grid;

/// Columns of a block: 4 for each thread.
const BLOCK_COLS: usize = 1024;

/// What gates a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`
    Silu,
    /// GELU in its approximation by tanh.
    GeluTanh,
    /// GELU with erf.
    GeluErf,
}

/// `PointwiseArgs` in cu/pointwise.cu.
#[derive(Clone, Copy, Default, Pod, Zeroable)]
#[repr(C)]
struct Fields {
    x: u64,
    out: u64,
    out_bf16: u64,
    rows: u64,
    weights: u64,
    width: u32,
    x_stride: u32,
    out_stride: u32,
    out_bf16_stride: u32,
    x_rows: u32,
    out_rows: u32,
    factor: f32,
    padding: u32,
}

/// One type for each kernel.
macro_rules! kernels {
    ($($kernel:ident $name:literal)*) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        struct $kernel(Fields);

        impl Args for $kernel {
            const KERNEL: &'static str = $name;
        }
    )*};
}

kernels! {
    Scale "scale"
    Add "add"
    Softcap "softcap"
    Zero "zero"
    GateSilu "gate_silu"
    GateGeluTanh "gate_gelu_tanh"
    GateGeluErf "gate_gelu_erf"
    Gather "gather"
    ScatterAdd "scatter_add"
}

impl Fields {
    /// `n_rows` rows of `width` columns of `out`.
    fn new(out: &Buffer, n_rows: usize, width: usize) -> Fields {
        Fields {
            out: out.floats_at(0, n_rows, width),
            out_bf16: out.halves_at(0, n_rows, width),
            width: width as u32,
            out_stride: out.width as u32,
            out_bf16_stride: out.halves_stride() as u32,
            out_rows: out.n_rows() as u32,
            ..Fields::default()
        }
    }

    /// `n_rows` rows of `width` columns of `x`.
    fn with_x(self, x: &Buffer, n_rows: usize, width: usize) -> Fields {
        let (x_stride, x_rows) = (x.width as u32, x.n_rows() as u32);
        Fields { x: x.floats_at(0, n_rows, width), x_stride, x_rows, ..self }
    }
}

fn grid(n_rows: usize, width: usize) -> Grid {
    Grid { blocks: [n_rows as u32, width.div_ceil(BLOCK_COLS) as u32, 1], threads: 256, shared_bytes: 0 }
}

fn device(buffer: &Buffer) -> &Device {
    buffer.floats.device()
}

/// `x *= factor` over columns `..width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the buffer is smaller.
pub fn scale(x: &mut Buffer, n_rows: usize, width: usize, factor: f32) -> Result<()> {
    let args = Scale(Fields { factor, ..Fields::new(x, n_rows, width) });
    // SAFETY: rows and columns were checked by `Fields::new`.
    unsafe { device(x).launch(&args, grid(n_rows, width)) }
}

/// `out += x` over columns `..width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn add(x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) -> Result<()> {
    let args = Add(Fields::new(out, n_rows, width).with_x(x, n_rows, width));
    // SAFETY: rows and columns of both were checked.
    unsafe { device(out).launch(&args, grid(n_rows, width)) }
}

/// `x = cap * tanh(x / cap)` over columns `..width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the buffer is smaller.
pub fn softcap(x: &mut Buffer, n_rows: usize, width: usize, cap: f32) -> Result<()> {
    let args = Softcap(Fields { factor: cap, ..Fields::new(x, n_rows, width) });
    // SAFETY: rows and columns were checked by `Fields::new`.
    unsafe { device(x).launch(&args, grid(n_rows, width)) }
}

/// `x = 0` over columns `..width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where the buffer is smaller.
pub fn zero(x: &mut Buffer, n_rows: usize, width: usize) -> Result<()> {
    let args = Zero(Fields::new(x, n_rows, width));
    // SAFETY: rows and columns were checked by `Fields::new`.
    unsafe { device(x).launch(&args, grid(n_rows, width)) }
}

/// `out[j] = activation(x[j]) * x[width + j]` for `j < width`.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn gate(activation: Activation, x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) -> Result<()> {
    let fields = Fields::new(out, n_rows, width).with_x(x, n_rows, 2 * width);
    let (device, grid) = (device(out), grid(n_rows, width));
    // SAFETY: rows and columns of both were checked.
    unsafe {
        match activation {
            Activation::Silu => device.launch(&GateSilu(fields), grid),
            Activation::GeluTanh => device.launch(&GateGeluTanh(fields), grid),
            Activation::GeluErf => device.launch(&GateGeluErf(fields), grid),
        }
    }
}

/// `out[i] = x[rows[i]]` over columns `..width`, for `i < n_rows`. Row `i` stays as it is where `x` has no such row.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn gather(
    x: &Buffer,
    rows: &Memory<u32>, // (n_rows) or more
    n_rows: usize,
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let fields = Fields::new(out, n_rows, width).with_x(x, 0, width);
    let args = Gather(Fields { rows: rows.at(0, n_rows), ..fields });
    // SAFETY: rows and columns of both were checked; the kernel leaves rows out that `x` does not have.
    unsafe { device(out).launch(&args, grid(n_rows, width)) }
}

/// `out[rows[i]] += weights[i] * x[i]`, product and sum rounded each, over columns `..width`, for `i < n_rows`. No row
/// may occur twice; rows that `out` does not have are left out.
///
/// # Errors
/// The driver's.
///
/// # Panics
/// Where a buffer is smaller.
pub fn scatter_add(
    x: &Buffer,
    rows: &Memory<u32>,    // (n_rows) or more
    weights: &Memory<f32>, // (n_rows) or more
    n_rows: usize,
    width: usize,
    out: &mut Buffer,
) -> Result<()> {
    let fields = Fields::new(out, 0, width).with_x(x, n_rows, width);
    let args = ScatterAdd(Fields { rows: rows.at(0, n_rows), weights: weights.at(0, n_rows), ..fields });
    // SAFETY: rows and columns of both were checked; the kernel leaves rows out that `out` does not have.
    unsafe { device(out).launch(&args, grid(n_rows, width)) }
}
