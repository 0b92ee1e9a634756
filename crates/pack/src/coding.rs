//! What the chunks of a payload are: pieces of a tensor that the codec coded (section 4), or groups of a resident
//! layout (section 7).

use netweight_container::ALIGNMENT;
use netweight_layout::Geometry;
use netweight_tensor::Dtype;

use crate::resident;

/// How the chunks of a payload are coded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Coding {
    /// By the codec, as elements of that dtype.
    Chunks(Dtype),
    /// As groups of a matrix.
    Groups(Geometry),
}

impl Coding {
    /// Bytes of the original that a chunk stands for, the last one aside. `coded_bytes`: those of a coded one.
    pub(crate) fn chunk_bytes(&self, coded_bytes: u64) -> u64 {
        match self {
            Coding::Chunks(_) => coded_bytes,
            Coding::Groups(geometry) => resident::group_bytes(geometry),
        }
    }

    /// Chunks begin at multiples of so many bytes.
    pub(crate) fn chunk_alignment(&self) -> u64 {
        match self {
            Coding::Chunks(_) => 1,
            Coding::Groups(_) => ALIGNMENT,
        }
    }
}
