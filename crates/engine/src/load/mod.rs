//! Weights from a store: matrices in their resident layout, vectors as f32.

mod names;
mod resident;
mod spec;
mod transcode;
mod vectors;

pub use names::{check_tensors, load_transformed, name_in, request};
pub use resident::map_matrices;
pub use spec::{first_attention, read_spec};
pub use transcode::{MatrixRequest, Wanted, checked_entry, load_matrices};
