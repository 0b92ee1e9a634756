//! What is known of a GPU's speed when a model is loaded, and the choice that follows. Next in the flow: decoder.rs.

use netweight_kernels_cuda as kernels;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, WideKind};
use netweight_layout::Layout;
use netweight_model::{Kind, Spec};

use super::choose::{Choice, Group, LEAST_GEMM_FROM, choose, groups, shapes};
use super::known::{Known, default_path};
use super::measured::{Budget, times};
use super::source::{Origin, kind_of};
use crate::options::LoadOptions;
use crate::{Error, Interrupt, Precision, Result};

/// The layout where nothing was measured.
pub const FIXED_LAYOUT: kernels::Layout = kernels::Layout::Exact12;

/// What is known of a model's matrices on a GPU.
pub struct Times {
    device: Device,
    groups: Vec<Group>,
    shapes: Vec<Shape>,
    known: Option<Known>,
}

impl Times {
    /// Measures what is not known, unless that is switched off, or no weight is bf16. It is done also where a layout is
    /// asked for: whether the vendor's library multiplies must not depend on the layout, for its sums have other bits.
    ///
    /// # Errors
    /// `File` where a matrix cannot be run, `Interrupted`, `Device`.
    pub fn new(
        origin: Origin<'_>,
        spec: &Spec,
        precision: Precision,
        device: &Device,
        options: &LoadOptions,
        interrupt: &Interrupt,
    ) -> Result<Times> {
        let groups = groups(spec);
        let shapes: Vec<Shape> = shapes(&groups).into_iter().map(|(shape, _)| shape).collect();
        let mut is_bf16 = false;
        for tensor in spec.tensors().filter(|tensor| tensor.kind != Kind::Vector) {
            is_bf16 |= precision == Precision::Bf16 && kind_of(origin, &tensor)? == WideKind::Bf16;
        }
        let is_off = std::env::var_os("NETWEIGHT_CUDA_CHOICE").is_some_and(|value| value == "off");
        let known = if options.measures && is_bf16 && !is_off {
            let known = times(device, &shapes, default_path().as_deref(), Budget::default(), interrupt)?;
            Some(known).filter(|known| shapes.iter().any(|&shape| known.seconds(device, shape).is_some()))
        } else {
            None
        };
        Ok(Times { device: device.clone(), groups, shapes, known })
    }

    /// Tokens of a batch from which on the vendor's GEMM takes over.
    pub fn gemm_from(&self) -> usize {
        let largest = self.known.as_ref().zip(self.shapes.first());
        largest.and_then(|(known, &shape)| known.gemm_from(&self.device, shape)).unwrap_or(LEAST_GEMM_FROM)
    }

    /// The layout of each matrix, in `room` bytes: the wanted one, or the fastest in steps of up to `step_tokens` tokens.
    ///
    /// # Errors
    /// `InvalidArgument` where GPUs do not have the wanted one.
    pub fn choose(&self, room: u64, step_tokens: usize, wanted: Option<Layout>) -> Result<Choice> {
        let for_all = |layout: kernels::Layout| {
            let names = self.groups.iter().flat_map(|group| &group.names);
            Choice { layouts: names.map(|name| (name.clone(), layout)).collect(), ..Choice::default() }
        };
        match (wanted, &self.known) {
            (Some(wanted), _) => of_gpus(wanted).map(for_all),
            (None, None) => Ok(for_all(FIXED_LAYOUT)),
            (None, Some(known)) => {
                Ok(choose(&self.groups, |shape| known.seconds(&self.device, shape), step_tokens, room))
            }
        }
    }
}

/// Whether GPUs have a layout of that name.
pub fn is_of_gpus(layout: Layout) -> bool {
    of_gpus(layout).is_ok()
}

/// A layout of that name on GPUs.
fn of_gpus(wanted: Layout) -> Result<kernels::Layout> {
    let all = kernels::Layout::ALL;
    all.into_iter().find(|layout| layout.name() == wanted.name()).ok_or_else(|| {
        let names = all.map(kernels::Layout::name).join(", ");
        Error::invalid(format!("a GPU has weights as one of {names}, not as {}", wanted.name()))
    })
}

impl Choice {
    /// What should be said of it.
    pub fn notes(&self) -> Vec<String> {
        let note = |n: usize| {
            format!("memory is short: {n} matrices lie in a layout that is smaller, and slower, than bf16 on this GPU")
        };
        (self.n_slower > 0).then(|| note(self.n_slower)).into_iter().collect()
    }
}
