//! Streams a tensor from one element type into another, some megabytes at a time, so that memory does not grow with
//! the model. Next in the flow: gguf/mod.rs, or shards.rs.

use std::cell::RefCell;

use netweight_container::{Error, Result};
use netweight_pack::Progress;
use rayon::prelude::*;

use crate::floats::Tally;
use crate::types::{READABLE, Type};

/// Values that one thread converts at once; a multiple of every block.
const PIECE_VALUES: usize = 1 << 16;
/// Values that are read, converted and written at once.
const BATCH_VALUES: u64 = 1 << 21;

/// Which rows of each head change places.
///
/// Rotary embeddings turn pairs of rows of q and k. Hugging Face pairs row i of a head with row i + d/2; GGUF files of
/// the architecture llama have the rows of a pair side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// From halves to neighbours: what a GGUF file gets.
    ToNeighbours,
    /// From neighbours to halves: what a checkpoint gets.
    ToHalves,
}

/// Rows of heads, and how they change places.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Rows of one head; even.
    pub(crate) head_rows: u64,
    /// Values of one row.
    pub(crate) row_values: u64,
    pub(crate) pairing: Pairing,
}

impl Heads {
    /// Which row of a head comes to `row_idx`.
    fn source_row(&self, row_idx: usize) -> usize {
        let half = self.head_rows as usize / 2;
        match self.pairing {
            Pairing::ToNeighbours => row_idx % 2 * half + row_idx / 2,
            Pairing::ToHalves => row_idx % half * 2 + row_idx / half,
        }
    }

    /// Moves rows of `row_bytes` bytes from `src`, whole heads, to `dst`.
    fn pair(&self, row_bytes: usize, src: &[u8], dst: &mut [u8]) {
        let head_bytes = self.head_rows as usize * row_bytes;
        for (from, to) in src.chunks_exact(head_bytes).zip(dst.chunks_exact_mut(head_bytes)) {
            for (row_idx, row) in to.chunks_exact_mut(row_bytes).enumerate() {
                row.copy_from_slice(&from[self.source_row(row_idx) * row_bytes..][..row_bytes]);
            }
        }
    }
}

/// One tensor's way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) from: Type,
    pub(crate) to: Type,
    pub(crate) n_values: u64,
    pub(crate) heads: Option<Heads>,
}

impl Job {
    /// Reads the tensor with `read` (offset in bytes, buffer), converts it, and hands it to `write` in order.
    ///
    /// # Errors
    /// `Unsupported` where the type cannot be read; `InvalidArgument` for values that `to` cannot hold; what `read` and
    /// `write` say.
    pub(crate) fn run(
        &self,
        read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
        progress: &dyn Progress,
    ) -> Result<Tally> {
        let unit = self.unit_values()?;
        let batch_values = (BATCH_VALUES / unit).max(1) * unit;
        let (mut tally, mut done, mut offset) = (Tally::default(), 0, 0);
        let (mut src, mut paired, mut dst) = (Vec::new(), Vec::new(), Vec::new());
        while done < self.n_values {
            if progress.is_interrupted() {
                return Err(Error::interrupted());
            }
            let n_values = (self.n_values - done).min(batch_values);
            src.resize(self.bytes(self.from, n_values)?, 0);
            read(offset, &mut src)?;
            if let Some(heads) = &self.heads {
                paired.resize(src.len(), 0);
                heads.pair(self.bytes(self.from, heads.row_values)?, &src, &mut paired);
                std::mem::swap(&mut src, &mut paired);
            }
            dst.resize(self.bytes(self.to, n_values)?, 0);
            tally = tally.plus(convert(self.from, &src, self.to, &mut dst)?);
            if tally.unfit > 0 {
                return Err(unfit(tally.unfit, self.to));
            }
            write(&dst)?;
            progress.advance(src.len() as u64);
            (done, offset) = (done + n_values, offset + src.len() as u64);
        }
        Ok(tally)
    }

    /// What batches must be multiples of.
    fn unit_values(&self) -> Result<u64> {
        let Some(heads) = &self.heads else { return Ok(256) };
        let unit = heads.head_rows.checked_mul(heads.row_values).filter(|&unit| unit > 0);
        let is_whole = heads.head_rows.is_multiple_of(2) && unit.is_some_and(|unit| self.n_values.is_multiple_of(unit));
        unit.filter(|_| is_whole).ok_or_else(|| Error::corrupt("its rows are not those of whole heads"))
    }

    fn bytes(&self, ty: Type, n_values: u64) -> Result<usize> {
        let n_bytes = ty.n_bytes(n_values).and_then(|n_bytes| usize::try_from(n_bytes).ok());
        n_bytes.ok_or_else(|| Error::unsupported(format!("{n_values} values are no whole blocks of {}", ty.name())))
    }
}

