//! What a tensor is made of: element types, all in one table, and the checked size of a shape.
//!
//! Goes in: a dtype name from a safetensors header. Comes out: a [`Dtype`] row that says how wide an
//! element is and how the codec may take it apart. Next in the flow: `netweight-codec`.
//!
//! ```
//! use netweight_tensor::{Dtype, Layout, n_bytes};
//! let bf16 = Dtype::from_name("BF16");
//! assert_eq!(bf16.element_bytes(), 2);
//! assert_eq!(bf16.layout(), Layout::Float16 { exponent_bits: 8 });
//! assert_eq!(n_bytes(bf16, &[4096, 14336]), Some(117_440_512));
//! // A dtype that nobody has invented yet is carried as bytes.
//! assert_eq!(Dtype::from_name("F3_NEW").element_bytes(), 1);
//! ```
#![forbid(unsafe_code)]

mod dtype;
mod grid;

pub use dtype::{DTYPES, Dtype, Layout, Row, n_bytes};
pub use grid::{Grid, GridError, MAX_STEP, MIN_STEP, index_of, is_step, value_of};
