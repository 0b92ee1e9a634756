//! A model on whatever computes: [`AnyDecoder`] is the CPU's or a GPU's decoder, chosen when it is loaded.

use netweight_kernels_cuda::driver;
use netweight_model::Spec;

use crate::decoder::{Batch, Choice, Decoder};
use crate::options::{DeviceChoice, LoadOptions, LoadReport};
use crate::store::Store;
use crate::{CpuDecoder, CudaDecoder, Interrupt, Result};

/// A model, ready to run.
pub enum AnyDecoder {
    /// On the CPU.
    Cpu(Box<CpuDecoder>),
    /// On an NVIDIA GPU.
    Cuda(Box<CudaDecoder>),
}

impl DeviceChoice {
    /// What [`DeviceChoice::Auto`] stands for here: the first GPU that can be used, where there is one.
    #[must_use]
    pub fn resolve(self) -> DeviceChoice {
        match (self, driver::devices()) {
            (DeviceChoice::Auto, Ok(gpus)) => {
                let usable = gpus.iter().position(|gpu| driver::check(gpu).is_ok());
                usable.map_or(DeviceChoice::Cpu, DeviceChoice::Cuda)
            }
            (DeviceChoice::Auto, Err(_)) => DeviceChoice::Cpu,
            (chosen, _) => chosen,
        }
    }
}

/// GPUs have no layouts for indices.
fn grids_on_a_gpu(store: &Store) -> Option<String> {
    let n_grids = store.n_grids();
    (n_grids > 0)
        .then(|| format!("{n_grids} tuned tensors run as their bf16 values: only the CPU multiplies with indices"))
}

/// Why a GPU or a driver that is here will not do; `None` where there is none.
fn why_no_gpu() -> Option<String> {
    match driver::devices() {
        Ok(gpus) => gpus.first().and_then(|gpu| driver::check(gpu).err()).map(|error| error.to_string()),
        Err(error @ netweight_kernels_cuda::Error::Unsupported(_)) => Some(error.to_string()),
        Err(_) => None,
    }
}

impl AnyDecoder {
    /// Loads a model to the device of `options`. `progress` hears of source bytes done.
    ///
    /// # Errors
    /// Those of [`CpuDecoder::load`] and [`CudaDecoder::load`]. A GPU that fails is an error: nothing falls back.
    pub fn load(
        store: &Store,
        options: &LoadOptions,
        interrupt: &Interrupt,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<AnyDecoder> {
        match options.device.resolve() {
            DeviceChoice::Cuda(ordinal) => {
                let device = driver::open(ordinal as u32)?;
                let mut decoder = CudaDecoder::load(store, &device, options, interrupt, progress)?;
                decoder.notes().extend(grids_on_a_gpu(store));
                Ok(AnyDecoder::Cuda(Box::new(decoder)))
            }
            _ => {
                let mut decoder = CpuDecoder::load(store, options, interrupt, progress)?;
                let unused = if options.device == DeviceChoice::Auto { why_no_gpu() } else { None };
                decoder.notes().extend(unused.map(|why| format!("no GPU is used: {why}")));
                let is_limited = options.gpu_memory.is_some();
                decoder.notes().extend(is_limited.then(|| "the limit of GPU memory is none of the CPU's".to_owned()));
                Ok(AnyDecoder::Cpu(Box::new(decoder)))
            }
        }
    }

    /// What loading did.
    pub fn report(&self) -> &LoadReport {
        match self {
            AnyDecoder::Cpu(decoder) => decoder.report(),
            AnyDecoder::Cuda(decoder) => decoder.report(),
        }
    }

    /// The model's declaration.
    pub fn spec(&self) -> &Spec {
        match self {
            AnyDecoder::Cpu(decoder) => decoder.spec(),
            AnyDecoder::Cuda(decoder) => decoder.spec(),
        }
    }

    /// Goes on with another number of threads of the CPU; a GPU's has none.
    ///
    /// # Errors
    /// As [`CpuDecoder::set_threads`].
    pub fn set_threads(&mut self, n_threads: usize) -> Result<()> {
        match self {
            AnyDecoder::Cpu(decoder) => decoder.set_threads(n_threads),
            AnyDecoder::Cuda(_) => Ok(()),
        }
    }

    fn decoder(&self) -> &dyn Decoder {
        match self {
            AnyDecoder::Cpu(decoder) => &**decoder,
            AnyDecoder::Cuda(decoder) => &**decoder,
        }
    }
}

impl Decoder for AnyDecoder {
    fn vocab_size(&self) -> usize {
        self.decoder().vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.decoder().max_positions()
    }

    fn max_batch_tokens(&self) -> usize {
        self.decoder().max_batch_tokens()
    }

    fn forward(&mut self, batch: &Batch<'_>, interrupt: &Interrupt, logits: &mut [f32]) -> Result<()> {
        match self {
            AnyDecoder::Cpu(decoder) => decoder.forward(batch, interrupt, logits),
            AnyDecoder::Cuda(decoder) => decoder.forward(batch, interrupt, logits),
        }
    }

    fn choose(&mut self, batch: &Batch<'_>, choice: &Choice, interrupt: &Interrupt) -> Result<Option<u32>> {
        match self {
            AnyDecoder::Cpu(decoder) => decoder.choose(batch, choice, interrupt),
            AnyDecoder::Cuda(decoder) => decoder.choose(batch, choice, interrupt),
        }
    }
}
