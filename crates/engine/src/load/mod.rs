//! Weights from a store: matrices in their resident layout, vectors as f32.

mod resident;
mod transcode;
mod vectors;

pub use resident::map_matrices;
pub use transcode::{MatrixRequest, checked_entry, layout_for, load_matrices};
pub use vectors::{check_vector, load_vector};
