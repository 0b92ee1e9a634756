//! The chooser: which split a chunk gets, which coder a plane, by estimated size.
//!
//! Estimates come from a sample of blocks at pseudo-random places (regular strides would fall in step with
//! rows); sizes are in bits times 2^16, see `log2.rs`.

use crate::kernels::{Kernels, Range};
use crate::log2::{FRACTION_BITS, entropy};
use crate::split::{Split, low_bits};
use crate::{Level, rans8, rans12};
use netweight_tensor::{Dtype, Layout};

/// Elements in one block of a sample.
const SAMPLE_BLOCK: usize = 1024;
/// How much of a chunk is looked at: one block in so many, but no fewer elements than that.
struct Share {
    one_in: usize,
    at_least: usize,
}
/// For choosing a split or a byte plane's coder.
const SPARSE: Share = Share { one_in: 64, at_least: 8192 };
/// For the counts of rans8.
const DENSE: Share = Share { one_in: 8, at_least: 32768 };
/// For rans12, which has to know every value.
const ALL: Share = Share { one_in: 1, at_least: 0 };
/// Bytes of a rans payload besides its streams and tables.
const FRAME_BYTES: u64 = 330;
/// Raw decodes as fast as memory: a byte plane has to shrink by one part in so many to be coded at all.
const WORTH_CODING: u64 = 50;
/// The thorough coder is slower: it has to save one part in so many of a field to be taken at level default.
const WORTH_SLOWER: u64 = 24;

/// A chunk's split, as far as a sample shows the smallest.
pub(crate) struct Choice {
    pub split: Split,
    /// Of a half split: whether its low plane is to stay raw.
    pub low_is_flat: bool,
}

/// Chooses the split of a chunk.
pub(crate) fn split(dtype: Dtype, level: Level, raw: &[u8]) -> Choice {
    let k = match (dtype.layout(), level) {
        (Layout::Bytes, _) => return Choice { split: Split::Bytes, low_is_flat: false },
        (Layout::Float8, _) => {
            let split = if sign_is_flat(raw) { Split::Sign } else { Split::Bytes };
            return Choice { split, low_is_flat: false };
        }
        (Layout::Float16 { exponent_bits: 5 }, Level::Default) if dtype.element_bytes() == 2 => 9,
        (Layout::Float16 { exponent_bits: 5 }, _) => 7,
        (Layout::Float16 { exponent_bits: 8 }, Level::Default) => 6,
        (Layout::Float16 { .. }, _) => 4,
    };
    half_or_bytes(k, dtype.element_bytes(), raw)
}

/// Ranges of a sample of the blocks of `n` elements.
fn blocks(n: usize, share: Share) -> impl Iterator<Item = std::ops::Range<usize>> {
    let one_in = (n / share.at_least.max(1)).clamp(1, share.one_in);
    let mut random = 0x9e37_79b9_u32;
    (0..n.div_ceil(SAMPLE_BLOCK * one_in)).map(move |idx| {
        random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let block = idx * one_in + (random >> 16) as usize % one_in;
        (block * SAMPLE_BLOCK).min(n)..((block + 1) * SAMPLE_BLOCK).min(n)
    })
}

/// Entropy of a sample scaled up to `n` values, at most `bits` a value.
fn scaled(counts: &[u32], n: usize, bits: u32) -> u64 {
    let n_counted: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let per_value = entropy(counts) / n_counted.max(1);
    n as u64 * per_value.min(u64::from(bits) << FRACTION_BITS)
}

/// Whether the sign of a byte says nothing about the rest, so that coding them together gains nothing.
fn sign_is_flat(raw: &[u8]) -> bool {
    let mut counts = [0u32; 256];
    blocks(raw.len(), SPARSE).for_each(|block| raw[block].iter().for_each(|&byte| counts[usize::from(byte)] += 1));
    let rest: [u32; 128] = std::array::from_fn(|rest| counts[rest] + counts[rest + 128]);
    let n: u64 = rest.iter().map(|&count| u64::from(count)).sum();
    // A sample of 256 symbols seems a little less than flat beside one of 128.
    entropy(&counts) + (n << FRACTION_BITS) / 32 >= entropy(&rest) + (n << FRACTION_BITS)
}

