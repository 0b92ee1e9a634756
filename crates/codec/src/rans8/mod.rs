//! rans8: the fast coder. Asymmetric numeral systems (J. Duda, arXiv:1311.2540, range variant) with 8-bit
//! probabilities and 16-bit states, so that the whole table fits in vector registers: no gathers, no memory.
//! docs/format.md section 5 is its definition; `scalar.rs` is the same in code, the other files are faster
//! spellings of `scalar.rs`.
//!
//! Goes in: a field plane of up to 16 bits a value. Comes out: a window of 31 neighbouring values plus escapes.

pub(crate) mod model;
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use crate::escapes;
use crate::kernels::Kernels;
use crate::reader::Reader;
use crate::{Error, log2};
pub(crate) use model::{DecodeTable, EncodeTable, Model};

/// Lanes that work side by side; consecutive values go to consecutive lanes.
pub(crate) const N_LANES: usize = 128;
/// Groups of lanes; each has a byte stream of its own.
pub(crate) const N_GROUPS: usize = 4;
/// Lanes that share a stream.
pub(crate) const LANES_PER_GROUP: usize = N_LANES / N_GROUPS;
/// The symbol that means "the next escape".
pub(crate) const ESCAPE: usize = 31;
/// States lie in `LOW_STATE..65536`; the encoder starts, and the decoder ends, at `LOW_STATE`.
pub(crate) const LOW_STATE: u16 = 256;

/// Everything that changes while a plane is decoded.
pub(crate) struct Lanes<'a> {
    pub state: [u16; N_LANES],
    /// What is left of each group's stream.
    pub streams: [&'a [u8]; N_GROUPS],
    /// All escapes of the plane, then [`escapes::SLACK`] zeros.
    pub escapes: &'a [u16],
    /// Escapes used so far; a kernel may count past the end but never reads there.
    pub n_escapes_used: usize,
}

impl Lanes<'_> {
    /// Steps for which every stream has bytes enough, however many its lanes take.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
    pub fn n_safe_steps(&self) -> usize {
        self.streams.iter().map(|stream| stream.len()).min().unwrap_or(0) / LANES_PER_GROUP
    }
}

/// Decodes whole steps of [`N_LANES`] values into `out` for as long as every stream has bytes enough for the
/// kernel's loads; returns how many steps that was. `out.len()` is a multiple of [`N_LANES`].
pub(crate) type DecodeSteps = fn(&DecodeTable, &mut Lanes, out: &mut [u16]) -> usize;

/// Decodes whole steps like [`DecodeSteps`] and puts each value together with its bits of the raw low
/// plane: `out` receives elements of 16 bits (docs/format.md section 4). Moves `low`, which is packed, on.
/// Returns how many steps were done; it may stop early for want of readable bytes.
pub(crate) type JoinSteps = fn(&DecodeTable, &mut Lanes, Join, low: &mut &[u8], out: &mut [u8]) -> usize;

/// How [`JoinSteps`] is to write elements.
#[derive(Clone, Copy)]
pub(crate) struct Join {
    /// Bits below the field.
    pub k: u32,
    /// Write past the caches, if the kernel can: for output that nobody reads soon.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    pub past_caches: bool,
}

/// Encodes all of `symbols` (whole steps), last step first. Each group's bytes end at the end of its buffer,
/// which holds at least [`LANES_PER_GROUP`] bytes a step; returns where they begin.
pub(crate) type EncodeSteps =
    fn(&EncodeTable, symbols: &[u8], state: &mut [u16; N_LANES], buffers: [&mut [u8]; N_GROUPS]) -> [usize; N_GROUPS];

/// A plane being decoded, block by block.
pub(crate) struct Plane<'a> {
    table: DecodeTable,
    lanes: Lanes<'a>,
    tail: &'a [u8],
}

