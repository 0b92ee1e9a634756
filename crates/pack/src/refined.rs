//! What a tuned matrix lacks of its original (section 9). Goes in: the original's bf16 weights, and the archive shard that
//! has their indices and steps. Comes out: how far each weight lies from its value, and back. A shard of such chunks is
//! the refinement of the other one, which runs without it. Next in the flow: encode.rs.
//!
//! Q: Why classes by index? A value v of index i is wrong by about half a step, which is v / 2i: the larger the index, the
//! fewer bf16 lie between a weight and its value. Around 0 that is many, and their distribution has a long tail.
//!
//! Q: Why do both together take more than the weight alone? The index is chosen for what it does to sums, in view of the
//! errors of other weights: what it says beyond the weight is lost, some 0.5 bits.

use std::path::Path;
use std::sync::Arc;

use netweight_codec::{Encoder, Level, describe_chunk};
use netweight_container::{Entry, Error, Manifest, Mode, Refines, Result};
use netweight_tensor::{Dtype, value_of};

use crate::chunk::{self, codec_error, codec_label};
use crate::coding::Coding;
use crate::grid::{self, Steps};
use crate::shard_file::ShardFile;
use crate::workers::Worker;

/// Classes of a chunk at most.
const MAX_CLASSES: usize = 32;
/// Weights of a class at least, two ways to be tried: tables of frequencies cost more than smaller ones bring.
const MIN_CLASS_WEIGHTS: [usize; 2] = [6000, 16000];
/// What an element is for a weight of its value's sign and magnitude: a low byte in the middle of its range.
const CENTRE: u16 = 0x4080;
/// Dtypes of two bytes and levels whose splits are tried for a class.
const SPLITS: [(&str, Level); 5] = [
    ("BF16", Level::Default),
    ("BF16", Level::Max),
    ("F16", Level::Default),
    ("F16", Level::Max),
    ("U16", Level::Default),
];

/// The grid that a refined tensor begins with.
#[derive(Debug)]
pub(crate) struct Base {
    file: Arc<ShardFile>,
    payload_idx: usize,
}

impl Base {
    /// The grid that `file` has for the bf16 matrix `entry`.
    pub(crate) fn find(file: &Arc<ShardFile>, entry: &Entry) -> Option<Base> {
        let payload_idx = file.payload_of(&entry.name)?;
        let Coding::Grid(steps) = &file.payloads[payload_idx].coding else { return None };
        let is_same = grid::shape(entry) == Some((steps.rows.len(), steps.cols.len()));
        is_same.then(|| Base { file: Arc::clone(file), payload_idx })
    }

    /// Bytes of the original that a chunk stands for, the last one aside.
    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.steps().chunk_bytes()
    }

    fn steps(&self) -> &Steps {
        match &self.file.payloads[self.payload_idx].coding {
            Coding::Grid(steps) => steps,
            _ => unreachable!("`find` made sure"),
        }
    }

    /// Makes `worker.indices[0]` the indices of a chunk that stands for `len_bytes` bytes; gives its steps.
    fn read(&self, worker: &mut Worker, chunk_idx: usize, len_bytes: usize) -> Result<(&[f32], &[f32])> {
        let payload = &self.file.payloads[self.payload_idx];
        let (steps, chunk) = (self.steps(), payload.chunks[chunk_idx]);
        let row_steps = steps.of_chunk(chunk_idx, len_bytes);
        let mut bytes = std::mem::take(&mut worker.base);
        let read = chunk::read_into(&mut bytes, &self.file.input, chunk)
            .and_then(|()| grid::decode_indices(worker, steps.cols.len(), row_steps.len(), &bytes));
        worker.base = bytes;
        read.map_err(|error| error.in_file(self.file.input.path()).at_offset(chunk.offset))?;
        Ok((row_steps, &steps.cols))
    }
}

