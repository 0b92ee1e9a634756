//! What a worker needs while it multiplies: allocated once, for the largest call. Next in the flow: scalar.rs.

use crate::Pool;
use crate::input::{Line, WORD_TOKENS};
use netweight_layout::{CELL_COLS, READ_SLACK, TILE_ROWS};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Tiles that a kernel may take at once.
pub(crate) const MAX_TILES: usize = 8;
/// Lines of decoded weights: 32 KiB, to stay in the first-level cache.
pub(crate) const EXPANDED_LINES: usize = 512;

/// Room for every worker of a pool.
pub struct Scratch {
    workers: Vec<Mutex<Worker>>,
}

impl Scratch {
    /// Room for calls of up to `max_tokens` tokens on matrices of up to `max_cols` columns.
    pub fn new(pool: &Pool, max_tokens: usize, max_cols: usize) -> Scratch {
        Scratch { workers: (0..pool.n_threads()).map(|_| Mutex::new(Worker::new(max_tokens, max_cols))).collect() }
    }

    /// A worker's own; nobody else asks for it at the same time. What is in it does not matter: a panic leaves
    /// nothing bad behind.
    pub(crate) fn worker(&self, worker_idx: usize) -> MutexGuard<'_, Worker> {
        self.workers[worker_idx].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for one worker.
pub(crate) struct Worker {
    /// Decoded cells.
    pub(crate) expanded: Vec<Line<[f32; 16]>>,
    /// High bytes of each tile's escapes, and [`READ_SLACK`] bytes more: (16 * cols_padded + 64,)
    pub(crate) escapes: [Vec<u8>; MAX_TILES],
    pub(crate) sums: Sums,
}

impl Worker {
    /// Whether a call of so many tokens and columns fits.
    pub(crate) fn has_room(&self, n_tokens: usize, cols: usize) -> bool {
        let n_escapes = TILE_ROWS * cols.next_multiple_of(CELL_COLS) + READ_SLACK;
        n_tokens <= self.sums.tokens_padded && self.escapes.iter().all(|escapes| n_escapes <= escapes.len())
    }

    fn new(max_tokens: usize, max_cols: usize) -> Worker {
        Worker {
            expanded: vec![Line([0.0; 16]); EXPANDED_LINES],
            escapes: [(); MAX_TILES].map(|()| vec![0; TILE_ROWS * max_cols.next_multiple_of(CELL_COLS) + READ_SLACK]),
            sums: Sums::new(max_tokens),
        }
    }
}

/// (tile, token, row) sums of up to [`MAX_TILES`] tiles; tokens are padded to a multiple of 16.
pub(crate) struct Sums {
    tokens_padded: usize,
    lines: Vec<Line<[f32; TILE_ROWS]>>,
}

impl Sums {
    fn new(max_tokens: usize) -> Sums {
        let tokens_padded = max_tokens.next_multiple_of(WORD_TOKENS);
        Sums { tokens_padded, lines: vec![Line([0.0; TILE_ROWS]); MAX_TILES * tokens_padded] }
    }

    /// (tokens_padded, 16) sums of a tile.
    pub(crate) fn tile(&self, tile_idx: usize) -> &[Line<[f32; TILE_ROWS]>] {
        &self.lines[tile_idx * self.tokens_padded..][..self.tokens_padded]
    }

    /// (tokens_padded, 16) sums of a tile.
    pub(crate) fn tile_mut(&mut self, tile_idx: usize) -> &mut [Line<[f32; TILE_ROWS]>] {
        &mut self.lines[tile_idx * self.tokens_padded..][..self.tokens_padded]
    }
}
