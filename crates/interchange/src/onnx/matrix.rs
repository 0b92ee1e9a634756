//! A matrix of integers with a step for each row, and maybe one for each column: a grid of a tuned archive as it is, or
//! rows of floats rounded to the nearest. Comes out in the spellings that operators read: bytes, or digits of four bits.
//!
//! Q: Why digits? MatMulNBits of ONNX Runtime multiplies four-bit weights with floats on the fly. With eight bits it does
//! so only where activations are rounded to eight bits too, which costs a few percent of the logits' spread; exactly, it
//! unpacks the whole matrix for every token. Two products, of the high digits and of the low ones, are exact, read
//! as many bytes, and took a tenth of the time (4096x4096, two cores: 2.3 ms; unpacked 73 to 88 ms, by DequantizeLinear
//! 23 ms, floats 4.6 ms).
//!
//! Next in the flow: weights.rs, which makes nodes of it.

use netweight_container::{Error, Result};
use netweight_pack::Progress;
use rayon::prelude::*;

use super::graph::Attribute;
use crate::source::Source;
use crate::types::Type;

/// Indices that are read at once.
const BATCH_INDICES: usize = 1 << 23;
/// Weights of a row that share a scale, at most and at least: powers of two in between.
const BLOCK_COLS: [usize; 2] = [256, 16];

/// Where integers come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Origin {
    /// A grid's indices.
    Grid,
    /// Floats of that type, to be rounded.
    Rounded(Type),
}

/// A matrix of integers.
#[derive(Debug)]
pub(crate) struct Integers {
    /// The tensor in the checkpoint.
    pub(crate) tensor: String,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) row_steps: Vec<f32>, // (rows)
    /// `None`: all are 1.
    pub(crate) col_steps: Option<Vec<f32>>, // (cols)
    /// Whether all indices are -8 to 7: one digit says them.
    pub(crate) is_narrow: bool,
    origin: Origin,
}

/// A digit of an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Digit {
    /// `index + 8`, of a narrow matrix.
    Only,
    /// `(index + 128) / 16`, which counts from 8.
    High,
    /// `(index + 128) % 16`, which counts from 0.
    Low,
}

impl Digit {
    fn of(self, index: i8) -> u8 {
        match self {
            Digit::Only => (index + 8) as u8 & 15,
            Digit::High => (index as u8 ^ 0x80) >> 4,
            Digit::Low => index as u8 & 15,
        }
    }

    /// Packs a row, two to a byte, the first one low.
    fn pack(self, indices: &[i8], packed: &mut [u8]) {
        packed.fill(0);
        for (pair, byte) in indices.chunks(2).zip(packed) {
            *byte = pair.iter().rev().fold(0, |byte, index| byte << 4 | self.of(*index));
        }
    }
}

