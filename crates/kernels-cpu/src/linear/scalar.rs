//! The definition of a linear layer: every other kernel gives these bits. Goes in: a tile and activations. Comes out:
//! (n_tokens, 16) sums. Next in the flow: fma.rs, the same for vector registers.
//!
//! ```text
//! for each token, for each of 16 rows:
//!     sum = +0
//!     for each cell of 32 columns, left to right:
//!         even = odd = +0
//!         for pair in 0..16:
//!             even = fma(w[2 * pair],     x[2 * pair],     even)
//!             odd  = fma(w[2 * pair + 1], x[2 * pair + 1], odd)
//!         sum = sum + (even + odd)
//! ```
//!
//! Q: Why two chains, and why do they begin anew in each cell? This is what AMX computes from two tiles of bf16 (Intel
//! SDM, TDPBF16PS), so that AMX can do it; and the chains of neighbouring cells overlap on any other hardware.

use super::LinearKernels;
use super::integers;
use super::scratch::Worker;
use super::tile::Tile;
use crate::input::{FLOAT_TOKENS, Input, Line};
use netweight_layout::{CELL_COLS, Layout, READ_SLACK, TILE_ROWS};

/// The table row.
pub(crate) static KERNELS: LinearKernels =
    LinearKernels { multiply, multiply_integers: integers::scalar::multiply, decode_row, tiles_at_once: |_| [1, 1] };

/// Weights of a cell.
pub(crate) const CELL_WEIGHTS: usize = TILE_ROWS * CELL_COLS;
/// Weights of a block of an exact cell.
const BLOCK_WEIGHTS: usize = 64;
/// Bytes of low halves at the end of an exact cell.
const LOW_BYTES: usize = CELL_WEIGHTS;

/// [`super::Multiply`].
pub(crate) fn multiply(tiles: &[Tile<'_>], input: &Input, worker: &mut Worker) {
    for (tile_idx, tile) in tiles.iter().enumerate() {
        expand_escapes(tile, &mut worker.escapes[0]);
        let sums = worker.sums.tile_mut(tile_idx);
        sums.fill(Line([0.0; TILE_ROWS]));
        let mut cells = Cells::new(tile, &worker.escapes[0]);
        let mut weights = [0.0; CELL_WEIGHTS];
        for cell_idx in 0..tile.n_cells {
            cells.decode_next(&mut weights);
            for (token, sums) in sums.iter_mut().enumerate().take(input.n_tokens()) {
                add_cell(&weights, &activations(input, token, cell_idx), &mut sums.0);
            }
        }
    }
}

/// The rows of one cell times the activations of one token.
fn add_cell(weights: &[f32; CELL_WEIGHTS], x: &[f32; CELL_COLS], sums: &mut [f32; TILE_ROWS]) {
    for (row, sum) in sums.iter_mut().enumerate() {
        let (mut even, mut odd) = (0.0f32, 0.0f32);
        for pair in 0..CELL_COLS / 2 {
            even = weights[2 * pair * TILE_ROWS + row].mul_add(x[2 * pair], even);
            odd = weights[(2 * pair + 1) * TILE_ROWS + row].mul_add(x[2 * pair + 1], odd);
        }
        *sum += even + odd;
    }
}

fn activations(input: &Input, token: usize, cell_idx: usize) -> [f32; CELL_COLS] {
    let block_idx = token / FLOAT_TOKENS;
    let at = (cell_idx * input.float_width(block_idx) + token % FLOAT_TOKENS) * 2;
    let lines = &input.float_block(block_idx)[at..at + 2];
    std::array::from_fn(|col| lines[col / 16].0[col % 16])
}

/// Decodes the cells of a tile one after the other, from the first.
pub(crate) struct Cells<'a> {
    tile: &'a Tile<'a>,
    /// High bytes of escapes, in order.
    escapes: &'a [u8],
    cell_idx: usize,
    n_escapes_read: usize,
}

