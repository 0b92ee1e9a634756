//! Bytes in, chunk out. Looks at a sample, settles on a split, then gives every plane the coder that makes it
//! smallest; all in integers, so that the choice is the same everywhere.

use crate::choose::{self, FieldCoder};
use crate::decode::check_length;
use crate::kernels::{self, Kernels};
use crate::split::{Split, coder, low_bits};
use crate::{Error, Level, escapes, rans8, rans12};
use netweight_tensor::Dtype;

/// Values split at a time; fits the first-level cache.
const BLOCK: usize = 4096;
/// Values encoded at a time; with their input, fits the second-level cache well.
const RUN: usize = 8 * BLOCK;

/// Encodes chunks. Holds the scratch memory, so one per thread.
pub struct Encoder {
    kernels: &'static Kernels,
    level: Level,
    plane: Vec<u8>,    // one byte plane, or the symbols of a field
    low: Vec<u8>,      // the low plane
    escapes: Vec<u16>, // of a field
    rans8: rans8::Scratch,
    rans12: rans12::Scratch,
}

impl Encoder {
    /// An encoder for the fastest instruction set of this CPU. The bytes it writes do not depend on that.
    pub fn new(level: Level) -> Encoder {
        Encoder::with(level, kernels::best())
    }

    pub(crate) fn with(level: Level, kernels: &'static Kernels) -> Encoder {
        let (plane, low, escapes) = Default::default();
        Encoder { kernels, level, plane, low, escapes, rans8: Default::default(), rans12: Default::default() }
    }

    /// Appends the chunk (docs/format.md section 4) that stands for `raw` to `out`. `raw` is a whole number of
    /// elements, at least one and at most 16 MiB. The chunk is at most `5 * element_bytes + 1` bytes longer.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] for any other length; `out` is then unchanged.
    pub fn encode_chunk(&mut self, dtype: Dtype, raw: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        let element_bytes = dtype.element_bytes();
        check_length(raw.len(), element_bytes)?;
        let begin = out.len();
        let choice = choose::split(dtype, self.level, raw);
        match choice.split {
            Split::Bytes => self.bytes(element_bytes, raw, out),
            Split::Sign => self.sign(raw, out),
            Split::Half { k } => self.half(k, choice.low_is_flat, element_bytes, raw, out),
        }
        if out.len() - begin > raw.len() + 1 + 5 * element_bytes {
            out.truncate(begin);
            self.stored(element_bytes, raw, out);
        }
        Ok(())
    }

    fn bytes(&mut self, element_bytes: usize, raw: &[u8], out: &mut Vec<u8>) {
        let mut frame = Frame::begin(Split::Bytes, element_bytes, out);
        self.byte_planes(element_bytes, element_bytes, raw, &mut frame);
    }

    fn sign(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        let mut frame = Frame::begin(Split::Sign, 1, out);
        let (mut sign, mut rest) = (std::mem::take(&mut self.low), std::mem::take(&mut self.plane));
        sign.resize(raw.len(), 0);
        rest.resize(raw.len(), 0);
        (self.kernels.split_sign)(raw, &mut sign, &mut rest);
        self.byte_plane(&sign, 1, &mut frame);
        self.byte_plane(&rest, 7, &mut frame);
        (self.low, self.plane) = (sign, rest);
    }

    /// Every plane raw: never longer than the input by more than the frame.
    fn stored(&mut self, element_bytes: usize, raw: &[u8], out: &mut Vec<u8>) {
        let mut frame = Frame::begin(Split::Bytes, element_bytes, out);
        for idx in 0..element_bytes {
            self.plane.resize(raw.len() / element_bytes, 0);
            (self.kernels.split_bytes)(element_bytes, idx, raw, &mut self.plane);
            frame.plane(coder::RAW, |out| out.extend_from_slice(&self.plane));
        }
    }

    fn byte_planes(&mut self, n_planes: usize, element_bytes: usize, raw: &[u8], frame: &mut Frame) {
        for idx in 0..n_planes {
            let mut plane = std::mem::take(&mut self.plane);
            plane.resize(raw.len() / element_bytes, 0);
            (self.kernels.split_bytes)(element_bytes, idx, raw, &mut plane);
            self.byte_plane(&plane, 8, frame);
            self.plane = plane;
        }
    }

