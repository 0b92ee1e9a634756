//! A weight matrix on a GPU, and how it gets there: [`Loader`] uploads rows, and the GPU encodes them. Next in the flow:
//! launch/linear.rs.

use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::device::{Device, Memory, Pinned};
use crate::error::{Error, Result};
use crate::launch::encode;
use crate::layout::{Layout, N_SLICES, STEP_COLS, Shape, TILE_ROWS};

/// Source bytes that are uploaded at once.
const CHUNK_BYTES: usize = 32 << 20;

/// A weight matrix (rows, cols) on a GPU, with its bias.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) layout: Layout,
    pub(crate) shape: Shape,
    pub(crate) weights: Memory<u32>,
    pub(crate) escapes: Memory<u32>,       // (n,)
    pub(crate) escape_starts: Memory<u32>, // (n_tiles * slices + 1)
    pub(crate) palettes: Memory<[u32; 2]>, // (n_tiles)
    pub(crate) bias: Option<Memory<f32>>,  // (rows)
}

/// `Matrix` of fragments.cuh.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct MatrixArgs {
    weights: u64,
    escapes: u64,
    escape_starts: u64,
    palettes: u64,
    bias: u64,
    rows: u32,
    out_col: u32,
}

impl Matrix {
    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows and columns.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of the GPU's memory, bias apart.
    pub fn len_bytes(&self) -> usize {
        let exact = self.escapes.len_bytes() + self.escape_starts.len_bytes() + self.palettes.len_bytes();
        self.weights.len_bytes() + exact
    }

    /// Copies of words of weights, escapes, where they start, and palettes: what tests compare.
    ///
    /// # Errors
    /// The driver's.
    #[doc(hidden)]
    #[allow(clippy::type_complexity)]
    pub fn contents(&self) -> Result<(Vec<u32>, Vec<u32>, Vec<u32>, Vec<[u32; 2]>)> {
        Ok((self.weights.to_vec()?, self.escapes.to_vec()?, self.escape_starts.to_vec()?, self.palettes.to_vec()?))
    }

    /// What kernels are told of rows from `first_tile` on.
    pub(crate) fn args(&self, first_tile: usize, out_col: usize) -> MatrixArgs {
        let Shape { rows, .. } = self.shape;
        let n_words = self.weights.len() / self.shape.n_tiles();
        let is_exact = self.layout != Layout::Rows;
        let of_tile = |n: usize| if is_exact { n * first_tile } else { 0 };
        MatrixArgs {
            weights: self.weights.at(n_words * first_tile, n_words),
            escapes: self.escapes.at(0, 0),
            escape_starts: self.escape_starts.at(of_tile(N_SLICES), usize::from(is_exact)),
            palettes: self.palettes.at(of_tile(1), usize::from(is_exact)),
            bias: self.bias.as_ref().map_or(0, |bias| bias.at(first_tile * TILE_ROWS, 1)),
            rows: (rows - first_tile * TILE_ROWS) as u32,
            out_col: out_col as u32,
        }
    }
}

impl MatrixArgs {
    pub(crate) fn rows(&self) -> usize {
        self.rows as usize
    }

    pub(crate) fn with_rows(self, rows: usize) -> MatrixArgs {
        MatrixArgs { rows: rows as u32, ..self }
    }
}

/// Brings matrices to a GPU, with buffers that it keeps from one to the next.
pub struct Loader {
    device: Device,
    staging: Pinned<u16>, // (chunk)
    source: Memory<u16>,  // (chunk)
}

impl Loader {
    /// # Errors
    /// `OutOfMemory`.
    pub fn new(device: &Device) -> Result<Loader> {
        Loader::with_chunk(device, CHUNK_BYTES / size_of::<u16>())
    }

    /// With room for as many weights at once; tests make it small.
    ///
    /// # Errors
    /// `OutOfMemory`.
    pub fn with_chunk(device: &Device, n_weights: usize) -> Result<Loader> {
        Ok(Loader { device: device.clone(), staging: device.pinned(n_weights)?, source: device.zeroed(n_weights)? })
    }

