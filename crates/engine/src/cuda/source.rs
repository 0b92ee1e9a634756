//! A store as a [`Source`] of weights on a GPU: rows are read and decoded on all cores of the host, and encoded on the
//! GPU, matrix by matrix; or random weights, which the GPU makes by itself. Next in the flow: backend.rs.

use std::collections::HashMap;
use std::ops::Range;

use bytemuck::cast_slice_mut;
use netweight_container::{Context, Error as FileError};
use netweight_kernels_cuda as kernels;
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, HostMatrix, Layout, Loader, Memory, WideKind, WideMatrix};
use netweight_model::{Kind, Source, Spec, Tensor};

use super::linear::CudaLinear;
use super::residence::Candidate;
use crate::load::{checked_entry, load_transformed, name_in, request};
use crate::store::Store;
use crate::{Error, Interrupt, Precision, Result};

/// Where weights come from.
#[derive(Clone, Copy)]
pub enum Origin<'a> {
    /// A checkpoint or an archive.
    Store(&'a Store),
    /// Made up: normal bf16, by this seed and the tensor's name; vectors are 1, biases 0.
    Random(u64),
}

/// Weights on their way into a model.
pub struct CudaSource<'a> {
    origin: Origin<'a>,
    device: Device,
    loader: Loader,
    precision: Precision,
    plan: HashMap<String, Planned>, // by the tensor's first name
    n_threads: usize,
    interrupt: &'a Interrupt,
    progress: &'a (dyn Fn(u64) + Sync),
    streamed: Vec<HostMatrix>,
    loaded: Vec<Loaded>,
}

/// How a matrix is to lie.
#[derive(Clone, Copy, Debug)]
pub struct Planned {
    /// Its layout, if it is bf16 and activations are rounded.
    pub layout: Layout,
    /// Whether it stays in the host's memory.
    pub streams: bool,
}

/// How a matrix lies.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Weights.
    pub n_weights: u64,
    /// Bytes.
    pub bytes: u64,
    /// The layout; `None` for weights as the checkpoint has them.
    pub layout: Option<Layout>,
    /// What elements of the checkpoint are.
    pub kind: WideKind,
    /// Whether it stays in the host's memory.
    pub streams: bool,
}

/// What elements of a tensor are.
///
/// # Errors
/// `File` where it cannot be run.
pub fn kind_of(origin: Origin<'_>, tensor: &Tensor) -> Result<WideKind> {
    let Origin::Store(store) = origin else { return Ok(WideKind::Bf16) };
    let entry = checked_entry(store, &request(store, tensor))?;
    match entry.dtype_name.as_str() {
        "BF16" => Ok(WideKind::Bf16),
        "F16" => Ok(WideKind::F16),
        "F32" => Ok(WideKind::F32),
        other => {
            let what = format!("weights of dtype {other} cannot be run; BF16, F16 and F32 can");
            Err(FileError::unsupported(what).in_tensor(&entry.name).into())
        }
    }
}

/// All matrices of a model in the order of the forward pass, and how large each is with `layout_of` it.
///
/// # Errors
/// `File` where one cannot be run.
pub fn candidates(
    origin: Origin<'_>,
    spec: &Spec,
    precision: Precision,
    layout_of: impl Fn(&Tensor) -> Layout,
) -> Result<Vec<(Tensor, Candidate)>> {
    let matrices = spec.tensors().filter(|tensor| tensor.kind != Kind::Vector);
    let candidate = |tensor: Tensor| {
        let (shape, kind) = (shape_of(&tensor), kind_of(origin, &tensor)?);
        let is_wide = kind != WideKind::Bf16 || precision == Precision::F32;
        let bytes = match is_wide {
            true => (shape.rows * shape.cols * kind.element_bytes()) as u64,
            false => layout_of(&tensor).likely_bytes(shape) as u64,
        };
        let may_stream = !is_wide && tensor.kind != Kind::Embedding;
        Ok((tensor, Candidate { bytes, may_stream }))
    };
    matrices.map(candidate).collect()
}

/// The shape of a matrix.
pub fn shape_of(tensor: &Tensor) -> Shape {
    Shape { rows: tensor.rows, cols: tensor.cols }
}