/// Compares the two ways of coding the top 16 bits; the other bytes cost the same either way.
fn half_or_bytes(k: u32, element_bytes: usize, raw: &[u8]) -> Choice {
    let n = raw.len() / element_bytes;
    let sign_at = low_bits(k) - 1;
    let (mut low, mut field) = ([0u32; 256], [0u32; 2048]);
    let (mut first, mut second) = ([0u32; 256], [0u32; 256]);
    for block in blocks(n, SPARSE) {
        for element in raw[block.start * element_bytes..block.end * element_bytes].chunks_exact(element_bytes) {
            let bytes = [element[element_bytes - 2], element[element_bytes - 1]];
            let top = u32::from(u16::from_le_bytes(bytes));
            low[(top >> 15 << sign_at | top >> (k - sign_at) & ((1 << sign_at) - 1)) as usize] += 1;
            field[(top >> k & ((1 << (15 - k)) - 1)) as usize] += 1;
            first[usize::from(bytes[0])] += 1;
            second[usize::from(bytes[1])] += 1;
        }
    }
    let frame = |size: u64, raw_bits: u32| {
        (size + ((FRAME_BYTES * 8) << FRACTION_BITS)).min((n as u64 * u64::from(raw_bits)) << FRACTION_BITS)
    };
    let first = frame(scaled(&first, n, 8), 8);
    let byte_plane = if k > 7 { first } else { 0 };
    let low_is_flat = !may_shrink(&low, n, low_bits(k));
    let low = frame(scaled(&low, n, low_bits(k)), low_bits(k));
    let field = scaled(&field, n, 15 - k) + ((FRAME_BYTES * 8) << FRACTION_BITS);
    let half_is_smaller = byte_plane + low + field <= first + frame(scaled(&second, n, 8), 8);
    Choice { split: if half_is_smaller { Split::Half { k } } else { Split::Bytes }, low_is_flat }
}

/// The rans12 model for a plane of at most 8 bits that is not constant, or `None` where raw is about as small.
pub(crate) fn model_for_bytes(values: &[u8], bits: u32) -> Option<rans12::Model> {
    let mut counts = [0u32; 256];
    blocks(values.len(), SPARSE)
        .for_each(|block| values[block].iter().for_each(|&value| counts[usize::from(value)] += 1));
    if !may_shrink(&counts, values.len(), bits) {
        return None;
    }
    let counts = count_bytes(values);
    let model = rans12::Model::for_bytes(&counts)?;
    let n_present = model.freq.iter().filter(|&&freq| freq > 0).count() as u64;
    let size = model.cost(&counts) + (((FRAME_BYTES + n_present) * 8) << FRACTION_BITS);
    (size < worth_it(values.len(), bits)).then_some(model)
}

/// The size below which `n` values of `bits` bits are coded and not raw.
fn worth_it(n: usize, bits: u32) -> u64 {
    let raw_size = (n as u64 * u64::from(bits)) << FRACTION_BITS;
    raw_size - raw_size / WORTH_CODING
}

/// Whether coding `n` values seems worth it, by a sample of them.
fn may_shrink(counts: &[u32], n: usize, bits: u32) -> bool {
    scaled(counts, n, bits) + ((FRAME_BYTES * 8) << FRACTION_BITS) < worth_it(n, bits)
}

/// How often each byte occurs; four tables, so that equal neighbours do not wait for each other.
fn count_bytes(values: &[u8]) -> [u32; 256] {
    let mut tables = [[0u32; 256]; 4];
    let (fours, rest) = values.as_chunks::<4>();
    for four in fours {
        for (table, &value) in tables.iter_mut().zip(four) {
            table[usize::from(value)] += 1;
        }
    }
    rest.iter().for_each(|&value| tables[0][usize::from(value)] += 1);
    std::array::from_fn(|value| tables.iter().map(|table| table[value]).sum())
}

/// The coder of a field plane, with its statistics.
pub(crate) enum FieldCoder {
    Constant(u16),
    Rans8(rans8::Model),
    Rans12(Box<rans12::Model>),
}

impl FieldCoder {
    pub fn n_lanes(&self) -> usize {
        match self {
            FieldCoder::Constant(_) => 1,
            FieldCoder::Rans8(_) => rans8::N_LANES,
            FieldCoder::Rans12(_) => rans12::N_LANES,
        }
    }

    pub fn range(&self) -> Range {
        match self {
            FieldCoder::Constant(_) => Range { base: 0, n_symbols: u16::MAX, escape: 0 },
            FieldCoder::Rans8(model) => model.range(),
            FieldCoder::Rans12(model) => model.range(),
        }
    }
}

