//! A weight matrix on a GPU, and how it gets there: [`Loader`] uploads rows, and the GPU encodes them. Next in the flow:
//! launch/linear.rs.

use std::marker::PhantomData;
use std::ops::Range;

use bytemuck::{Pod, Zeroable};

use crate::device::{Device, Memory, Pinned};
use crate::error::{Error, Result};
use crate::launch::{self, encode};
use crate::layout::{Layout, N_SLICES, STEP_COLS, Shape, TILE_ROWS};

/// Source bytes that are uploaded at once, and as many of the GPU's memory that a [`Loader`] takes.
pub const CHUNK_BYTES: usize = 32 << 20;

/// A weight matrix (rows, cols) on a GPU, with its bias.
#[derive(Debug)]
pub struct Matrix {
    pub(crate) layout: Layout,
    pub(crate) shape: Shape,
    pub(crate) weights: Memory<u32>,
    pub(crate) escapes: Memory<u32>,       // (n,)
    pub(crate) escape_starts: Memory<u32>, // (n_tiles * slices + 1)
    pub(crate) palettes: Memory<[u32; 2]>, // (n_tiles, Layout::n_palettes)
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

    /// What [`Matrix::pack`] gives.
    pub fn packed(&self) -> Packed {
        let n_escape_starts = self.escape_starts.len();
        let n_words = self.weights.len() + 2 * self.palettes.len() + n_escape_starts + self.escapes.len();
        Packed { layout: self.layout, shape: self.shape, n_escape_starts, n_words }
    }

    /// Copies the words, bias apart, to the host in one piece.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where `words` are not as many as [`Packed::n_words`] of [`Matrix::packed`].
    pub fn pack(&self, words: &mut [u32]) -> Result<Packed> {
        let packed = self.packed();
        assert_eq!(words.len(), packed.n_words);
        let (weights, rest) = words.split_at_mut(self.weights.len());
        let (palettes, rest) = rest.split_at_mut(2 * self.palettes.len());
        let (escape_starts, escapes) = rest.split_at_mut(self.escape_starts.len());
        self.weights.read(0, weights)?;
        self.palettes.read(0, bytemuck::cast_slice_mut(palettes))?;
        self.escape_starts.read(0, escape_starts)?;
        self.escapes.read(0, escapes)?;
        Ok(packed)
    }

    /// The matrix where it lies.
    pub fn view(&self) -> View<'_> {
        View {
            layout: self.layout,
            shape: self.shape,
            weights: self.weights.at(0, self.weights.len()),
            escapes: self.escapes.at(0, self.escapes.len()),
            escape_starts: self.escape_starts.at(0, self.escape_starts.len()),
            palettes: self.palettes.at(0, self.palettes.len()),
            bias: self.bias.as_ref().map_or(0, |bias| bias.at(0, self.shape.rows)),
            of: PhantomData,
        }
    }
}

/// A matrix in the GPU's memory, wherever that is: its own, or a slot that it was copied to.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub(crate) layout: Layout,
    pub(crate) shape: Shape,
    weights: u64,
    escapes: u64,
    escape_starts: u64,
    palettes: u64,
    bias: u64,
    of: PhantomData<&'a ()>,
}

impl View<'_> {
    /// What kernels are told of `rows` rows from `first_tile` on.
    ///
    /// # Panics
    /// Where there are fewer.
    pub(crate) fn args(&self, first_tile: usize, rows: usize, out_col: usize) -> MatrixArgs {
        assert!(first_tile * TILE_ROWS + rows <= self.shape.rows);
        let tile_words = self.layout.n_words(self.shape) / self.shape.n_tiles();
        let offset = |bytes_per_tile: usize| (first_tile * bytes_per_tile) as u64;
        MatrixArgs {
            weights: self.weights + offset(4 * tile_words),
            escapes: self.escapes,
            escape_starts: self.escape_starts + offset(4 * N_SLICES),
            palettes: self.palettes + offset(8 * self.layout.n_palettes()),
            bias: if self.bias == 0 { 0 } else { self.bias + offset(4 * TILE_ROWS) },
            rows: rows as u32,
            out_col: out_col as u32,
        }
    }

    /// Whether both have the same layout and as many columns, so that one launch takes them.
    pub fn is_like(&self, other: &View<'_>) -> bool {
        (self.layout, self.shape.cols) == (other.layout, other.shape.cols)
    }

    /// Whether both have the same layout and shape.
    pub fn is_same_kind(&self, other: &View<'_>) -> bool {
        (self.layout, self.shape) == (other.layout, other.shape)
    }

    /// Rows and columns.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn whole(&self, out_col: usize) -> MatrixArgs {
        self.args(0, self.shape.rows, out_col)
    }
}

impl MatrixArgs {
    pub(crate) fn rows(&self) -> usize {
        self.rows as usize
    }

    pub(crate) fn weights(&self) -> u64 {
        self.weights
    }

    pub(crate) fn bias(&self) -> u64 {
        self.bias
    }
}

/// What a matrix in one piece is: words of weights, palettes, where escapes start, escapes. The words may lie anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    layout: Layout,
    shape: Shape,
    n_escape_starts: usize,
    n_words: usize,
}

