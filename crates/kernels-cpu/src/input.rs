//! Activations prepared for linear layers. Goes in: rows of f32, one for each token. Comes out: the same rounded once,
//! padded, and packed in the order in which the kernels read them. Next in the flow: input/integers.rs, linear/mod.rs.

mod integers;

use crate::isa::Kind;
use crate::lanes::{Body, Lanes};
use crate::{Isa, Pool};
pub(crate) use integers::{Integers, RUN_COLS, Run};
use netweight_layout::CELL_COLS;

/// Tokens of a block of `floats`.
pub(crate) const FLOAT_TOKENS: usize = 8;
/// Tokens of a block of `words`: rows of an AMX tile.
pub(crate) const WORD_TOKENS: usize = 16;
/// The least magnitude that activations of [`Precision::Bf16`] have, besides 0: 2^-48 as bits. With weights of 2^-62
/// or more no product is subnormal, and hardware that flushes subnormals is exact.
const LEAST_BITS: u32 = (127 - 48) << 23;

/// What a linear layer takes its activations as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// Rounded to bf16, to the nearest, ties to even; magnitudes below 2^-48 are +0.
    Bf16,
    /// As they are.
    F32,
    /// Rounded to int8, with a scale for each token and run of 64 columns: for matrices of indices alone, whose products
    /// are then sums of integers.
    Int8,
}

impl Precision {
    /// `"bf16"`, `"f32"` or `"int8"`.
    pub fn name(self) -> &'static str {
        match self {
            Precision::Bf16 => "bf16",
            Precision::F32 => "f32",
            Precision::Int8 => "int8",
        }
    }

    /// The activation that is multiplied where `x` is given; for int8, before it is rounded together with its run.
    #[inline(always)]
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 | Precision::Int8 => x,
            Precision::Bf16 => f32::from_bits(u32::from(round_to_bf16(x)) << 16),
        }
    }
}

/// Branches compile to selects: the loop over a row is vector code.
#[inline(always)]
fn round_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    let magnitude = bits & 0x7fff_ffff;
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    let finite = if magnitude < LEAST_BITS { 0 } else { rounded };
    ((if magnitude > 0x7f80_0000 { bits | 0x0040_0000 } else { finite }) >> 16) as u16
}

/// 64 bytes that lie in one cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line<T>(pub(crate) T);

/// The activations of one call: see [`Input::set`].
pub struct Input {
    max_tokens: usize,
    max_cols: usize,
    n_tokens: usize,
    cols: usize,
    precision: Precision,
    /// Whether the call may use AMX.
    has_words: bool,
    /// Blocks of 8 tokens, each (n_cells, width, 32): the last block's width is the least power of two that has room
    /// for its tokens.
    floats: Vec<Line<[f32; 16]>>,
    /// Blocks of 16 tokens, each (n_cells, width, 32) in bf16: width 16, or the number of tokens where it is less.
    /// Filled where `has_words` says so.
    words: Vec<Line<[u16; CELL_COLS]>>,
    /// Filled in precision int8, and then alone.
    integers: Integers,
}

impl Input {
    /// Room for (max_tokens, max_cols) activations.
    pub fn new(max_tokens: usize, max_cols: usize) -> Input {
        let n_cells = max_cols.div_ceil(CELL_COLS);
        let n_float_lines = max_tokens.next_multiple_of(FLOAT_TOKENS) * n_cells * 2;
        let n_word_lines = max_tokens.next_multiple_of(WORD_TOKENS) * n_cells;
        Input {
            max_tokens,
            max_cols,
            n_tokens: 0,
            cols: 0,
            precision: Precision::F32,
            has_words: false,
            floats: vec![Line([0.0; 16]); n_float_lines],
            words: vec![Line([0; CELL_COLS]); n_word_lines],
            integers: Integers::new(max_tokens, max_cols),
        }
    }

    /// Takes (n_tokens, cols) activations: row `token` begins at `x[token * stride]`.
    ///
    /// # Panics
    /// Where rows are longer than `stride` or end after `x`, or there is no room for them.
    pub fn set(
        &mut self,
        isa: Isa,
        pool: &Pool,
        x: &[f32], // (n_tokens, stride), of which `cols` of each row are read
        stride: usize,
        shape: [usize; 2],
        precision: Precision,
    ) {
        self.set_scaled(isa, pool, (x, stride), shape, &[], precision);
    }