impl<'a> Plane<'a> {
    /// Checks the payload's frame. `escapes` receives the escape values.
    pub fn open(payload: &'a [u8], n: usize, bits: u32, escapes: &'a mut Vec<u16>) -> Result<Plane<'a>, Error> {
        let mut reader = Reader::new(payload);
        let model = Model::read(&mut reader, bits)?;
        let n_escapes = reader.count(n, "rans8 escape count")?;
        let mut lens = [0; N_GROUPS];
        for len in &mut lens {
            *len = reader.count(payload.len(), "rans8 stream length")?;
        }
        let mut state = [0; N_LANES];
        for state in &mut state {
            *state = reader.u16()?;
        }
        if state.iter().any(|&x| x < LOW_STATE) {
            return Err(Error::Corrupt("rans8 state"));
        }
        let mut streams = [&payload[..0]; N_GROUPS];
        for (stream, len) in streams.iter_mut().zip(lens) {
            *stream = reader.bytes(len)?;
        }
        let tail = reader.bytes(n % N_LANES * 2)?;
        escapes::read(&mut reader, n_escapes, 1 << bits, escapes)?;
        reader.finish()?;
        let lanes = Lanes { state, streams, escapes, n_escapes_used: 0 };
        Ok(Plane { table: model.decode_table(), lanes, tail })
    }

    /// Decodes as many elements of 16 bits as the kernel can, with `low`, the raw low plane of the same chunk.
    /// Returns how many bytes of `out` were written.
    pub fn next_elements(&mut self, kernels: &Kernels, join: Join, low: &mut &'a [u8], out: &mut [u8]) -> usize {
        (kernels.rans8_join)(&self.table, &mut self.lanes, join, low, out) * 2 * N_LANES
    }

    /// The next `out.len()` values: a multiple of [`N_LANES`], or what is left of the plane.
    pub fn next(&mut self, kernels: &Kernels, bits: u32, out: &mut [u16]) -> Result<(), Error> {
        let (steps, tail) = out.split_at_mut(out.len() / N_LANES * N_LANES);
        let n_done = (kernels.rans8_decode)(&self.table, &mut self.lanes, steps);
        for step in steps[n_done * N_LANES..].chunks_exact_mut(N_LANES) {
            scalar::decode_step(&self.table, &mut self.lanes, step)?;
        }
        for (value, bytes) in tail.iter_mut().zip(self.tail.chunks_exact(2)) {
            *value = u16::from_le_bytes([bytes[0], bytes[1]]);
            if u32::from(*value) >= 1 << bits {
                return Err(Error::Corrupt("rans8 tail value"));
            }
        }
        Ok(())
    }

    /// After the last value: every state is back at its start, every stream and all escapes are used up.
    pub fn finish(&self) -> Result<(), Error> {
        let lanes = &self.lanes;
        let ended = lanes.state.iter().all(|&x| x == LOW_STATE)
            && lanes.streams.iter().all(|stream| stream.is_empty())
            && lanes.n_escapes_used + escapes::SLACK == lanes.escapes.len();
        if ended { Ok(()) } else { Err(Error::Corrupt("rans8 end state")) }
    }
}

/// Memory for one plane's encoding, kept between chunks.
#[derive(Default)]
pub(crate) struct Scratch {
    buffers: [Vec<u8>; N_GROUPS],
}

/// A plane being encoded, from its last step to its first.
pub(crate) struct Writer<'a> {
    model: &'a Model,
    table: EncodeTable,
    state: [u16; N_LANES],
    buffers: [&'a mut [u8]; N_GROUPS],
    begins: [usize; N_GROUPS],
}

impl<'a> Writer<'a> {
    /// A writer for at most `n_steps` steps.
    pub fn new(model: &'a Model, n_steps: usize, scratch: &'a mut Scratch) -> Writer<'a> {
        let room = (n_steps + 1) * LANES_PER_GROUP;
        scratch.buffers.iter_mut().filter(|buffer| buffer.len() < room).for_each(|buffer| buffer.resize(room, 0));
        let buffers = scratch.buffers.each_mut().map(|buffer| &mut buffer[..room]);
        Writer { model, table: model.encode_table(), state: [LOW_STATE; N_LANES], buffers, begins: [room; N_GROUPS] }
    }

    /// Encodes the whole steps of `symbols`, which stand before all that was pushed so far.
    pub fn push(&mut self, kernels: &Kernels, symbols: &[u8]) {
        let mut begins = self.begins.iter();
        let free = self.buffers.each_mut().map(|buffer| &mut buffer[..*begins.next().expect("one for each group")]);
        self.begins = (kernels.rans8_encode)(&self.table, symbols, &mut self.state, free);
    }

    /// Appends the payload. `tail` holds the values after the last whole step, `escapes`, in element order, those
    /// before it that have no symbol.
    pub fn finish(self, tail: &[u16], escapes: &[u16], out: &mut Vec<u8>) {
        self.model.write(out);
        out.extend_from_slice(&(escapes.len() as u32).to_le_bytes());
        let streams = self.buffers.iter().zip(self.begins).map(|(buffer, begin)| &buffer[begin..]);
        streams.clone().for_each(|stream| out.extend_from_slice(&(stream.len() as u32).to_le_bytes()));
        self.state.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        streams.for_each(|stream| out.extend_from_slice(stream));
        tail.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
        escapes::write(escapes, out);
    }
}

/// Bits (times 2^16) that `counts` would cost: the estimate by which the chooser compares coders.
pub(crate) fn estimate(model: &Model, counts: &[u32]) -> u64 {
    let freq = model.freq.map(u32::from);
    let escape_bits = (12 << log2::FRACTION_BITS) + (1 << (log2::FRACTION_BITS - 1));
    let cost = |(value, &count): (usize, &u32)| {
        let bits = match usize::from(model.symbol(value as u16)) {
            ESCAPE => escape_bits,
            symbol => (8 << log2::FRACTION_BITS) - log2::LOG2[freq[symbol] as usize],
        };
        u64::from(count) * u64::from(bits)
    };
    counts.iter().enumerate().filter(|(_, count)| **count > 0).map(cost).sum()
}

#[cfg(test)]
mod tests;
