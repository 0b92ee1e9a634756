//! rans12: the thorough coder. The same arithmetic as rans8 with 12-bit probabilities, 32-bit states and an
//! alphabet of 256, its 16 KiB decoding table in the first-level cache. docs/format.md section 5 is its
//! definition; `scalar.rs` is the same in code.
//!
//! Goes in: a byte plane, or a field plane of up to 16 bits as a window of 255 neighbouring values plus escapes.

pub(crate) mod model;
pub(crate) mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use crate::kernels::Kernels;
use crate::reader::Reader;
use crate::{Error, escapes};
pub(crate) use model::{DecodeTable, EncodeTable, Model};

/// Lanes that work side by side; consecutive values go to consecutive lanes.
pub(crate) const N_LANES: usize = 64;
/// Groups of lanes; each has a stream of 16-bit words of its own.
pub(crate) const N_GROUPS: usize = 4;
/// Lanes that share a stream.
pub(crate) const LANES_PER_GROUP: usize = N_LANES / N_GROUPS;
/// The symbol that means "the next escape", where the plane is wider than a byte.
pub(crate) const ESCAPE: u8 = 255;
/// States lie in `LOW_STATE..2^32`; the encoder starts, and the decoder ends, at `LOW_STATE`.
pub(crate) const LOW_STATE: u32 = 65536;

/// Everything that changes while a plane is decoded.
pub(crate) struct Lanes<'a> {
    pub state: [u32; N_LANES],
    /// What is left of each group's stream, a whole number of 16-bit words.
    pub streams: [&'a [u8]; N_GROUPS],
}

impl Lanes<'_> {
    /// Steps for which every stream has bytes enough, however many its lanes take.
    #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
    pub fn n_safe_steps(&self) -> usize {
        self.streams.iter().map(|stream| stream.len()).min().unwrap_or(0) / (2 * LANES_PER_GROUP)
    }
}

/// Decodes whole steps of [`N_LANES`] symbols for as long as every stream has bytes enough for the kernel's
/// loads; returns how many steps that was. `out.len()` is a multiple of [`N_LANES`].
pub(crate) type DecodeSteps = fn(&DecodeTable, &mut Lanes, out: &mut [u8]) -> usize;

/// Encodes all of `symbols` (whole steps), last step first. Each group's bytes end at the end of its buffer,
/// which holds at least `2 * LANES_PER_GROUP` bytes a step; returns where they begin.
pub(crate) type EncodeSteps =
    fn(&EncodeTable, symbols: &[u8], state: &mut [u32; N_LANES], buffers: [&mut [u8]; N_GROUPS]) -> [usize; N_GROUPS];

/// A plane being decoded, block by block.
pub(crate) struct Plane<'a> {
    table: &'a DecodeTable,
    base: u16,
    lanes: Lanes<'a>,
    tail: &'a [u8],
    escapes: &'a [u16], // those left
}