impl<'a> CudaSource<'a> {
    /// A source that follows a plan, which has every matrix.
    ///
    /// # Errors
    /// `Device` where memory is short.
    pub fn new(
        origin: Origin<'a>,
        device: &Device,
        precision: Precision,
        plan: HashMap<String, Planned>,
        n_threads: usize,
        interrupt: &'a Interrupt,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Result<CudaSource<'a>> {
        let (loader, device) = (Loader::new(device)?, device.clone());
        let (streamed, loaded) = (Vec::new(), Vec::new());
        Ok(CudaSource { origin, device, loader, precision, plan, n_threads, interrupt, progress, streamed, loaded })
    }

    /// Matrices that stream in, and how all matrices lie.
    pub fn finish(self) -> (Vec<HostMatrix>, Vec<Loaded>) {
        (self.streamed, self.loaded)
    }

    /// A vector's values; `made_up` where there is no store.
    fn values(&self, tensor: &Tensor, made_up: f32) -> Result<Vec<f32>> {
        match self.origin {
            Origin::Store(store) => load_transformed(store, tensor),
            Origin::Random(_) => Ok(vec![made_up; tensor.rows]),
        }
    }

    /// bf16, in the planned layout, or as it is where that takes more.
    fn fused(&mut self, tensor: &Tensor, planned: Planned, bias: Option<&[f32]>) -> Result<CudaLinear> {
        let shape = shape_of(tensor);
        let mut matrix = None;
        for layout in [planned.layout, Layout::Rows] {
            matrix = match self.origin {
                Origin::Store(store) => self.read(store, tensor, layout, bias)?,
                Origin::Random(seed) => {
                    self.interrupt.check()?;
                    let scale = 1.0 / (shape.cols.max(1) as f32).sqrt();
                    self.loader.random(layout, shape, bias, (seed_of(seed, tensor.name()), scale))?
                }
            };
            if matrix.is_some() {
                break;
            }
        }
        let matrix = matrix.ok_or_else(|| Error::invalid("bf16 as it is always fits"))?;
        (self.progress)((shape.rows * shape.cols * 2) as u64);
        self.loaded.push(Loaded {
            n_weights: (shape.rows * shape.cols) as u64,
            bytes: matrix.len_bytes() as u64,
            layout: Some(matrix.layout()),
            kind: WideKind::Bf16,
            streams: planned.streams,
        });
        if !planned.streams {
            return Ok(CudaLinear::Resident(matrix));
        }
        self.streamed.push(HostMatrix::take(matrix)?);
        Ok(CudaLinear::Streamed(self.streamed.len() - 1))
    }

    fn read(
        &mut self,
        store: &Store,
        tensor: &Tensor,
        layout: Layout,
        bias: Option<&[f32]>,
    ) -> Result<Option<kernels::Matrix>> {
        let (shape, name) = (shape_of(tensor), name_in(store, tensor));
        let (n_threads, interrupt) = (self.n_threads, self.interrupt);
        self.loader.load(layout, shape, bias, |rows: Range<usize>, out: &mut [u16]| {
            interrupt.check()?;
            let bytes = cast_slice_mut(out);
            read_on_threads(store, name, (rows.start * shape.cols * 2) as u64, bytes, n_threads)
        })
    }

    /// As the checkpoint has it.
    fn wide(&mut self, store: &Store, tensor: &Tensor, kind: WideKind, bias: Option<&[f32]>) -> Result<CudaLinear> {
        let (shape, name) = (shape_of(tensor), name_in(store, tensor));
        let mut bytes = vec![0; shape.rows * shape.cols * kind.element_bytes()];
        self.interrupt.check()?;
        read_on_threads(store, name, 0, &mut bytes, self.n_threads)?;
        let matrix = WideMatrix::upload(&self.device, kind, shape, &bytes, bias)?;
        (self.progress)(bytes.len() as u64);
        let n_weights = (shape.rows * shape.cols) as u64;
        self.loaded.push(Loaded { n_weights, bytes: bytes.len() as u64, layout: None, kind, streams: false });
        Ok(CudaLinear::Wide(matrix))
    }
}

/// FNV-1a over a tensor's name, from a seed on.
fn seed_of(seed: u64, name: &str) -> u64 {
    name.bytes()
        .fold(0xcbf2_9ce4_8422_2325 ^ seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Bytes of a tensor, a share for each thread.
fn read_on_threads(store: &Store, name: &str, offset: u64, out: &mut [u8], n_threads: usize) -> Result<()> {
    let share = out.len().div_ceil(n_threads.max(1)).next_multiple_of(1 << 20);
    std::thread::scope(|scope| {
        let read = |(idx, out): (usize, &mut [u8])| -> Result<()> {
            Ok(store.read(name, offset + (idx * share) as u64, out).in_tensor(name)?)
        };
        let threads: Vec<_> = out.chunks_mut(share).enumerate().map(|piece| scope.spawn(move || read(piece))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("reading does not panic"))
    })
}

impl Source for CudaSource<'_> {
    type Linear = CudaLinear;
    type Vector = Memory<f32>;
    type Error = Error;

    fn linear(&mut self, tensor: &Tensor) -> Result<CudaLinear> {
        let bias = tensor.bias.as_deref().map(|bias| self.values(bias, 0.0)).transpose()?;
        let planned = self.plan.get(tensor.name()).copied();
        let planned = planned.ok_or_else(|| Error::invalid(format!("{:?} is not planned", tensor.name())))?;
        match (kind_of(self.origin, tensor)?, self.origin) {
            (WideKind::Bf16, _) if self.precision == Precision::Bf16 => self.fused(tensor, planned, bias.as_deref()),
            (kind, Origin::Store(store)) => self.wide(store, tensor, kind, bias.as_deref()),
            (_, Origin::Random(_)) => Err(Error::invalid("random weights are bf16, and so are their activations")),
        }
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<Memory<f32>> {
        Ok(self.device.upload(&self.values(tensor, 1.0)?)?)
    }
}