/// Checks that `base`, read from `path`, is what a refinement is of.
pub(crate) fn check_base(refines: &Refines, base: &ShardFile, path: &Path) -> Result<()> {
    let is_base = base.manifest.mode == Mode::Tensors && base.manifest.original.sha256 == refines.sha256;
    if is_base {
        return Ok(());
    }
    Err(Error::corrupt(format!("the refinement of another model than {} holds", path.display())))
}

/// The coding of each of a refinement's `tensors`, (tensors,).
///
/// # Errors
/// `Corrupt` where a name is not that of a matrix that `base` has a grid for, is tied, or is out of order.
pub(crate) fn codings(
    manifest: &Manifest,
    tensors: &[Entry],
    refines: &Refines,
    base: &Arc<ShardFile>,
) -> Result<Vec<Coding>> {
    let corrupt = |what: &'static str, name: &str| Err(Error::corrupt(what).in_tensor(name));
    let mut names = refines.tensors.iter().peekable();
    let mut codings = Vec::with_capacity(tensors.len());
    for entry in tensors {
        if names.next_if(|name| **name == entry.name).is_none() {
            codings.push(Coding::Chunks(entry.dtype));
            continue;
        }
        let is_tied = manifest.same_as.contains_key(&entry.name);
        let Some(base) = Base::find(base, entry).filter(|_| !is_tied) else {
            return corrupt("refined, but not a matrix that has a grid", &entry.name);
        };
        codings.push(Coding::Refined(Arc::new(base)));
    }
    names.next().map_or(Ok(codings), |name| corrupt("in the list of what is refined, but not there", name))
}

/// The value that a weight is told from: that of its index, or of index 1 where it is 0.
fn reference(row_step: f32, col_step: f32, index: u8) -> u16 {
    value_of(row_step, col_step, if index == 0 { 1 } else { index as i8 })
}

/// A weight's sign, turned by that of its reference, and how much larger its magnitude is.
fn element_of(weight: u16, reference: u16) -> u16 {
    let sign = (weight ^ reference) & 0x8000;
    sign | weight.wrapping_sub(reference).wrapping_add(CENTRE) & 0x7fff
}

fn weight_of(element: u16, reference: u16) -> u16 {
    let sign = (element ^ reference) & 0x8000;
    sign | element.wrapping_sub(CENTRE).wrapping_add(reference) & 0x7fff
}

/// Gives `each` the magnitude of each index and its reference.
fn for_each_weight(indices: &[u8], (row_steps, col_steps): (&[f32], &[f32]), mut each: impl FnMut(usize, u16)) {
    for (indices, &row_step) in indices.chunks_exact(col_steps.len()).zip(row_steps) {
        for (&index, &col_step) in indices.iter().zip(col_steps) {
            each(usize::from((index as i8).unsigned_abs()), reference(row_step, col_step, index));
        }
    }
}

/// Encodes the rows whose weights are `raw`.
pub(crate) fn encode(worker: &mut Worker, base: &Base, chunk_idx: usize, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let steps = base.read(worker, chunk_idx, raw.len())?;
    let indices = std::mem::take(&mut worker.indices[0]);
    let [fine, coarse] = MIN_CLASS_WEIGHTS.map(|least| firsts(&indices, least));
    let mut best = encode_classes(worker, &fine, &indices, steps, raw)?;
    if coarse != fine {
        let coarse = encode_classes(worker, &coarse, &indices, steps, raw)?;
        best = if coarse.len() < best.len() { coarse } else { best };
    }
    out.extend(best);
    worker.indices[0] = indices;
    Ok(())
}

/// The chunk with classes that begin with these magnitudes.
fn encode_classes(
    worker: &mut Worker,
    firsts: &[u8],
    indices: &[u8],
    steps: (&[f32], &[f32]),
    raw: &[u8],
) -> Result<Vec<u8>> {
    let classes = &mut worker.classes;
    classes.iter_mut().for_each(Vec::clear);
    classes.resize_with(classes.len().max(firsts.len()), Vec::new);
    let class_of = class_of(firsts);
    let mut weights = raw.as_chunks::<2>().0.iter();
    for_each_weight(indices, steps, |magnitude, reference| {
        let weight = weights.next().map_or(0, |&weight| u16::from_le_bytes(weight)); // One for each index.
        classes[class_of[magnitude]].extend(element_of(weight, reference).to_le_bytes());
    });
    let mut chunk = vec![firsts.len() as u8]; // At most MAX_CLASSES.
    chunk.extend(&firsts[1..]);
    classes[..firsts.len()].iter().try_for_each(|elements| encode_class(elements, &mut chunk))?;
    Ok(chunk)
}