    /// A plane of at most 8 bits: constant, rans12 or raw, whichever is smallest.
    fn byte_plane(&mut self, values: &[u8], bits: u32, frame: &mut Frame) {
        if values[1..] == values[..values.len() - 1] {
            return frame.plane(coder::CONSTANT, |out| out.extend_from_slice(&[values[0], 0]));
        }
        match choose::model_for_bytes(values, bits) {
            Some(model) => frame.plane(coder::RANS12, |out| {
                let (steps, tail) = values.split_at(values.len() / rans12::N_LANES * rans12::N_LANES);
                let tail = tail.iter().map(|&value| u16::from(value));
                rans12::encode(self.kernels, &model, steps, tail, None, &mut self.rans12, out);
            }),
            None => frame.plane(coder::RAW, |out| pack(self.kernels, bits, values, out)),
        }
    }

    fn half(&mut self, k: u32, low_is_flat: bool, element_bytes: usize, raw: &[u8], out: &mut Vec<u8>) {
        let mut frame = Frame::begin(Split::Half { k }, element_bytes, out);
        self.byte_planes(frame.split.n_byte_planes(element_bytes), element_bytes, raw, &mut frame);
        match choose::field_coder(self.level, k, element_bytes, raw, self.kernels) {
            FieldCoder::Rans8(model) if low_is_flat && !model.has_gaps() => {
                self.half_by_runs(&model, k, element_bytes, raw, &mut frame);
            }
            coder => self.half_by_planes(coder, k, element_bytes, raw, &mut frame),
        }
    }

    /// The common case, a raw low plane and a field in rans8. Goes from the last run of blocks to the first, as
    /// rans8 wants it, but forward within a run, as the hardware prefetches best; nothing but the input and the
    /// output is larger than the caches.
    fn half_by_runs(&mut self, model: &rans8::Model, k: u32, element_bytes: usize, raw: &[u8], frame: &mut Frame) {
        let n = raw.len() / element_bytes;
        let n_whole = n / rans8::N_LANES * rans8::N_LANES;
        let (kernels, bits, range) = (self.kernels, low_bits(k), model.range());
        let low_at = frame.reserve(coder::RAW, (n * bits as usize).div_ceil(8));
        let (mut low, mut fields, mut tail) = ([0; BLOCK], [0; BLOCK], vec![]);
        self.plane.resize(self.plane.len().max(RUN), 0); // symbols
        let mut run_escapes = [0; RUN + escapes::SLACK];
        self.escapes.clear(); // the last one first
        let mut writer = rans8::Writer::new(model, n_whole / rans8::N_LANES, &mut self.rans8);
        for run in (0..n).step_by(RUN).rev() {
            let (mut n_symbols, mut n_escapes) = (0, 0);
            for begin in (run..n.min(run + RUN)).step_by(BLOCK) {
                let end = n.min(begin + BLOCK);
                let (low, fields) = (&mut low[..end - begin], &mut fields[..end - begin]);
                (kernels.prefetch)(&raw[end * element_bytes..n.min(end + BLOCK) * element_bytes]);
                (kernels.split_half)(element_bytes, k, &raw[begin * element_bytes..end * element_bytes], low, fields);
                let packed = &mut frame.out[low_at + begin / 8 * bits as usize..];
                pack_into(kernels, bits, low, &mut packed[..((end - begin) * bits as usize).div_ceil(8)]);
                let (steps, rest) = fields.split_at(fields.len().min(n_whole.saturating_sub(begin)));
                let symbols = &mut self.plane[n_symbols..][..steps.len()];
                n_escapes += (kernels.window)(steps, range, symbols, &mut run_escapes[n_escapes..]);
                n_symbols += steps.len();
                tail.extend_from_slice(rest); // of the last block only
            }
            self.escapes.extend(run_escapes[..n_escapes].iter().rev());
            writer.push(kernels, &self.plane[..n_symbols]);
        }
        self.escapes.reverse();
        frame.plane(coder::RANS8, |out| writer.finish(&tail, &self.escapes, out));
    }

