//! Resident layouts: how a weight matrix lies in memory while a model runs.
//!
//! Goes in: rows of weights as a checkpoint has them. Comes out: *groups* of tiles, byte strings that a multiplication
//! reads from the first to the last byte while it decodes them; and the same weights back, bit for bit. The exact
//! layouts keep a bf16 weight in some 11.2 or 12 bits, the index layouts an index of a grid in about as many as its
//! entropy says. It knows bytes only: no threads, no devices, no models.
//!
//! ```
//! use netweight_layout::{Layout, Matrix};
//! // (rows, cols) = (20, 40) weights in bf16: each is 1.0 or -2.0.
//! let weight = |idx| if idx % 3 == 0 { [0x00, 0xc0] } else { [0x80, 0x3f] };
//! let weights: Vec<u8> = (0..20 * 40).flat_map(weight).collect();
//! let matrix = Matrix::encode(Layout::Exact11, 20, 40, &weights)?;
//! assert_eq!((matrix.n_tiles(), matrix.geometry().n_cells()), (2, 2));
//! assert_eq!(matrix.tile(1).cells.len(), 2 * Layout::Exact11.cell_bytes());
//! let mut back = vec![0; weights.len()];
//! matrix.decode(&mut back)?;
//! assert_eq!(back, weights);
//! # Ok::<(), netweight_layout::Error>(())
//! ```
//!
//! A matrix is cut into tiles of 16 rows, a tile into cells of 32 columns; both are padded with zero weights. Cells
//! have a size fixed by the layout ([`Layout::cell_bytes`]) and lie one after the other. As many tiles as make about
//! half a million weights are a group ([`Geometry`]): it is encoded ([`encode_group`]) and checked
//! ([`GroupView::parse`]) on its own. Groups may come from a file: whatever their bytes, reading them cannot panic.
//!
//! Suggested reading: `layout.rs` (the table), `geometry.rs`, `cell.rs`, `header.rs` (a group's bytes), `plain.rs`,
//! `exact.rs`, `exact11.rs`, `exact12.rs`, `index.rs`, `escapes.rs`, then `group.rs`, which puts them together.
#![deny(unsafe_code)]

mod error;
mod layout;

mod cell;
mod geometry;

mod header;
mod view;

mod exact;
mod exact11;
mod exact12;
mod index;
mod plain;

mod escapes;
mod palette;
mod wide;

mod group;

// Vector code; each file says why its `unsafe` is sound.
#[allow(unsafe_code)]
mod kernels;

mod aligned;
mod matrix;
mod packed;

pub use aligned::AlignedBytes;
pub use cell::{CELL_COLS, TILE_ROWS};
pub use error::{Error, Result};
pub use geometry::{Geometry, MAX_COLS};
pub use group::{decode_group, decode_tiles, encode_group};
pub use header::{ALIGNMENT, READ_SLACK};
pub use layout::Layout;
pub use matrix::{Matrix, Memory};
pub use packed::{PackedHead, PackedView};
pub use palette::Histogram;
pub use view::{GroupView, TileView};

#[cfg(test)]
mod tests;