/// The least magnitude of an index of each class, of at least `least` weights if there are as many; the first is 0.
fn firsts(indices: &[u8], least: usize) -> Vec<u8> {
    let mut counts = [0usize; 129];
    indices.iter().for_each(|&index| counts[usize::from((index as i8).unsigned_abs())] += 1);
    let mut left: usize = indices.len();
    let (mut firsts, mut n_weights) = (vec![0], 0);
    for (magnitude, count) in counts.into_iter().enumerate() {
        let is_room = firsts.len() < MAX_CLASSES && left >= least;
        if is_room && n_weights >= least {
            firsts.push(magnitude as u8);
            n_weights = 0;
        }
        (n_weights, left) = (n_weights + count, left - count);
    }
    firsts
}

/// The class of each magnitude of an index, 0 to 128.
fn class_of(firsts: &[u8]) -> [usize; 129] {
    std::array::from_fn(|magnitude| firsts.partition_point(|&first| usize::from(first) <= magnitude) - 1)
}

/// Appends the chunk of a class, in the split that makes it smallest.
fn encode_class(elements: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let mut best: Option<Vec<u8>> = None;
    for (dtype, level) in SPLITS.iter().filter(|_| !elements.is_empty()) {
        let mut chunk = Vec::new();
        Encoder::new(*level).encode_chunk(Dtype::from_name(dtype), elements, &mut chunk).map_err(codec_error)?;
        best = best.filter(|best| best.len() <= chunk.len()).or(Some(chunk));
    }
    let best = best.unwrap_or_default();
    out.extend((best.len() as u32).to_le_bytes()); // A chunk of the codec is below 2^25 bytes.
    out.extend(best);
    Ok(())
}

/// Decodes a chunk into the weights that it and the indices stand for.
pub(crate) fn decode(worker: &mut Worker, base: &Base, chunk_idx: usize, chunk: &[u8], raw: &mut [u8]) -> Result<()> {
    let steps = base.read(worker, chunk_idx, raw.len())?;
    let indices = std::mem::take(&mut worker.indices[0]);
    let mut classes = std::mem::take(&mut worker.classes);
    let decoded = decode_classes(worker, &indices, chunk, &mut classes).map(|class_of| {
        let mut cursors: Vec<_> = classes.iter().map(|elements| elements.as_chunks::<2>().0.iter()).collect();
        let mut weights = raw.as_chunks_mut::<2>().0.iter_mut();
        for_each_weight(&indices, steps, |magnitude, reference| {
            let element = cursors[class_of[magnitude]].next(); // One for each index, counted.
            let element = element.map_or(CENTRE, |&element| u16::from_le_bytes(element));
            weights.next().into_iter().for_each(|weight| *weight = weight_of(element, reference).to_le_bytes());
        });
    });
    (worker.indices[0], worker.classes) = (indices, classes);
    decoded
}

/// Makes `classes` the elements of each class; gives the class of each magnitude.
fn decode_classes(
    worker: &mut Worker,
    indices: &[u8],
    chunk: &[u8],
    classes: &mut Vec<Vec<u8>>,
) -> Result<[usize; 129]> {
    let (firsts, mut rest) = split_classes(chunk)?;
    let class_of = class_of(&firsts);
    classes.resize_with(classes.len().max(firsts.len()), Vec::new);
    let mut n_weights = [0; MAX_CLASSES];
    indices.iter().for_each(|&index| n_weights[class_of[usize::from((index as i8).unsigned_abs())]] += 1);
    for (elements, n_weights) in classes.iter_mut().zip(n_weights).take(firsts.len()) {
        let (coded, after) = take_class(rest)?;
        rest = after;
        elements.resize(2 * n_weights, 0); // Of all classes together as many bytes as the chunk stands for.
        match (n_weights, coded.is_empty()) {
            (0, true) => {}
            (0, false) => return Err(Error::corrupt("a class without weights that is not empty")),
            _ => worker.decoder.decode_chunk(element_dtype(), coded, elements).map_err(codec_error)?,
        }
    }
    if rest.is_empty() { Ok(class_of) } else { Err(Error::corrupt("bytes after the last class of a chunk")) }
}

