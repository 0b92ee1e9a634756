//! What the chunks of a payload are: pieces of a tensor that the codec coded (section 4), groups of a resident layout
//! (section 7), rows of a grid (section 8), or what such rows lack of the original (section 9).

use std::sync::Arc;

use netweight_container::ALIGNMENT;
use netweight_layout::Geometry;
use netweight_tensor::Dtype;

use crate::grid::Steps;
use crate::refined::Base;
use crate::resident;

/// How the chunks of a payload are coded.
#[derive(Clone, Debug)]
pub(crate) enum Coding {
    /// By the codec, as elements of that dtype.
    Chunks(Dtype),
    /// As groups of a matrix.
    Groups(Geometry),
    /// As rows of a grid.
    Grid(Arc<Steps>),
    /// As what rows lack whose indices another shard has.
    Refined(Arc<Base>),
}

impl Coding {
    /// Bytes of the original that a chunk stands for, the last one aside. `coded_bytes`: those of a coded one.
    pub(crate) fn chunk_bytes(&self, coded_bytes: u64) -> u64 {
        match self {
            Coding::Chunks(_) => coded_bytes,
            Coding::Groups(geometry) => resident::group_bytes(geometry),
            Coding::Grid(steps) => steps.chunk_bytes(),
            Coding::Refined(base) => base.chunk_bytes(),
        }
    }

    /// Chunks begin at multiples of so many bytes.
    pub(crate) fn chunk_alignment(&self) -> u64 {
        match self {
            Coding::Chunks(_) | Coding::Grid(_) | Coding::Refined(_) => 1,
            Coding::Groups(_) => ALIGNMENT,
        }
    }
}