impl Packed {
    /// A matrix of so many words.
    ///
    /// # Errors
    /// `InvalidArgument` where they are too few.
    pub fn of(layout: Layout, shape: Shape, n_words: usize) -> Result<Packed> {
        let n_escape_starts = if layout == Layout::Rows { 0 } else { shape.n_tiles() * N_SLICES + 1 };
        let least = layout.n_words(shape) + 2 * shape.n_tiles() * layout.n_palettes() + n_escape_starts;
        if n_words < least {
            let name = layout.name();
            return Err(Error::InvalidArgument(format!("{n_words} words are too few for {name}: {least} are not")));
        }
        Ok(Packed { layout, shape, n_escape_starts, n_words })
    }

    /// The layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Rows and columns.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Words of four bytes.
    pub fn n_words(&self) -> usize {
        self.n_words
    }

    /// The matrix where its words begin at `words`, and its bias at `bias`, unless that is 0.
    pub(crate) fn view<'a>(&self, words: u64, bias: u64) -> View<'a> {
        let palettes = self.layout.n_words(self.shape);
        let escape_starts = palettes + 2 * self.shape.n_tiles() * self.layout.n_palettes();
        let at = |word: usize| words + 4 * word as u64;
        View {
            layout: self.layout,
            shape: self.shape,
            weights: words,
            escapes: at(escape_starts + self.n_escape_starts),
            escape_starts: at(escape_starts),
            palettes: at(palettes),
            bias,
            of: PhantomData,
        }
    }
}

/// A matrix in pinned memory of the host, in one piece, which is copied to the GPU each time it is used.
pub struct HostMatrix {
    packed: Packed,
    words: Pinned<u32>,
    bias: Option<Memory<f32>>, // (rows): small, so it stays on the GPU
}

impl HostMatrix {
    /// Takes a matrix off the GPU.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn take(matrix: Matrix) -> Result<HostMatrix> {
        let mut words = matrix.weights.device().pinned(matrix.packed().n_words)?;
        let packed = matrix.pack(words.as_mut_slice())?;
        Ok(HostMatrix { packed, words, bias: matrix.bias })
    }

    /// Words that a slot needs.
    pub fn len(&self) -> usize {
        self.packed.n_words
    }

    /// Whether there are none; no matrix is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The words.
    pub(crate) fn words(&self) -> &Pinned<u32> {
        &self.words
    }

    /// The matrix in a slot that it was copied to.
    ///
    /// # Panics
    /// Where the slot is smaller.
    pub(crate) fn view<'a>(&'a self, slot: &'a Memory<u32>) -> View<'a> {
        let bias = self.bias.as_ref().map_or(0, |bias| bias.at(0, self.packed.shape.rows));
        self.packed.view(slot.at(0, self.len()), bias)
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
        self.load_by(layout, shape, bias, |loader, rows| {
            let n_weights = rows.len() * shape.cols;
            read(rows, &mut loader.staging.as_mut_slice()[..n_weights])?;
            Ok(loader.source.copy_from(0, &loader.staging, 0, n_weights)?)
        })
    }

    /// Random weights with standard deviation `scale`, made on the GPU: weight (row, col) is value `row * cols + col` of
    /// the sequence of `seed`, whatever the layout. See [`twin::random_half`](crate::twin::random_half).
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn random(
        &mut self,
        layout: Layout,
        shape: Shape,
        bias: Option<&[f32]>,
        (seed, scale): (u64, f32),
    ) -> Result<Option<Matrix>> {
        self.load_by(layout, shape, bias, |loader, rows| {
            let first = (rows.start * shape.cols) as u64;
            launch::random_halves(&mut loader.source, rows.len() * shape.cols, (seed, first), scale)
        })
    }

    /// Loads rows that `bring` brings to `self.source`.
    fn load_by<E: From<Error>>(
        &mut self,
        layout: Layout,
        shape: Shape,
        bias: Option<&[f32]>,
        mut bring: impl FnMut(&mut Loader, Range<usize>) -> Result<(), E>,
    ) -> Result<Option<Matrix>, E> {
        let tile_weights = TILE_ROWS * shape.cols;
        if self.source.len() < tile_weights {
            *self = Loader::with_chunk(&self.device, tile_weights)?;
        }
        let chunk_tiles = self.source.len() / tile_weights;
        let mut filling = Filling::new(&self.device, layout, shape)?;
        for first_tile in (0..shape.n_tiles()).step_by(chunk_tiles) {
            let rows = first_tile * TILE_ROWS..((first_tile + chunk_tiles) * TILE_ROWS).min(shape.rows);
            bring(self, rows.clone())?;
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
        let matrix = Matrix {
            layout,
            shape,
            weights: device.zeroed(layout.n_words(shape))?,
            escapes: device.zeroed(0)?,
            escape_starts: device.zeroed(0)?,
            palettes: device.zeroed(shape.n_tiles() * layout.n_palettes())?,
            bias: None,
        };
        Ok(Filling { matrix, escapes: Vec::new(), escape_starts: vec![0] })
    }

    fn add(&mut self, source: &Memory<u16>, rows: Range<usize>) -> Result<()> {
        let (shape, first_tile) = (Shape { rows: rows.len(), ..self.matrix.shape }, rows.start / TILE_ROWS);
        let n_words = self.matrix.weights.len() / self.matrix.shape.n_tiles();
        let weights = (&mut self.matrix.weights, n_words * first_tile);
        let layout = self.matrix.layout;
        if layout == Layout::Rows {
            encode::pad_rows(source, shape, weights)?;
            return source.device().synchronize();
        }
        let palettes = (&mut self.matrix.palettes, first_tile * layout.n_palettes());
        let escapes = encode::exact(layout, source, shape, weights, palettes)?;
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