impl Integers {
    /// The grid that a tensor is stored as; `None` where it is not.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub(crate) fn grid(source: &Source, tensor: &str, progress: &dyn Progress) -> Result<Option<Integers>> {
        let Some((_, steps)) = source.grid(tensor) else { return Ok(None) };
        let (row_steps, cols) = (steps.row_steps.to_vec(), steps.col_steps.to_vec());
        let mut grid = Integers {
            tensor: tensor.to_owned(),
            rows: row_steps.len(),
            cols: cols.len(),
            row_steps,
            col_steps: cols.iter().any(|step| *step != 1.0).then_some(cols),
            is_narrow: true,
            origin: Origin::Grid,
        };
        let mut is_narrow = true;
        grid.each_batch(source, progress, &mut |indices| {
            is_narrow &= indices.par_chunks(1 << 16).all(|part| part.iter().all(|index| (-8..8).contains(index)));
            Ok(())
        })?;
        grid.is_narrow = is_narrow;
        Ok(Some(grid))
    }

    /// Rows of floats, each with the step that takes its largest value to 127.
    ///
    /// # Errors
    /// As [`Source::read`]; `InvalidArgument` where weights are not finite.
    pub(crate) fn rounded(
        source: &Source,
        (tensor, from): (&str, Type),
        (rows, cols): (usize, usize),
        progress: &dyn Progress,
    ) -> Result<Integers> {
        let mut matrix = Integers {
            tensor: tensor.to_owned(),
            rows,
            cols,
            row_steps: Vec::with_capacity(rows),
            col_steps: None,
            is_narrow: false,
            origin: Origin::Rounded(from),
        };
        let mut steps = Vec::with_capacity(rows);
        matrix.each_floats(source, from, progress, &mut |_, values| {
            let step = |row: &[f32]| row.iter().fold(0f32, |largest, value| largest.max(value.abs())) / 127.0;
            steps.extend(values.chunks_exact(cols).map(step));
            Ok(())
        })?;
        matrix.row_steps = steps;
        Ok(matrix)
    }

    /// Hands over indices of whole rows, in order.
    fn each_batch(
        &self,
        source: &Source,
        progress: &dyn Progress,
        take: &mut dyn FnMut(&[i8]) -> Result<()>,
    ) -> Result<()> {
        let mut indices = Vec::new();
        if let Origin::Rounded(from) = self.origin {
            return self.each_floats(source, from, progress, &mut |first, values| {
                indices.clear();
                for (row, step) in values.chunks_exact(self.cols).zip(&self.row_steps[first..]) {
                    indices.extend(row.iter().map(|value| nearest(*value, *step)));
                }
                take(&indices)
            });
        }
        let (shard, _) = source.grid(&self.tensor).ok_or_else(|| Error::corrupt("the grid is gone"))?;
        for (first, n_rows) in self.batches() {
            stop_if_told(progress)?;
            let mut bytes = vec![0; n_rows * self.cols];
            shard.read_indices(&self.tensor, first..first + n_rows, &mut bytes)?;
            indices.clear();
            indices.extend(bytes.iter().map(|byte| *byte as i8));
            take(&indices)?;
        }
        Ok(())
    }

    /// Hands over floats of whole rows, in order, with the first row's number.
    fn each_floats(
        &self,
        source: &Source,
        from: Type,
        progress: &dyn Progress,
        take: &mut dyn FnMut(usize, &[f32]) -> Result<()>,
    ) -> Result<()> {
        let decode = from.decode().ok_or_else(|| Error::unsupported("this type is not read"))?;
        let row_bytes = from.n_bytes(self.cols as u64).unwrap_or(0);
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for (first, n_rows) in self.batches() {
            stop_if_told(progress)?;
            bytes.resize(n_rows * row_bytes as usize, 0);
            source.read(&self.tensor, first as u64 * row_bytes, &mut bytes)?;
            values.resize(n_rows * self.cols, 0.0);
            decode(&bytes, &mut values);
            if values.iter().any(|value| !value.is_finite()) {
                let what = "it has weights that are not finite; such a matrix cannot be rounded to integers";
                return Err(Error::invalid(what).in_tensor(&self.tensor));
            }
            take(first, &values)?;
        }
        Ok(())
    }

    /// First rows and numbers of rows.
    fn batches(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (rows, batch_rows) = (self.rows, (BATCH_INDICES / self.cols.max(1)).max(1));
        (0..rows).step_by(batch_rows).map(move |first| (first, batch_rows.min(rows - first)))
    }

    /// Hands over the bytes of the indices, (rows, cols).
    ///
    /// # Errors
    /// As [`Source::read`]; what `sink` says.
    pub(crate) fn write_bytes(
        &self,
        source: &Source,
        progress: &dyn Progress,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        self.each_batch(source, progress, &mut |indices| {
            sink(&indices.iter().map(|index| *index as u8).collect::<Vec<u8>>())?;
            progress.advance(indices.len() as u64);
            Ok(())
        })
    }

    /// Hands over a digit of all indices, (rows, n_blocks, block_cols / 2).
    ///
    /// # Errors
    /// As [`Source::read`]; what `sink` says.
    pub(crate) fn write_digits(
        &self,
        digit: Digit,
        source: &Source,
        progress: &dyn Progress,
        sink: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let row_bytes = self.row_bytes();
        self.each_batch(source, progress, &mut |indices| {
            let mut packed = vec![0; indices.len() / self.cols * row_bytes];
            let rows = indices.par_chunks(self.cols).zip(packed.par_chunks_mut(row_bytes));
            rows.for_each(|(indices, packed)| digit.pack(indices, packed));
            progress.advance(indices.len() as u64 / 2);
            sink(&packed)
        })
    }

    /// Hands over the scales of a digit, (rows * n_blocks): a row's are equal.
    ///
    /// # Errors
    /// What `sink` says.
    pub(crate) fn write_scales(&self, digit: Digit, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let factor = if digit == Digit::High { 16.0 } else { 1.0 };
        let of_row = |step: &f32| std::iter::repeat_n((step * factor).to_le_bytes(), self.n_blocks());
        for steps in self.row_steps.chunks(1 << 14) {
            sink(&steps.iter().flat_map(of_row).flatten().collect::<Vec<u8>>())?;
        }
        Ok(())
    }

    /// Columns of a block: as many as divide the row.
    pub(crate) fn block_cols(&self) -> usize {
        let [most, least] = BLOCK_COLS;
        (1usize << self.cols.trailing_zeros().min(most.trailing_zeros())).max(least)
    }

    /// Blocks of a row.
    pub(crate) fn n_blocks(&self) -> usize {
        self.cols.div_ceil(self.block_cols())
    }

    /// Bytes of a row of digits.
    pub(crate) fn row_bytes(&self) -> usize {
        self.n_blocks() * self.block_cols() / 2
    }

    /// The digits that say the indices.
    pub(crate) fn digits(&self) -> &'static [Digit] {
        if self.is_narrow { &[Digit::Only] } else { &[Digit::High, Digit::Low] }
    }

    /// What MatMulNBits is told. Accuracy level 1: activations stay floats.
    pub(crate) fn attributes(&self) -> [(&'static str, Attribute<'static>); 5] {
        [
            ("K", Attribute::Int(self.cols as i64)),
            ("N", Attribute::Int(self.rows as i64)),
            ("bits", Attribute::Int(4)),
            ("block_size", Attribute::Int(self.block_cols() as i64)),
            ("accuracy_level", Attribute::Int(1)),
        ]
    }
}