/// The least magnitude of each class, and the bytes of the classes.
fn split_classes(chunk: &[u8]) -> Result<(Vec<u8>, &[u8])> {
    let (&n_classes, rest) = chunk.split_first().ok_or_else(|| Error::truncated(1, 0))?;
    if !(1..=MAX_CLASSES).contains(&usize::from(n_classes)) {
        return Err(Error::corrupt("a chunk of no or too many classes of weights"));
    }
    let split = rest.split_at_checked(usize::from(n_classes) - 1);
    let (more, rest) = split.ok_or_else(|| Error::truncated(u64::from(n_classes), chunk.len() as u64))?;
    let firsts: Vec<u8> = std::iter::once(0).chain(more.iter().copied()).collect();
    let ascend = firsts.windows(2).all(|pair| pair[0] < pair[1]) && firsts.iter().all(|&first| first <= 128);
    if ascend { Ok((firsts, rest)) } else { Err(Error::corrupt("classes of weights that do not ascend")) }
}

/// The chunk of the next class, and what follows it.
fn take_class(rest: &[u8]) -> Result<(&[u8], &[u8])> {
    let (len_bytes, after) = rest.split_first_chunk::<4>().ok_or_else(|| Error::truncated(4, rest.len() as u64))?;
    let len_bytes = u32::from_le_bytes(*len_bytes) as usize;
    after.split_at_checked(len_bytes).ok_or_else(|| Error::truncated(len_bytes as u64, after.len() as u64))
}

fn element_dtype() -> Dtype {
    Dtype::from_name("U16")
}

/// How a chunk is coded, in words: by its first class that has weights.
pub(crate) fn label(chunk: &[u8]) -> Result<String> {
    let (firsts, mut rest) = split_classes(chunk)?;
    for _ in &firsts {
        let (coded, after) = take_class(rest)?;
        rest = after;
        if !coded.is_empty() {
            let info = describe_chunk(element_dtype(), coded).map_err(codec_error)?;
            return Ok(format!("refined {}", codec_label(&info)));
        }
    }
    Ok("refined".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_comes_back() {
        for reference in [0, 1, 0x3f80, 0x7f80, 0x8001, 0xbf80, 0xff00, 0x8000] {
            for weight in 0..=u16::MAX {
                assert_eq!(weight_of(element_of(weight, reference), reference), weight);
            }
        }
        assert_eq!([element_of(0x3f80, 0x3f80), element_of(0xbf81, 0x3f80)], [CENTRE, 0x8000 | (CENTRE + 1)]);
        assert_eq!([reference(1.0, 2.0, 0), reference(1.0, 2.0, 0xff)], [0x4000, 0xc000]);
    }

    #[test]
    fn classes_are_large_enough() {
        let check = |counts: &[(i8, usize)], expected: &[u8]| {
            let indices: Vec<u8> = counts.iter().flat_map(|&(index, n)| std::iter::repeat_n(index as u8, n)).collect();
            assert_eq!(firsts(&indices, 6000), expected);
        };
        check(&[(0, 10)], &[0]);
        check(&[(0, 6000), (1, 5999)], &[0]);
        check(&[(0, 6000), (-1, 6000)], &[0, 1]);
        check(&[(0, 3000), (1, 3000), (2, 1), (-3, 9000), (-128, 7000)], &[0, 2, 4]);
        let classes = class_of(&[0, 1, 128]);
        assert_eq!((classes[0], classes[1], classes[127], classes[128]), (0, 1, 1, 2));
    }
}
