//! Activations as int8. Goes in: rows of f32. Comes out: integers from -127 to 127 with a scale for each token and run
//! of 64 columns, packed as the integer kernels read them. Next in the flow: linear/integers/mod.rs.
//!
//! ```text
//! for each token, for each run of 64 columns:
//!     largest = the greatest magnitude of x * col_step
//!     scale = largest / 127,  q = round(x * col_step * (127 / largest)), ties to even
//! ```
//!
//! A run whose largest magnitude is below 2^-100 is zeros with scale 0. One with an Inf or a NaN has a NaN for its scale,
//! so that all of the token's sums are NaN.

use super::{Line, WORD_TOKENS};
use crate::lanes::{Body, Lanes};
use crate::{Isa, Pool};

/// Columns that have a scale in common: two cells, and a row of an AMX tile.
pub(crate) const RUN_COLS: usize = 64;
/// A run of smaller numbers is 0: the inverse of its scale would not be finite.
const LEAST: f32 = 1.0 / (1u128 << 100) as f32;
/// 1.5 * 2^23: what is added to it, below 2^22 in magnitude, is rounded to an integer that stands in the lower bits.
const ROUNDING: f32 = 12_582_912.0;

/// The integer activations of one call.
pub(crate) struct Integers {
    n_tokens: usize,
    n_runs: usize,
    blocks: Vec<Block>,
}

/// Up to 16 tokens.
pub(crate) struct Block {
    /// (n_runs, width, 64)
    pub(crate) values: Vec<Line<[i8; RUN_COLS]>>,
    /// (n_runs, width)
    pub(crate) runs: Vec<Run>,
}

/// What a run of one token has besides its values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) scale: f32,
    /// -128 times the sum of the values: what is to be added to products with indices that have 128 added.
    pub(crate) correction: i32,
}

impl Integers {
    pub(super) fn new(max_tokens: usize, max_cols: usize) -> Integers {
        let n = WORD_TOKENS.min(max_tokens) * max_cols.div_ceil(RUN_COLS);
        let block = |_| Block { values: vec![Line([0; RUN_COLS]); n], runs: vec![Run::default(); n] };
        Integers { n_tokens: 0, n_runs: 0, blocks: (0..max_tokens.div_ceil(WORD_TOKENS)).map(block).collect() }
    }

    /// See [`super::Input::set_scaled`], which has checked the arguments.
    pub(super) fn set(
        &mut self,
        isa: Isa,
        pool: &Pool,
        (x, stride): (&[f32], usize), // (n_tokens, stride)
        [n_tokens, cols]: [usize; 2],
        col_steps: &[f32], // (cols), or none
    ) {
        (self.n_tokens, self.n_runs) = (n_tokens, cols.div_ceil(RUN_COLS));
        let width = self.width();
        let n_blocks = self.n_blocks();
        pool.run_rows(&mut self.blocks[..n_blocks], 1, 1, &|block_idx, blocks, _| {
            for token in 0..width {
                let token_idx = block_idx * WORD_TOKENS + token;
                let x = if token_idx < n_tokens { &x[token_idx * stride..][..cols] } else { &[] };
                isa.dispatch(Pack {
                    x,
                    col_steps,
                    block: &mut blocks[0],
                    n_runs: cols.div_ceil(RUN_COLS),
                    width,
                    token,
                });
            }
        });
    }

    pub(crate) fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    pub(crate) fn n_runs(&self) -> usize {
        self.n_runs
    }

    pub(crate) fn n_blocks(&self) -> usize {
        self.n_tokens.div_ceil(WORD_TOKENS)
    }

    /// Tokens of each block, with padding where there are more than 16 tokens in all.
    pub(crate) fn width(&self) -> usize {
        self.n_tokens.min(WORD_TOKENS)
    }

    /// Tokens 16 * `block_idx` and after.
    pub(crate) fn block(&self, block_idx: usize) -> &Block {
        &self.blocks[..self.n_blocks()][block_idx]
    }
}

/// Packs one token of a block.
struct Pack<'a> {
    x: &'a [f32],         // (cols), or none for a token of padding
    col_steps: &'a [f32], // (cols), or none
    block: &'a mut Block,
    n_runs: usize,
    width: usize,
    token: usize,
}

impl Body for Pack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        for run_idx in 0..self.n_runs {
            let cols = self.x.len().min(run_idx * RUN_COLS)..self.x.len().min((run_idx + 1) * RUN_COLS);
            let mut scaled = [0.0; RUN_COLS];
            scaled[..cols.len()].copy_from_slice(&self.x[cols.clone()]);
            if !self.col_steps.is_empty() {
                scaled.iter_mut().zip(&self.col_steps[cols]).for_each(|(x, step)| *x *= step);
            }
            let at = run_idx * self.width + self.token;
            self.block.runs[at] = quantize(&scaled, &mut self.block.values[at].0);
        }
    }
}

/// Loops compile to vector code, whose sums and maxima do not depend on their order.
#[inline(always)]
fn quantize(x: &[f32; RUN_COLS], values: &mut [i8; RUN_COLS]) -> Run {
    let magnitude = |x: &f32| x.to_bits() & 0x7fff_ffff;
    let largest = f32::from_bits(x.iter().fold(0, |largest, x| largest.max(magnitude(x))));
    *values = [0; RUN_COLS];
    if !largest.is_finite() {
        return Run { scale: f32::NAN, correction: 0 };
    }
    if largest < LEAST {
        return Run::default();
    }
    let inverse = 127.0 / largest;
    let mut sum = 0;
    for (value, x) in values.iter_mut().zip(x) {
        *value = (x * inverse + ROUNDING).to_bits() as i8;
        sum += i32::from(*value);
    }
    Run { scale: largest / 127.0, correction: -128 * sum }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_rounded() {
        let check = |x: &[f32], expected: &[i8], scale: f32| {
            let mut padded = [0.0; RUN_COLS];
            padded[..x.len()].copy_from_slice(x);
            let mut values = [77; RUN_COLS];
            let run = quantize(&padded, &mut values);
            assert_eq!(&values[..x.len()], expected);
            assert!(values[x.len()..].iter().all(|&value| value == 0));
            let sum: i32 = expected.iter().map(|&value| i32::from(value)).sum();
            assert_eq!((run.scale.to_bits(), run.correction), (scale.to_bits(), -128 * sum));
        };
        check(&[127.0, -127.0, 0.5, 1.5, 2.5, -0.5, -1.5], &[127, -127, 0, 2, 2, 0, -2], 1.0);
        check(&[-254.0, 254.0, 3.0, -3.0, 0.9], &[-127, 127, 2, -2, 0], 2.0);
        check(&[f32::MAX, -f32::MAX, 0.0], &[127, -127, 0], f32::MAX / 127.0);
        check(&[1e-38, -1e-39], &[0, 0], 0.0);
        check(&[1.0, f32::INFINITY], &[0, 0], f32::NAN);
        check(&[f32::NAN, 1.0], &[0, 0], f32::NAN);
        for bits in (LEAST.to_bits()..f32::INFINITY.to_bits()).step_by(9_999_991) {
            let mut values = [0; RUN_COLS];
            quantize(&[f32::from_bits(bits); RUN_COLS], &mut values);
            assert_eq!(values, [127; RUN_COLS]);
        }
    }
}