    /// As [`Input::set`], with activations that are multiplied with `scales`, the column steps of a grid, before they are
    /// rounded. No scales stand for ones.
    ///
    /// # Panics
    /// As [`Input::set`], and where there are other scales than columns.
    pub fn set_scaled(
        &mut self,
        isa: Isa,
        pool: &Pool,
        (x, stride): (&[f32], usize), // (n_tokens, stride), of which `cols` of each row are read
        [n_tokens, cols]: [usize; 2],
        scales: &[f32], // (cols), or none
        precision: Precision,
    ) {
        assert!(scales.is_empty() || scales.len() == cols, "{} scales for {cols} columns", scales.len());
        assert!(n_tokens <= self.max_tokens && cols <= self.max_cols, "({n_tokens}, {cols}) activations");
        assert!(cols > 0 && (cols <= stride || n_tokens <= 1), "rows of {cols} in a stride of {stride}");
        (self.n_tokens, self.cols, self.precision) = (n_tokens, cols, precision);
        self.has_words = precision == Precision::Bf16 && isa.kind() == Kind::Amx;
        if precision == Precision::Int8 {
            return self.integers.set(isa, pool, (x, stride), [n_tokens, cols], scales);
        }
        let row = |token: usize| if token < n_tokens { &x[token * stride..][..cols] } else { &[] };
        let (n_cells, word_width) = (self.n_cells(), self.word_width());
        let n_float_lines = self.n_float_blocks() * FLOAT_TOKENS * n_cells * 2;
        pool.run_rows(&mut self.floats[..n_float_lines], FLOAT_TOKENS * n_cells * 2, 1, &|block_idx, lines, _| {
            let width = float_width(n_tokens, block_idx);
            for token in 0..width {
                let x = row(block_idx * FLOAT_TOKENS + token);
                isa.dispatch(PackFloats {
                    x,
                    scales,
                    lines: &mut lines[..2 * width * n_cells],
                    width,
                    token,
                    precision,
                });
            }
        });
        let n_word_lines = if self.has_words { self.n_word_blocks() * WORD_TOKENS * n_cells } else { 0 };
        pool.run_rows(&mut self.words[..n_word_lines], WORD_TOKENS * n_cells, 1, &|block_idx, lines, _| {
            for token in 0..word_width {
                let x = row(block_idx * WORD_TOKENS + token);
                isa.dispatch(PackWords {
                    x,
                    scales,
                    lines: &mut lines[..word_width * n_cells],
                    width: word_width,
                    token,
                });
            }
        });
    }

    /// Number of tokens.
    pub fn n_tokens(&self) -> usize {
        self.n_tokens
    }

    /// Activations of a token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// What activations were rounded to.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Activations of precision int8.
    pub(crate) fn integers(&self) -> &Integers {
        assert!(self.precision == Precision::Int8, "integers are there in precision int8 only");
        &self.integers
    }

    /// Most tokens there is room for.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    pub(crate) fn n_cells(&self) -> usize {
        self.cols.div_ceil(CELL_COLS)
    }

    pub(crate) fn n_float_blocks(&self) -> usize {
        self.n_tokens.div_ceil(FLOAT_TOKENS)
    }

    /// Tokens of a block with padding: 1, 2, 4 or 8.
    pub(crate) fn float_width(&self, block_idx: usize) -> usize {
        float_width(self.n_tokens, block_idx)
    }

    /// (n_cells, width, 2) lines of a block.
    pub(crate) fn float_block(&self, block_idx: usize) -> &[Line<[f32; 16]>] {
        &self.floats[self.float_begin(block_idx)..][..self.n_cells() * self.float_width(block_idx) * 2]
    }

    fn float_begin(&self, block_idx: usize) -> usize {
        block_idx * FLOAT_TOKENS * self.n_cells() * 2
    }

    #[cfg(target_arch = "x86_64")]
    /// Whether activations are bf16 and were packed for AMX.
    pub(crate) fn has_words(&self) -> bool {
        self.has_words
    }

    pub(crate) fn n_word_blocks(&self) -> usize {
        self.n_tokens.div_ceil(WORD_TOKENS)
    }

    /// Tokens of each block with padding, 1 to 16.
    pub(crate) fn word_width(&self) -> usize {
        self.n_tokens.min(WORD_TOKENS)
    }

    #[cfg(target_arch = "x86_64")]
    /// (n_cells, width) lines of a block.
    pub(crate) fn word_block(&self, block_idx: usize) -> &[Line<[u16; CELL_COLS]>] {
        assert!(self.has_words, "words are there in bf16 and for AMX only");
        &self.words[self.word_begin(block_idx)..][..self.n_cells() * self.word_width()]
    }

    #[cfg(target_arch = "x86_64")]
    fn word_begin(&self, block_idx: usize) -> usize {
        block_idx * WORD_TOKENS * self.n_cells()
    }
}

