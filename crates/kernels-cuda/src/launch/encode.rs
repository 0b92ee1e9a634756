//! Rows of bf16 to resident layouts, on the GPU.

use bytemuck::{Pod, Zeroable};

use crate::device::{Args, Memory};
use crate::error::Result;
use crate::layout::{LANES, Layout, N_SLICES, Shape, TILE_ROWS};
use crate::matrix::padded_cols;
use crate::runtime::Grid;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct EncodeArgs {
    from: u64,
    palettes: u64,
    n_escapes: u64,
    weights: u64,
    escapes: u64,
    escape_starts: u64,
    n_rows: u32,
    cols: u32,
}

/// The kernels that take [`EncodeArgs`], by name.
macro_rules! encode_kernels {
    ($($kernel:ident = $name:literal),+ $(,)?) => {$(
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(transparent)]
        struct $kernel(EncodeArgs);
        impl Args for $kernel {
            const KERNEL: &'static str = $name;
        }
    )+};
}

encode_kernels!(
    ChoosePalettes = "choose_palettes",
    CountEscapes = "count_escapes",
    EncodeExact12 = "encode_exact12",
    ChoosePalettesExact11 = "choose_palettes_exact11",
    CountExact11 = "count_exact11",
    EncodeExact11 = "encode_exact11",
);

/// Escapes of some tiles, and what else varies in length.
pub(crate) struct Escapes {
    pub entries: Vec<u32>,
    pub starts: Vec<u32>, // (n_tiles * slices + 1)
}

/// Encodes bf16 `source` (rows, cols), whole tiles, in an exact layout, into tiles of `weights` and `palettes` that begin where the numbers
/// say. `palettes` and `weights` are a matrix's.
///
/// # Errors
/// `OutOfMemory`, the driver's.
pub(crate) fn exact(
    layout: Layout,
    source: &Memory<u16>,
    shape: Shape,
    (weights, first_word): (&mut Memory<u32>, usize),
    (palettes, first_palette): (&mut Memory<[u32; 2]>, usize),
) -> Result<Escapes> {
    let (device, n_tiles) = (source.device(), shape.n_tiles());
    let n_slices = n_tiles * N_SLICES;
    let n_escapes = device.zeroed::<u32>(n_slices)?;
    let mut args = EncodeArgs {
        from: source.at(0, shape.rows * shape.cols),
        palettes: palettes.at(first_palette, n_tiles * layout.n_palettes()),
        n_escapes: n_escapes.at(0, n_slices),
        weights: weights.at(first_word, layout.n_words(shape)),
        escapes: 0,
        escape_starts: 0,
        n_rows: shape.rows as u32,
        cols: shape.cols as u32,
    };
    let grid = Grid { blocks: [n_tiles as u32, 1, 1], threads: (N_SLICES * LANES) as u32, shared_bytes: 0 };
    // SAFETY: the lengths of all that these two touch were checked; they do not touch escapes.
    unsafe {
        if layout == Layout::Exact11 {
            device.launch(&ChoosePalettesExact11(args), grid)?;
            device.launch(&CountExact11(args), grid)?;
        } else {
            device.launch(&ChoosePalettes(args), grid)?;
            device.launch(&CountEscapes(args), grid)?;
        }
    }
    let mut starts = vec![0; n_slices + 1];
    n_escapes.read(0, &mut starts[1..])?;
    (0..n_slices).for_each(|idx| starts[idx + 1] += starts[idx]);
    let escapes = device.zeroed::<u32>(starts[n_slices] as usize)?;
    let starts_on_device = device.upload(&starts)?;
    args.escapes = escapes.at(0, escapes.len());
    args.escape_starts = starts_on_device.at(0, n_slices);
    // SAFETY: as above, and there is room for as many escapes as were counted.
    unsafe {
        if layout == Layout::Exact11 {
            device.launch(&EncodeExact11(args), grid)
        } else {
            device.launch(&EncodeExact12(args), grid)
        }
    }?;
    Ok(Escapes { entries: escapes.to_vec()?, starts })
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PadRowsArgs {
    from: u64,
    out: u64,
    n_rows: u32,
    cols: u32,
    out_stride: u32,
    padding: u32,
}

impl Args for PadRowsArgs {
    const KERNEL: &'static str = "pad_rows";
}

/// Lays out bf16 `source` (rows, cols) as `Layout::Rows`, from word `first_word` on.
///
/// # Errors
/// The driver's.
pub(crate) fn pad_rows(
    source: &Memory<u16>,
    shape: Shape,
    (weights, first_word): (&mut Memory<u32>, usize),
) -> Result<()> {
    let args = PadRowsArgs {
        from: source.at(0, shape.rows * shape.cols),
        out: weights.at(first_word, Layout::Rows.n_words(shape)),
        n_rows: shape.rows as u32,
        cols: shape.cols as u32,
        out_stride: padded_cols(shape) as u32,
        padding: 0,
    };
    let grid = Grid { blocks: [(shape.n_tiles() * TILE_ROWS) as u32, 1, 1], threads: 256, shared_bytes: 0 };
    // SAFETY: all rows were checked.
    unsafe { source.device().launch(&args, grid) }
}