fn stop_if_told(progress: &dyn Progress) -> Result<()> {
    if progress.is_interrupted() { Err(Error::interrupted()) } else { Ok(()) }
}

/// A row of zeros has the step 0.
fn nearest(value: f32, step: f32) -> i8 {
    if step == 0.0 { 0 } else { (value / step).round_ties_even() as i8 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_say_every_index() {
        for index in i8::MIN..=i8::MAX {
            let (high, low) = (i32::from(Digit::High.of(index)), i32::from(Digit::Low.of(index)));
            assert!((0..16).contains(&high) && (0..16).contains(&low));
            assert_eq!(16 * (high - 8) + low, i32::from(index));
        }
        for index in -8..8 {
            assert_eq!(i32::from(Digit::Only.of(index)) - 8, i32::from(index));
        }
    }

    #[test]
    fn digits_are_packed_from_the_low_half() {
        let mut packed = [0xff; 4];
        Digit::Only.pack(&[-8, 7, 0, -1, 3], &mut packed);
        assert_eq!(packed, [0xf0, 0x78, 0x0b, 0]);
    }

    #[test]
    fn blocks_divide_rows_where_they_can() {
        let check = |cols: usize, block_cols: usize, n_blocks: usize| {
            let matrix = Integers {
                tensor: String::new(),
                rows: 1,
                cols,
                row_steps: vec![1.0],
                col_steps: None,
                is_narrow: false,
                origin: Origin::Grid,
            };
            assert_eq!((matrix.block_cols(), matrix.n_blocks()), (block_cols, n_blocks), "{cols}");
        };
        check(4096, 256, 16);
        check(896, 128, 7);
        check(96, 32, 3);
        check(72, 16, 5);
        check(7, 16, 1);
    }
}