fn unfit(n_values: u64, to: Type) -> Error {
    let what =
        if to == Type::Q8_0 { "blocks have values that are not finite, or too large" } else { "values are too large" };
    Error::invalid(format!("{n_values} {what} for {}; choose another type", to.name()))
}

/// `src` and `dst`: the same number of whole blocks.
fn convert(from: Type, src: &[u8], to: Type, dst: &mut [u8]) -> Result<Tally> {
    if from == to {
        dst.copy_from_slice(src);
        return Ok(Tally::default());
    }
    let decode = from.decode().ok_or_else(|| unreadable(from))?;
    let encode = to.encode().ok_or_else(|| Error::unsupported(format!("{} is not written", to.name())))?;
    thread_local! {
        static VALUES: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    let piece_bytes = |ty: Type| ty.n_bytes(PIECE_VALUES as u64).unwrap_or(0) as usize; // Whole blocks: never 0.
    let pieces = src.par_chunks(piece_bytes(from)).zip(dst.par_chunks_mut(piece_bytes(to)));
    Ok(pieces
        .map(|(src, dst)| {
            VALUES.with_borrow_mut(|values| {
                let n_values = src.len() * PIECE_VALUES / piece_bytes(from);
                values.resize(n_values, 0.0);
                decode(src, values);
                encode(values, dst)
            })
        })
        .reduce(Tally::default, Tally::plus))
}

/// Why a type cannot be read.
pub(crate) fn unreadable(ty: Type) -> Error {
    Error::unsupported(format!("it is {}; types that can be read are {READABLE}", ty.name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use netweight_pack::Silent;

    fn run(job: Job, src: &[u8]) -> Result<(Vec<u8>, Tally)> {
        let mut out = Vec::new();
        let read = |offset: u64, dst: &mut [u8]| {
            dst.copy_from_slice(&src[offset as usize..][..dst.len()]);
            Ok(())
        };
        let mut write = |bytes: &[u8]| {
            out.extend_from_slice(bytes);
            Ok(())
        };
        let tally = job.run(&read, &mut write, &Silent)?;
        Ok((out, tally))
    }

    #[test]
    fn pairs_change_places_and_back() {
        // Two heads of four rows of three values.
        let src: Vec<u8> = (0..8u8).flat_map(|row| (0..3).flat_map(move |column| [row, column])).collect();
        let heads = |pairing| Some(Heads { head_rows: 4, row_values: 3, pairing });
        let job = |pairing| Job { from: Type::BF16, to: Type::BF16, n_values: 24, heads: heads(pairing) };
        let (neighbours, _) = run(job(Pairing::ToNeighbours), &src).unwrap();
        let rows: Vec<u8> = neighbours.chunks(6).map(|row| row[0]).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        assert_eq!(run(job(Pairing::ToHalves), &neighbours).unwrap().0, src);
        // Six rows: unlike with four, the two ways differ.
        let six = Heads { head_rows: 6, row_values: 1, pairing: Pairing::ToNeighbours };
        assert_eq!([0, 1, 2, 3, 4, 5].map(|row| six.source_row(row)), [0, 3, 1, 4, 2, 5]);
    }

    #[test]
    fn many_batches_are_one_tensor() {
        let n_values = BATCH_VALUES * 2 + 77;
        let src: Vec<u8> = (0..n_values).flat_map(|idx| (idx as f32).to_le_bytes()).collect();
        let (out, tally) = run(Job { from: Type::F32, to: Type::BF16, n_values, heads: None }, &src).unwrap();
        assert_eq!(out.len() as u64, 2 * n_values);
        let expected: Vec<u8> = (0..n_values).flat_map(|idx| half::bf16::from_f32(idx as f32).to_le_bytes()).collect();
        assert!(out == expected);
        let rounded = (0..n_values).filter(|&idx| half::bf16::from_f32(idx as f32).to_f32() != idx as f32).count();
        assert_eq!(tally, Tally { rounded: rounded as u64, unfit: 0 });
    }

    #[test]
    fn what_cannot_be_is_an_error() {
        let src = vec![0; 4096];
        let check = |from: Type, to: Type, heads: Option<Heads>, expected: &str| {
            let error = run(Job { from, to, n_values: 256, heads }, &src).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check(Type::from_id(10).unwrap(), Type::BF16, None, "Q2_K");
        let heads = |head_rows, row_values| Some(Heads { head_rows, row_values, pairing: Pairing::ToHalves });
        check(Type::F32, Type::BF16, heads(3, 2), "whole heads");
        check(Type::F32, Type::BF16, heads(10, 10), "whole heads");
        check(Type::Q8_0, Type::BF16, heads(64, 1), "whole blocks");
        let large: Vec<u8> = [1e30f32; 256].iter().flat_map(|value| value.to_le_bytes()).collect();
        let job = Job { from: Type::F32, to: Type::F16, n_values: 256, heads: None };
        assert!(run(job, &large).unwrap_err().to_string().contains("too large for F16"));
    }
}