impl<'a> Cells<'a> {
    /// `escapes` are those that [`expand_escapes`] gave; exact12 takes the tile's raw bytes instead.
    pub(crate) fn new(tile: &'a Tile<'a>, escapes: &'a [u8]) -> Cells<'a> {
        let escapes = if tile.layout == Layout::Exact12 { tile.raw } else { escapes };
        Cells { tile, escapes, cell_idx: 0, n_escapes_read: 0 }
    }

    /// The next cell as f32: weight (row, col) at `col * 16 + row`.
    pub(crate) fn decode_next(&mut self, weights: &mut [f32; CELL_WEIGHTS]) {
        let cell_bytes = self.tile.layout.cell_bytes();
        let cell = &self.tile.cells[self.cell_idx * cell_bytes..][..cell_bytes];
        self.cell_idx += 1;
        match self.tile.layout {
            Layout::F32 => {
                let words = cell.as_chunks::<4>().0;
                weights.iter_mut().zip(words).for_each(|(weight, word)| *weight = f32::from_le_bytes(*word));
            }
            Layout::F16 => {
                let words = cell.as_chunks::<2>().0;
                weights
                    .iter_mut()
                    .zip(words)
                    .for_each(|(weight, word)| *weight = half::f16::from_le_bytes(*word).to_f32());
            }
            Layout::Bf16 => {
                for (idx, word) in cell.as_chunks::<2>().0.iter().enumerate() {
                    let (pair, row, odd) = (idx / 32, idx / 2 % 16, idx % 2);
                    weights[(2 * pair + odd) * TILE_ROWS + row] = widen(word[0], word[1]);
                }
            }
            Layout::Exact11 | Layout::Exact12 => self.decode_exact(cell, weights),
            Layout::Index8 | Layout::Index4 | Layout::Index3 | Layout::Int4 => self.decode_indices(cell, weights),
        }
    }

    /// Byte `i` of block `block_idx`: `i = lane * 16 + half * 8 + row * 2 + odd` is row `4 * lane + row`, column
    /// `4 * block_idx + 2 * half + odd`.
    fn decode_exact(&mut self, cell: &[u8], weights: &mut [f32; CELL_WEIGHTS]) {
        let (codes, low) = cell.split_at(cell.len() - LOW_BYTES);
        for block_idx in 0..LOW_BYTES / BLOCK_WEIGHTS {
            for i in 0..BLOCK_WEIGHTS {
                let high = self.byte_of_code(codes, block_idx, i);
                weights[place(block_idx, i)] = widen(low[block_idx * BLOCK_WEIGHTS + i], high);
            }
        }
    }

    /// As [`Cells::decode_exact`], without low bytes: an index is its own value.
    fn decode_indices(&mut self, cell: &[u8], weights: &mut [f32; CELL_WEIGHTS]) {
        for block_idx in 0..CELL_WEIGHTS / BLOCK_WEIGHTS {
            for i in 0..BLOCK_WEIGHTS {
                let index = match self.tile.layout {
                    Layout::Index8 => cell[block_idx * BLOCK_WEIGHTS + i],
                    Layout::Int4 => code_of_4_bits(cell, block_idx, i).wrapping_sub(8),
                    _ => self.byte_of_code(cell, block_idx, i),
                };
                weights[place(block_idx, i)] = f32::from(index as i8);
            }
        }
    }

    /// The palette's byte, or the next escape.
    fn byte_of_code(&mut self, codes: &[u8], block_idx: usize, i: usize) -> u8 {
        let code = match self.tile.layout {
            Layout::Exact11 | Layout::Index3 => code_of_3_bits(codes, block_idx, i),
            _ => code_of_4_bits(codes, block_idx, i),
        };
        match usize::from(code) < self.tile.layout.n_palette() {
            true => self.tile.palette[usize::from(code)],
            false => self.next_escape(),
        }
    }

    /// 0 stands in where a damaged tile wants more escapes than there are.
    fn next_escape(&mut self) -> u8 {
        let high = self.escapes.get(self.n_escapes_read).copied().unwrap_or(0);
        self.n_escapes_read += 1;
        high
    }
}

/// Where weight `i` of a block stands among the weights of a cell.
fn place(block_idx: usize, i: usize) -> usize {
    let (lane, half, row, odd) = (i >> 4, i >> 3 & 1, i >> 1 & 3, i & 1);
    let (row, col) = (4 * lane + row, 4 * block_idx + 2 * half + odd);
    col * TILE_ROWS + row
}

fn code_of_4_bits(codes: &[u8], block_idx: usize, i: usize) -> u8 {
    codes[block_idx / 2 * BLOCK_WEIGHTS + i] >> (4 * (block_idx % 2)) & 15
}

fn code_of_3_bits(codes: &[u8], block_idx: usize, i: usize) -> u8 {
    let byte = |vector_idx: usize| codes[vector_idx * BLOCK_WEIGHTS + i];
    match block_idx {
        0..6 => byte(block_idx / 2) >> (3 * (block_idx % 2)) & 7,
        6 => byte(0) >> 6 | byte(2) >> 4 & 4,
        _ => byte(1) >> 6 | byte(2) >> 5 & 4,
    }
}

fn widen(low: u8, high: u8) -> f32 {
    f32::from_bits(u32::from(low) << 16 | u32::from(high) << 24)
}

/// High bytes, or indices, of the escapes of a tile of a layout with a second palette, in order, two for each byte of nibbles. `escapes` has room for as
/// many as the tile has weights.
pub(crate) fn expand_escapes(tile: &Tile<'_>, escapes: &mut [u8]) {
    let raw = &tile.raw[..tile.raw.len().saturating_sub(READ_SLACK)];
    let mut n_raw_read = 0;
    for (&byte, highs) in tile.nibbles.iter().zip(escapes.as_chunks_mut::<2>().0) {
        for (high, nibble) in highs.iter_mut().zip([byte & 15, byte >> 4]) {
            *high = tile.second[usize::from(nibble)];
            if nibble == 15 {
                *high = raw.get(n_raw_read).copied().unwrap_or(0) ^ tile.flip;
                n_raw_read += 1;
            }
        }
    }
}

/// [`super::DecodeRow`].
pub(crate) fn decode_row(tile: &Tile<'_>, row: usize, worker: &mut Worker, out: &mut [f32]) {
    expand_escapes(tile, &mut worker.escapes[0]);
    let mut cells = Cells::new(tile, &worker.escapes[0]);
    let mut weights = [0.0; CELL_WEIGHTS];
    for out in out.chunks_mut(CELL_COLS) {
        cells.decode_next(&mut weights);
        out.iter_mut().zip(weights.chunks_exact(TILE_ROWS)).for_each(|(out, column)| *out = column[row]);
    }
}