    /// Every other case: whole planes, one after the other.
    fn half_by_planes(&mut self, coder: FieldCoder, k: u32, element_bytes: usize, raw: &[u8], frame: &mut Frame) {
        let n = raw.len() / element_bytes;
        let (mut low, mut symbols, mut escapes) =
            (std::mem::take(&mut self.low), std::mem::take(&mut self.plane), std::mem::take(&mut self.escapes));
        low.resize(n, 0);
        symbols.resize(n, 0);
        escapes.resize(n + escapes::SLACK, 0);
        let n_whole = n / coder.n_lanes() * coder.n_lanes();
        let mut fields = [0; BLOCK];
        let (mut n_escapes, mut tail) = (0, vec![]);
        for (idx, raw) in raw.chunks(BLOCK * element_bytes).enumerate() {
            let begin = idx * BLOCK;
            let fields = &mut fields[..raw.len() / element_bytes];
            (self.kernels.split_half)(element_bytes, k, raw, &mut low[begin..][..fields.len()], fields);
            let (steps, rest) = fields.split_at(fields.len().min(n_whole.saturating_sub(begin)));
            let symbols = &mut symbols[begin..][..steps.len()];
            n_escapes += (self.kernels.window)(steps, coder.range(), symbols, &mut escapes[n_escapes..]);
            tail.extend_from_slice(rest);
        }
        self.byte_plane(&low, low_bits(k), frame);
        self.field(coder, 15 - k, &mut symbols[..n_whole], &escapes[..n_escapes], &tail, frame);
        (self.low, self.plane, self.escapes) = (low, symbols, escapes);
    }

    fn field(
        &mut self,
        coder: FieldCoder,
        bits: u32,
        symbols: &mut [u8],
        escapes: &[u16],
        tail: &[u16],
        frame: &mut Frame,
    ) {
        match coder {
            FieldCoder::Constant(value) => {
                frame.plane(coder::CONSTANT, |out| out.extend_from_slice(&value.to_le_bytes()))
            }
            FieldCoder::Rans8(model) => frame.plane(coder::RANS8, |out| {
                let all = model.close_gaps(symbols, escapes);
                let mut writer = rans8::Writer::new(&model, symbols.len() / rans8::N_LANES, &mut self.rans8);
                writer.push(self.kernels, symbols);
                writer.finish(tail, all.as_deref().unwrap_or(escapes), out);
            }),
            FieldCoder::Rans12(model) => frame.plane(coder::RANS12, |out| {
                let all = if bits > 8 { model.close_gaps(symbols, escapes) } else { None };
                let escapes = (bits > 8).then_some(all.as_deref().unwrap_or(escapes));
                rans12::encode(self.kernels, &model, symbols, tail.iter().copied(), escapes, &mut self.rans12, out);
            }),
        }
    }
}

/// A chunk being written: fills in the lengths of its planes as they come.
struct Frame<'a> {
    split: Split,
    out: &'a mut Vec<u8>,
    head: usize,
}

impl<'a> Frame<'a> {
    fn begin(split: Split, element_bytes: usize, out: &'a mut Vec<u8>) -> Frame<'a> {
        out.push(split.id());
        let head = out.len();
        out.resize(head + 5 * split.n_planes(element_bytes), 0);
        Frame { split, out, head }
    }

    /// A plane of known length, zero so far; returns where it begins.
    fn reserve(&mut self, coder: u8, len_bytes: usize) -> usize {
        let begin = self.out.len();
        self.plane(coder, |out| out.resize(begin + len_bytes, 0));
        begin
    }

    fn plane(&mut self, coder: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let begin = self.out.len();
        write(self.out);
        let len_bytes = (self.out.len() - begin) as u32; // a chunk is below 2^25 bytes
        self.out[self.head] = coder;
        self.out[self.head + 1..][..4].copy_from_slice(&len_bytes.to_le_bytes());
        self.head += 5;
    }
}

/// Appends any number of values of `bits` bits, packed.
fn pack(kernels: &Kernels, bits: u32, values: &[u8], out: &mut Vec<u8>) {
    let begin = out.len();
    out.resize(begin + (values.len() * bits as usize).div_ceil(8), 0);
    pack_into(kernels, bits, values, &mut out[begin..]);
}

/// Packs any number of values of `bits` bits into just as many bytes as they need.
fn pack_into(kernels: &Kernels, bits: u32, values: &[u8], packed: &mut [u8]) {
    if bits == 8 {
        return packed.copy_from_slice(values);
    }
    let (whole, tail) = values.split_at(values.len() / 8 * 8);
    let (packed, packed_tail) = packed.split_at_mut(whole.len() / 8 * bits as usize);
    (kernels.pack)(bits, whole, packed);
    let (mut eight, mut eight_packed) = ([0; 8], [0; 8]);
    eight[..tail.len()].copy_from_slice(tail);
    kernels::portable::pack(bits, &eight, &mut eight_packed[..bits as usize]);
    packed_tail.copy_from_slice(&eight_packed[..packed_tail.len()]);
}
