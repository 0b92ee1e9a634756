//! Near-lossless models inside a budget: how precise each matrix has to be, and the grid that says it in fewest bits.
//!
//! ```text
//! model, text -> calibrate -> Gram of each layer's input -> Feedback     what an error costs, and who makes it good
//! Feedback, weights, step -> quantize -> Grid                            small integers that entropy coding shortens
//! Tuner, model, text -> profile -> Sensitivity of each matrix            by forward passes alone
//! Sensitivity, Budget -> search -> steps that meet it, measured          one multiplier; uniform is tried too
//! Baseline                                                               what others do, in the same harness
//! ```
#![forbid(unsafe_code)]

mod error;

mod part;

mod calibrate;
mod gram;
mod hessian;

mod quantize;
mod rate;

mod weights;

mod baseline;

mod tuner;

mod profile;

mod allocate;

mod texts;

#[cfg(test)]
mod testing;

pub use allocate::{Allocation, BITS_RANGE, Budget, Plan, allocate, search};
pub use baseline::{BASELINES, Baseline, Dequantized};
pub use calibrate::{Calibration, MIN_TOKENS, calibrate};
pub use error::{Error, Result};
pub use gram::Gram;
pub use hessian::{Feedback, Order};
pub use profile::{HeadSensitivity, PROBE_BITS, Sensitivity, profile};
pub use quantize::{Coarseness, Quantized, quantize};
pub use rate::{CHUNK_WEIGHTS, Counts, coded_bits};
pub use texts::{CALIBRATION, HELD_OUT, OUT_OF_DOMAIN};
pub use tuner::{DAMPING, Measured, Tuner};
pub use weights::{MatrixInfo, matrices, read_matrix};