fn float_width(n_tokens: usize, block_idx: usize) -> usize {
    (n_tokens - block_idx * FLOAT_TOKENS).min(FLOAT_TOKENS).next_power_of_two()
}

/// Packs the activations of one token of a block of floats.
struct PackFloats<'a> {
    x: &'a [f32],
    scales: &'a [f32],
    lines: &'a mut [Line<[f32; 16]>], // (n_cells, width, 2)
    width: usize,
    token: usize,
    precision: Precision,
}

impl Body for PackFloats<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let half_cells = self.lines.chunks_exact_mut(2 * self.width).flat_map(|cell| &mut cell[2 * self.token..][..2]);
        match self.precision {
            Precision::Bf16 => fill(half_cells, self.x, self.scales, |x| Precision::Bf16.round(x)),
            _ => fill(half_cells, self.x, self.scales, |x| x),
        }
    }
}

/// Packs the activations of one token of a block of words.
struct PackWords<'a> {
    x: &'a [f32],
    scales: &'a [f32],
    lines: &'a mut [Line<[u16; CELL_COLS]>], // (n_cells, width)
    width: usize,
    token: usize,
}

impl Body for PackWords<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        fill(self.lines.iter_mut().skip(self.token).step_by(self.width), self.x, self.scales, round_to_bf16);
    }
}

/// Fills lines with rounded activations, scaled before where there are scales, and what is left of them with zeros.
#[inline(always)]
fn fill<'a, T: Copy + Default + 'a, const N: usize>(
    lines: impl Iterator<Item = &'a mut Line<[T; N]>>,
    mut x: &[f32],
    mut scales: &[f32],
    round: impl Fn(f32) -> T,
) {
    for Line(line) in lines {
        let (now, rest) = x.split_at(x.len().min(N));
        x = rest;
        if !scales.is_empty() {
            let (scales_now, rest) = scales.split_at(now.len().min(scales.len()));
            scales = rest;
            *line = [T::default(); N];
            line.iter_mut().zip(now).zip(scales_now).for_each(|((out, &x), &scale)| *out = round(x * scale));
            continue;
        }
        if let Some(now) = now.first_chunk::<N>() {
            for idx in 0..N {
                line[idx] = round(now[idx]);
            }
        } else {
            *line = [T::default(); N];
            line.iter_mut().zip(now).for_each(|(out, &x)| *out = round(x));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding() {
        let check = |x: f32, expected: f32| {
            assert_eq!(Precision::Bf16.round(x).to_bits(), expected.to_bits(), "{x:e}");
            assert_eq!(Precision::F32.round(x).to_bits(), x.to_bits());
        };
        check(1.0, 1.0);
        check(f32::from_bits(0x3f80_8000), 1.0);
        check(f32::from_bits(0x3f80_8001), f32::from_bits(0x3f81_0000));
        check(f32::from_bits(0x3f81_8000), f32::from_bits(0x3f82_0000));
        check(-0.0, 0.0);
        check(f32::from_bits(LEAST_BITS), 2f32.powi(-48));
        check(-f32::from_bits(LEAST_BITS - 1), 0.0);
        check(f32::MAX, f32::INFINITY);
        check(f32::NEG_INFINITY, f32::NEG_INFINITY);
        assert!(Precision::Bf16.round(f32::from_bits(0x7f80_0001)).is_nan());
        assert!(Precision::Bf16.round(f32::from_bits(0xffff_ffff)).is_nan());
    }
}
