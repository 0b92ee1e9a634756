//! Weights of a linear layer on a GPU, wherever they are. Next in the flow: backend.rs.

use netweight_kernels_cuda::{HostMatrix, Matrix, Slots, View, WideMatrix};

/// A weight matrix with its bias.
pub enum CudaLinear {
    /// bf16, in the GPU's memory.
    Resident(Matrix),
    /// bf16, in the host's memory: index into [`Streamed`].
    Streamed(usize),
    /// f16, f32, or bf16 for activations that are not rounded: in the GPU's memory, as the checkpoint has it.
    Wide(WideMatrix),
}

/// Matrices that stay in the host's memory, in the order in which a forward pass uses them, and their slots.
pub struct Streamed {
    slots: Slots, // dropped first: it waits for copies of the matrices
    matrices: Vec<HostMatrix>,
}

impl Streamed {
    /// All that there are.
    pub fn new(matrices: Vec<HostMatrix>, slots: Slots) -> Streamed {
        Streamed { slots, matrices }
    }

    /// Has matrices brought to their slots, unless they are there.
    ///
    /// # Errors
    /// The driver's.
    pub fn fetch(&mut self, indices: impl Iterator<Item = usize>) -> netweight_kernels_cuda::Result<()> {
        for idx in indices {
            self.slots.fetch(idx, &self.matrices[idx])?;
        }
        Ok(())
    }

    /// A matrix that was fetched.
    ///
    /// # Errors
    /// The driver's.
    pub fn view(&self, idx: usize) -> netweight_kernels_cuda::Result<View<'_>> {
        self.slots.view(idx, &self.matrices[idx])
    }

    /// Kernels that use them have been issued: their slots are for those that come next.
    ///
    /// # Errors
    /// The driver's.
    pub fn used(&mut self, indices: impl Iterator<Item = usize> + Clone) -> netweight_kernels_cuda::Result<()> {
        for idx in indices.clone() {
            self.slots.used(idx)?;
        }
        let (n_slots, n_matrices) = (self.slots.len(), self.matrices.len());
        let next = |idx: usize| if idx + n_slots < n_matrices { idx + n_slots } else { idx % n_slots };
        self.fetch(indices.map(next))
    }
}

impl CudaLinear {
    /// Where it stands in [`Streamed`], if it does.
    pub fn streamed_idx(&self) -> Option<usize> {
        match self {
            CudaLinear::Streamed(idx) => Some(*idx),
            _ => None,
        }
    }

    /// Whether its activations are not rounded.
    pub fn is_wide(&self) -> bool {
        matches!(self, CudaLinear::Wide(_))
    }

    /// The matrix, if it is in the GPU's memory, in a layout of tensor cores.
    pub fn resident(&self) -> Option<View<'_>> {
        match self {
            CudaLinear::Resident(matrix) => Some(matrix.view()),
            _ => None,
        }
    }

    /// The matrix, which is not wide, where it lies now; what streams in was fetched.
    ///
    /// # Errors
    /// The driver's.
    ///
    /// # Panics
    /// Where it is wide.
    pub fn view<'a>(&'a self, streamed: Option<&'a Streamed>) -> netweight_kernels_cuda::Result<View<'a>> {
        match (self, streamed) {
            (CudaLinear::Resident(matrix), _) => Ok(matrix.view()),
            (CudaLinear::Streamed(idx), Some(streamed)) => streamed.view(*idx),
            _ => {
                unreachable!("wide matrices have kernels of their own, and streamed ones are set before a forward pass")
            }
        }
    }
}
