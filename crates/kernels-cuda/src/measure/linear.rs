//! How fast a linear layer is, in every layout and way.

use std::cell::RefCell;

use super::timing::{Contender, Effort, Timing, time};
use crate::device::{Device, Memory};
use crate::error::Result;
use crate::launch::{self, Buffer, Epilogue, Part, Prefill};
use crate::layout::{Layout, Shape};
use crate::matrix::{Loader, Matrix};

/// A way of computing a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The kernel that decodes as it multiplies.
    Fused(Layout),
    /// The vendor's GEMM, on raw rows as they are, or on what was decoded to scratch.
    Vendor(Layout),
}

/// What a linear layer is measured with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Tokens, at most.
    pub max_tokens: usize,
    /// Times that weights stand in memory, at most. What is measured is right where together they are larger than the
    /// second-level cache.
    pub max_copies: usize,
    /// What weights are made of.
    pub seed: u64,
}

/// Linear layers of one shape with random weights, in all layouts.
pub struct Linears {
    device: Device,
    shape: Shape,
    x: Buffer,
    out: RefCell<Buffer>,
    prefill: RefCell<Prefill>,
    matrices: Vec<(Layout, Vec<Matrix>)>, // layouts that are smaller than rows, and rows
}

impl Linears {
    /// Makes weights on the GPU.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn new(device: &Device, loader: &mut Loader, shape: Shape, setup: Setup) -> Result<Linears> {
        let mut x = Buffer::new(device, setup.max_tokens, shape.cols)?;
        let x_len = x.halves.len();
        launch::random_halves(&mut x.halves, x_len, (setup.seed ^ 1, 0), 1.0)?;
        let scale = 1.0 / (shape.cols.max(1) as f32).sqrt();
        let mut matrices = Vec::new();
        for layout in Layout::ALL {
            let n_copies = copies(device, layout, shape, setup.max_copies);
            let made = (0..n_copies).map(|_| loader.random(layout, shape, None, (setup.seed, scale)));
            match made.collect::<Result<Option<Vec<Matrix>>>>()? {
                Some(made) => matrices.push((layout, made)),
                None => continue, // as large as rows: so small that a palette for each tile is too much
            }
        }
        Ok(Linears {
            device: device.clone(),
            shape,
            x,
            out: RefCell::new(Buffer::new(device, setup.max_tokens, shape.rows)?),
            prefill: RefCell::new(Prefill::new(device, [shape].into_iter())?),
            matrices,
        })
    }

    /// Rows and columns.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The layouts, and bytes of the matrix in each.
    pub fn layouts(&self) -> impl Iterator<Item = (Layout, usize)> {
        self.matrices.iter().map(|(layout, copies)| (*layout, copies[0].len_bytes()))
    }

    /// Seconds of each way with `n_tokens` tokens; `None` where the vendor's library, or the layout, is not there.
    ///
    /// # Errors
    /// The driver's, the library's.
    pub fn time(&self, n_tokens: usize, ways: &[Way], effort: Effort) -> Result<Vec<Option<Timing>>> {
        let contenders = ways.iter().map(|&way| self.contender(n_tokens, way));
        let contenders = contenders.collect::<Result<Vec<Option<Contender<'_>>>>>()?;
        let is_there: Vec<bool> = contenders.iter().map(Option::is_some).collect();
        let mut contenders: Vec<Contender<'_>> = contenders.into_iter().flatten().collect();
        let mut timings = time(&self.device, &mut contenders, effort)?.into_iter();
        Ok(is_there.into_iter().map(|is_there| if is_there { timings.next() } else { None }).collect())
    }

    /// Seconds of decoding all of the matrix to bf16, which writes [`Linears::decoded_bytes`]; `None` where the layout is
    /// not there.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn time_decode(&self, layout: Layout, effort: Effort) -> Result<Option<Timing>> {
        let Some(matrices) = self.matrices_in(layout) else { return Ok(None) };
        let mut scratch: Memory<u32> = self.device.zeroed(self.shape.padded_len() / 2)?;
        let decode = |idx: usize| launch::decode(matrices[idx].view(), 0, &mut scratch).map(|_| ());
        let timings = time(&self.device, &mut [Contender::new(matrices.len(), decode)], effort)?;
        Ok(timings.first().copied())
    }

    /// Bytes of the matrix as bf16.
    pub fn decoded_bytes(&self) -> usize {
        2 * self.shape.padded_len()
    }

    fn matrices_in(&self, layout: Layout) -> Option<&[Matrix]> {
        self.matrices.iter().find(|(of, _)| *of == layout).map(|(_, copies)| &copies[..])
    }

    fn contender(&self, n_tokens: usize, way: Way) -> Result<Option<Contender<'_>>> {
        let (Way::Fused(layout) | Way::Vendor(layout)) = way;
        let Some(matrices) = self.matrices_in(layout) else { return Ok(None) };
        let fused = move |idx: usize| {
            let part = Part { matrix: matrices[idx].view(), out_col: 0 };
            launch::linear(&self.x, n_tokens, &[part], Epilogue::Store, &mut self.out.borrow_mut())
        };
        let vendor = move |idx: usize| {
            let (mut prefill, mut out) = (self.prefill.borrow_mut(), self.out.borrow_mut());
            prefill.linear(&self.x, n_tokens, (matrices[idx].view(), 0), false, &mut out)
        };
        if matches!(way, Way::Fused(_)) {
            return Ok(Some(Contender::new(matrices.len(), fused)));
        }
        if !vendor(0)? {
            return Ok(None);
        }
        let contender = Contender::new(matrices.len(), move |idx| vendor(idx).map(|_| ()));
        // Decoding goes on beside the multiplications, on another stream, and waits for what was before the capture.
        Ok(Some(if layout == Layout::Rows { contender } else { contender.never_captured() }))
    }
}

/// Copies that together are twice as large as the second-level cache.
fn copies(device: &Device, layout: Layout, shape: Shape, max_copies: usize) -> usize {
    let wanted = 2 * device.properties().l2_bytes as usize;
    wanted.div_ceil(layout.likely_bytes(shape).max(1)).clamp(1, max_copies.max(1))
}