impl<'a> Plane<'a> {
    /// Checks the payload's frame. `table` and `escapes` receive what their names say.
    pub fn open(
        payload: &'a [u8],
        n: usize,
        bits: u32,
        table: &'a mut DecodeTable,
        escapes: &'a mut Vec<u16>,
    ) -> Result<Plane<'a>, Error> {
        let mut reader = Reader::new(payload);
        let model = Model::read(&mut reader, bits)?;
        let n_escapes = reader.count(if bits > 8 { n } else { 0 }, "rans12 escape count")?;
        let mut lens = [0; N_GROUPS];
        for len in &mut lens {
            *len = reader.count(payload.len(), "rans12 stream length")?;
        }
        let mut state = [0; N_LANES];
        for state in &mut state {
            *state = reader.u32()?;
        }
        if state.iter().any(|&x| x < LOW_STATE) || lens.iter().any(|len| len % 2 != 0) {
            return Err(Error::Corrupt("rans12 state or stream length"));
        }
        let mut streams = [&payload[..0]; N_GROUPS];
        for (stream, len) in streams.iter_mut().zip(lens) {
            *stream = reader.bytes(len)?;
        }
        let tail = reader.bytes(n % N_LANES * 2)?;
        escapes.clear();
        if bits > 8 {
            escapes::read(&mut reader, n_escapes, 1 << bits, escapes)?;
        }
        reader.finish()?;
        model.fill_decode_table(table);
        Ok(Plane { table, base: model.base, lanes: Lanes { state, streams }, tail, escapes: &escapes[..n_escapes] })
    }

    /// The next `out.len()` values of a plane of at most 8 bits: a multiple of [`N_LANES`], or what is left.
    pub fn next_bytes(&mut self, kernels: &Kernels, bits: u32, out: &mut [u8]) -> Result<(), Error> {
        let (steps, tail) = out.split_at_mut(out.len() / N_LANES * N_LANES);
        self.symbols(kernels, steps)?;
        for (value, bytes) in tail.iter_mut().zip(self.tail.chunks_exact(2)) {
            *value = tail_value(bytes, bits)? as u8;
        }
        Ok(())
    }

    /// The next `out.len()` values of a plane of more than 8 bits. `symbols` is room for as many bytes.
    pub fn next_words(
        &mut self,
        kernels: &Kernels,
        bits: u32,
        symbols: &mut [u8],
        out: &mut [u16],
    ) -> Result<(), Error> {
        let n_whole = out.len() / N_LANES * N_LANES;
        let symbols = &mut symbols[..n_whole];
        self.symbols(kernels, symbols)?;
        let (steps, tail) = out.split_at_mut(n_whole);
        let n_used = (kernels.widen)(symbols, self.base, Some(ESCAPE), self.escapes, steps);
        self.escapes = self.escapes.get(n_used..).ok_or(Error::Corrupt("too few escapes"))?;
        for (value, bytes) in tail.iter_mut().zip(self.tail.chunks_exact(2)) {
            *value = tail_value(bytes, bits)?;
        }
        Ok(())
    }

    fn symbols(&mut self, kernels: &Kernels, out: &mut [u8]) -> Result<(), Error> {
        let n_done = (kernels.rans12_decode)(self.table, &mut self.lanes, out);
        for step in out[n_done * N_LANES..].chunks_exact_mut(N_LANES) {
            scalar::decode_step(self.table, &mut self.lanes, step)?;
        }
        Ok(())
    }

    /// After the last value: every state is back at its start, every stream and all escapes are used up.
    pub fn finish(&self) -> Result<(), Error> {
        let ended = self.lanes.state.iter().all(|&x| x == LOW_STATE)
            && self.lanes.streams.iter().all(|stream| stream.is_empty())
            && self.escapes.is_empty();
        if ended { Ok(()) } else { Err(Error::Corrupt("rans12 end state")) }
    }
}

fn tail_value(bytes: &[u8], bits: u32) -> Result<u16, Error> {
    let value = u16::from_le_bytes([bytes[0], bytes[1]]);
    if u32::from(value) < 1 << bits { Ok(value) } else { Err(Error::Corrupt("rans12 tail value")) }
}

/// Memory for one plane's encoding, kept between chunks.
#[derive(Default)]
pub(crate) struct Scratch {
    buffers: [Vec<u8>; N_GROUPS],
}

/// Appends the payload for `symbols` under `model`. `tail` holds the `symbols.len() % 64` last values,
/// `escapes` those that have no symbol and are not in the tail (`None` for planes of at most 8 bits).
pub(crate) fn encode(
    kernels: &Kernels,
    model: &Model,
    symbols: &[u8],
    tail: impl Iterator<Item = u16>,
    escapes: Option<&[u16]>,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) {
    let steps = &symbols[..symbols.len() / N_LANES * N_LANES];
    let mut state = [LOW_STATE; N_LANES];
    let room = steps.len() / N_GROUPS * 2 + 2 * LANES_PER_GROUP;
    scratch.buffers.iter_mut().filter(|buffer| buffer.len() < room).for_each(|buffer| buffer.resize(room, 0));
    let buffers = scratch.buffers.each_mut().map(|buffer| &mut buffer[..room]);
    let begins = (kernels.rans12_encode)(&model.encode_table(), steps, &mut state, buffers);

    model.write(out);
    out.extend_from_slice(&(escapes.map_or(0, <[u16]>::len) as u32).to_le_bytes());
    begins.iter().for_each(|begin| out.extend_from_slice(&((room - begin) as u32).to_le_bytes()));
    state.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
    scratch.buffers.iter().zip(begins).for_each(|(buffer, begin)| out.extend_from_slice(&buffer[begin..room]));
    tail.for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
    if let Some(escapes) = escapes {
        escapes::write(escapes, out);
    }
}