/// Settles the coder of a field.
pub(crate) fn field_coder(level: Level, k: u32, element_bytes: usize, raw: &[u8], kernels: &Kernels) -> FieldCoder {
    let n_values = (1usize << (15 - k)).max(256);
    if k == 6 || k == 9 {
        let counts = count_fields(k, element_bytes, raw, DENSE, n_values, kernels);
        let model = rans8::Model::from_counts(&counts);
        let (fast, thorough) = (rans8::estimate(&model, &counts), entropy(&counts));
        let is_single = counts.iter().filter(|&&count| count > 0).count() == 1;
        if !is_single && (level == Level::Default && fast <= thorough + thorough / WORTH_SLOWER) {
            return FieldCoder::Rans8(model);
        }
    }
    let counts = count_fields(k, element_bytes, raw, ALL, n_values, kernels);
    if let Some(value) = counts.iter().position(|&count| count as usize == raw.len() / element_bytes) {
        return FieldCoder::Constant(value as u16);
    }
    let model = match <&[u32; 256]>::try_from(counts.as_slice()) {
        Ok(counts) => rans12::Model::for_bytes(counts),
        Err(_) => rans12::Model::for_window(&counts),
    };
    // Without a rans12 model (one window value, everything else far away) rans8 can always do it.
    model.map_or_else(
        || FieldCoder::Rans8(rans8::Model::from_counts(&counts)),
        |model| FieldCoder::Rans12(Box::new(model)),
    )
}

fn count_fields(
    k: u32,
    element_bytes: usize,
    raw: &[u8],
    share: Share,
    n_values: usize,
    kernels: &Kernels,
) -> Vec<u32> {
    let mut tables = vec![[0u32; 4]; n_values]; // four, so that equal neighbours do not wait for each other
    let (mut low, mut fields) = ([0; SAMPLE_BLOCK], [0; SAMPLE_BLOCK]);
    for block in blocks(raw.len() / element_bytes, share) {
        let (low, fields) = (&mut low[..block.len()], &mut fields[..block.len()]);
        (kernels.split_half)(
            element_bytes,
            k,
            &raw[block.start * element_bytes..block.end * element_bytes],
            low,
            fields,
        );
        let (fours, rest) = fields.as_chunks::<4>();
        for four in fours {
            (0..4).for_each(|idx| tables[usize::from(four[idx])][idx] += 1);
        }
        rest.iter().for_each(|&value| tables[usize::from(value)][0] += 1);
    }
    tables.into_iter().map(|four| four.iter().sum()).collect()
}

impl rans8::Model {
    /// The values that have a symbol, as the window kernel takes them.
    pub(crate) fn range(&self) -> Range {
        range(self.base, self.freq[..rans8::ESCAPE].iter().map(|&freq| u32::from(freq)), rans8::ESCAPE as u8)
    }

    /// Whether a value inside the range has no symbol.
    pub(crate) fn has_gaps(&self) -> bool {
        self.freq[..usize::from(self.range().n_symbols)].contains(&0)
    }

    /// Symbols inside the range that have no frequency become escapes too. Returns all escapes, if that
    /// happened.
    pub(crate) fn close_gaps(&self, symbols: &mut [u8], escapes: &[u16]) -> Option<Vec<u16>> {
        let has_symbol: [bool; 256] = std::array::from_fn(|s| s < 32 && self.freq[s] > 0);
        close_gaps(&has_symbol, self.range(), symbols, escapes)
    }
}

impl rans12::Model {
    /// The values that have a symbol, as the window kernel takes them.
    pub(crate) fn range(&self) -> Range {
        // A window of 255 plus the escape, or a plane of at most 8 bits with 256 values and none.
        let n_symbols = if self.is_window { usize::from(rans12::ESCAPE) } else { 256 };
        range(self.base, self.freq[..n_symbols].iter().copied(), rans12::ESCAPE)
    }

    /// See [`rans8::Model::close_gaps`].
    pub(crate) fn close_gaps(&self, symbols: &mut [u8], escapes: &[u16]) -> Option<Vec<u16>> {
        let has_symbol: [bool; 256] = std::array::from_fn(|s| self.freq[s] > 0);
        close_gaps(&has_symbol, self.range(), symbols, escapes)
    }
}

fn range(base: u16, freq: impl DoubleEndedIterator<Item = u32> + ExactSizeIterator, escape: u8) -> Range {
    let n_symbols = freq.enumerate().rev().find(|(_, freq)| *freq > 0).map_or(0, |(last, _)| last as u16 + 1);
    Range { base, n_symbols, escape }
}

fn close_gaps(has_symbol: &[bool; 256], range: Range, symbols: &mut [u8], escapes: &[u16]) -> Option<Vec<u16>> {
    if has_symbol[..usize::from(range.n_symbols)].iter().all(|&has| has) {
        return None;
    }
    let (mut all, mut old) = (vec![], escapes.iter());
    for symbol in symbols {
        if *symbol == range.escape {
            all.extend(old.next());
        } else if !has_symbol[usize::from(*symbol)] {
            all.push(range.base + u16::from(*symbol));
            *symbol = range.escape;
        }
    }
    Some(all)
}