    /// Loads bf16 weights (rows, cols), which `read` gives row range by row range, ascending. `None` where an exact layout
    /// takes more bytes than the uncompressed one: weights like noise.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's, and those of `read`.
    pub fn load<E: From<Error>>(
        &mut self,
        layout: Layout,
        shape: Shape,
        bias: Option<&[f32]>,
        mut read: impl FnMut(Range<usize>, &mut [u16]) -> Result<(), E>,
    ) -> Result<Option<Matrix>, E> {
        let tile_weights = TILE_ROWS * shape.cols;
        if self.source.len() < tile_weights {
            *self = Loader::with_chunk(&self.device, tile_weights)?;
        }
        let chunk_tiles = self.source.len() / tile_weights;
        let mut filling = Filling::new(&self.device, layout, shape)?;
        for first_tile in (0..shape.n_tiles()).step_by(chunk_tiles) {
            let rows = first_tile * TILE_ROWS..((first_tile + chunk_tiles) * TILE_ROWS).min(shape.rows);
            let n_weights = rows.len() * shape.cols;
            read(rows.clone(), &mut self.staging.as_mut_slice()[..n_weights])?;
            self.source.copy_from(0, &self.staging, 0, n_weights)?;
            filling.add(&self.source, rows)?;
        }
        Ok(filling.finish(bias)?)
    }
}

/// A matrix that is being encoded, chunk after chunk of whole tiles.
struct Filling {
    matrix: Matrix,
    escapes: Vec<u32>,
    escape_starts: Vec<u32>,
}

impl Filling {
    fn new(device: &Device, layout: Layout, shape: Shape) -> Result<Filling> {
        let n_tiles = if layout == Layout::Rows { 0 } else { shape.n_tiles() };
        let n_words = match layout {
            Layout::Rows => shape.padded_len() / 2,
            Layout::Exact12 => shape.padded_len() / 8 * 3,
        };
        let matrix = Matrix {
            layout,
            shape,
            weights: device.zeroed(n_words)?,
            escapes: device.zeroed(0)?,
            escape_starts: device.zeroed(0)?,
            palettes: device.zeroed(n_tiles)?,
            bias: None,
        };
        Ok(Filling { matrix, escapes: Vec::new(), escape_starts: vec![0] })
    }

    fn add(&mut self, source: &Memory<u16>, rows: Range<usize>) -> Result<()> {
        let (shape, first_tile) = (Shape { rows: rows.len(), ..self.matrix.shape }, rows.start / TILE_ROWS);
        let n_words = self.matrix.weights.len() / self.matrix.shape.n_tiles();
        let weights = (&mut self.matrix.weights, n_words * first_tile);
        if self.matrix.layout == Layout::Rows {
            encode::pad_rows(source, shape, weights)?;
            return source.device().synchronize();
        }
        let palettes = (&mut self.matrix.palettes, first_tile);
        let escapes = encode::exact12(source, shape, weights, palettes)?;
        let first = self.escapes.len() as u32;
        self.escape_starts.extend(escapes.starts[1..].iter().map(|start| first + start));
        self.escapes.extend(escapes.entries);
        Ok(())
    }

    fn finish(mut self, bias: Option<&[f32]>) -> Result<Option<Matrix>> {
        let device = self.matrix.weights.device().clone();
        if self.matrix.layout != Layout::Rows {
            self.matrix.escapes = device.upload(&self.escapes)?;
            self.matrix.escape_starts = device.upload(&self.escape_starts)?;
            if self.matrix.len_bytes() > 2 * self.matrix.shape.padded_len() {
                return Ok(None);
            }
        }
        self.matrix.bias = bias.map(|bias| device.upload(bias)).transpose()?;
        Ok(Some(self.matrix))
    }
}

/// Columns that rows are padded to.
pub(crate) fn padded_cols(shape: Shape) -> usize {
    shape.n_steps() * STEP_COLS
}
