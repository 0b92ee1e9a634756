//! Chunk in, bytes out. Checks the frame, then goes through the chunk in blocks that fit the first-level cache:
//! every plane yields a block of values, the join makes elements of them.

use crate::kernels::{self, Kernels};
use crate::reader::Reader;
use crate::split::{Split, coder};
use crate::{Error, rans8, rans12};
use netweight_tensor::Dtype;

/// Values decoded at a time: a multiple of every coder's step, small enough for the first-level cache.
const BLOCK: usize = 4096;
/// The widest element has 8 bytes.
const MAX_PLANES: usize = 8;
/// Chunks are at most this long, decoded (docs/format.md section 2, `chunk_bytes`).
pub const MAX_CHUNK_BYTES: usize = 16 << 20;

/// Decodes chunks. Holds the scratch memory, so one per thread; allocates nothing once its vectors have seen
/// the largest chunk.
///
/// ```
/// use netweight_codec::{Decoder, Encoder, Level};
/// use netweight_tensor::Dtype;
/// let weights: Vec<u8> = (0..20_000u16).flat_map(|i| (0x3c00 + i % 640).to_le_bytes()).collect();
/// let dtype = Dtype::from_name("BF16");
/// let mut chunk = vec![];
/// Encoder::new(Level::Default).encode_chunk(dtype, &weights, &mut chunk)?;
/// assert!(chunk.len() < weights.len());
/// let mut back = vec![0; weights.len()];
/// Decoder::new().decode_chunk(dtype, &chunk, &mut back)?;
/// assert_eq!(back, weights);
/// # Ok::<(), netweight_codec::Error>(())
/// ```
pub struct Decoder {
    kernels: &'static Kernels,
    past_caches: bool,
    tables: Vec<rans12::DecodeTable>,      // one per plane
    escapes: Vec<Vec<u16>>,                // one per plane
    bytes: Box<[[u8; BLOCK]; MAX_PLANES]>, // a block of each byte plane; the last one for a field's symbols
    field: Box<[u16; BLOCK]>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder for the fastest instruction set of this CPU.
    pub fn new() -> Decoder {
        Decoder::with(kernels::best())
    }

    /// A decoder for the instruction set of that name, one of [`crate::isas`]; `None` for any other. For tests
    /// and measurements: all of them give the same bytes.
    pub fn for_isa(name: &str) -> Option<Decoder> {
        kernels::available().find(|kernels| kernels.name == name).map(Decoder::with)
    }

    pub(crate) fn with(kernels: &'static Kernels) -> Decoder {
        Decoder {
            kernels,
            past_caches: false,
            tables: (0..MAX_PLANES).map(|_| rans12::DecodeTable::default()).collect(),
            escapes: vec![vec![]; MAX_PLANES],
            bytes: Box::new([[0; BLOCK]; MAX_PLANES]),
            field: Box::new([0; BLOCK]),
        }
    }

    /// Whether to write past the caches where `dst` begins at a multiple of 64 bytes: faster for output larger
    /// than the caches that nobody reads soon, such as a model being loaded; slower for a buffer used again and
    /// again. Off at first.
    pub fn past_caches(mut self, past_caches: bool) -> Decoder {
        self.past_caches = past_caches;
        self
    }

    /// Decodes `chunk` into all of `dst`: the bytes that the chunk stands for, as many as the encoder was given.
    ///
    /// # Errors
    /// Anything that docs/format.md does not allow; `dst` then holds no meaning.
    pub fn decode_chunk(&mut self, dtype: Dtype, chunk: &[u8], dst: &mut [u8]) -> Result<(), Error> {
        let element_bytes = dtype.element_bytes();
        check_length(dst.len(), element_bytes)?;
        let n = dst.len() / element_bytes;
        let (split, parts) = frame(element_bytes, chunk)?;
        let mut planes: [Option<Plane>; MAX_PLANES] = Default::default();
        let Decoder { kernels, past_caches, tables, escapes, bytes, field } = self;
        let memory = tables.iter_mut().zip(escapes);
        for (idx, ((plane, part), (table, escapes))) in planes.iter_mut().zip(&parts).zip(memory).enumerate() {
            let bits = split.plane_bits(element_bytes, idx);
            if let Some((id, payload)) = *part {
                *plane = Some(Plane::open(id, payload, n, bits, split.is_field(element_bytes, idx), table, escapes)?);
            }
        }
        let n_joined = match (split, element_bytes, &mut planes) {
            (Split::Half { k }, 2, [Some(Plane::Raw { packed }), Some(Plane::Rans8(field)), ..]) => {
                let join = rans8::Join { k, past_caches: *past_caches };
                field.next_elements(kernels, join, packed, dst)
            }
            _ => 0,
        };
        for block in dst[n_joined..].chunks_mut(BLOCK * element_bytes) {
            let n = block.len() / element_bytes;
            for (idx, plane) in planes.iter_mut().flatten().enumerate() {
                let bits = split.plane_bits(element_bytes, idx);
                if split.is_field(element_bytes, idx) {
                    plane.next_words(kernels, bits, &mut bytes[idx][..n], &mut field[..n])?;
                } else {
                    plane.next_bytes(kernels, bits, &mut bytes[idx][..n])?;
                }
            }
            let planes = bytes.each_ref().map(|plane| &plane[..n]);
            join(kernels, split, &planes[..split.n_planes(element_bytes)], &field[..n], block);
        }
        planes.iter().flatten().try_for_each(Plane::finish)
    }
}

/// Puts a block's elements together; of a half split the last of `planes` is not used but `field`.
fn join(kernels: &Kernels, split: Split, planes: &[&[u8]], field: &[u16], block: &mut [u8]) {
    match (split, planes) {
        (Split::Half { k }, [rest @ .., low, _]) => (kernels.join_half)(k, rest, low, field, block),
        (Split::Sign, [sign, rest]) => (kernels.join_sign)(sign, rest, block),
        _ => (kernels.join_bytes)(planes, block),
    }
}

pub(crate) fn check_length(len_bytes: usize, element_bytes: usize) -> Result<(), Error> {
    match len_bytes {
        0 => Err(Error::InvalidArgument("a chunk stands for at least one element")),
        1..=MAX_CHUNK_BYTES if len_bytes.is_multiple_of(element_bytes) => Ok(()),
        1..=MAX_CHUNK_BYTES => Err(Error::InvalidArgument("length is no multiple of the element")),
        _ => Err(Error::InvalidArgument("longer than a chunk can be")),
    }
}

/// Coder and payload of each plane.
type Parts<'a> = [Option<(u8, &'a [u8])>; MAX_PLANES];

/// Reads a chunk's frame.
pub(crate) fn frame(element_bytes: usize, chunk: &[u8]) -> Result<(Split, Parts<'_>), Error> {
    let mut reader = Reader::new(chunk);
    let split = Split::from_id(reader.u8()?, element_bytes)?;
    let n_planes = split.n_planes(element_bytes);
    let mut heads = [(0, 0); MAX_PLANES];
    for head in &mut heads[..n_planes] {
        *head = (reader.u8()?, reader.count(chunk.len(), "plane length")?);
    }
    let mut parts: Parts = Default::default();
    for (part, (id, len_bytes)) in parts.iter_mut().zip(&heads[..n_planes]) {
        *part = Some((*id, reader.bytes(*len_bytes)?));
    }
    reader.finish()?;
    Ok((split, parts))
}

/// A plane being decoded: what is left of its payload, by coder.
#[allow(clippy::large_enum_variant)] // See Box8.
enum Plane<'a> {
    Raw { packed: &'a [u8] },
    Constant { value: u16 },
    Rans8(Box8<'a>),
    Rans12(rans12::Plane<'a>),
}

/// The only large variant, kept on the stack: a chunk has one field at most.
type Box8<'a> = rans8::Plane<'a>;

impl<'a> Plane<'a> {
    fn open(
        id: u8,
        payload: &'a [u8],
        n: usize,
        bits: u32,
        is_field: bool,
        table: &'a mut rans12::DecodeTable,
        escapes: &'a mut Vec<u16>,
    ) -> Result<Plane<'a>, Error> {
        match id {
            coder::RAW if !is_field => raw(payload, n, bits),
            coder::CONSTANT => constant(payload, bits),
            coder::RANS8 if is_field => Ok(Plane::Rans8(rans8::Plane::open(payload, n, bits, escapes)?)),
            coder::RANS12 => Ok(Plane::Rans12(rans12::Plane::open(payload, n, bits, table, escapes)?)),
            coder::RAW | coder::RANS8 => Err(Error::Corrupt("coder does not fit the plane")),
            _ => Err(Error::Unsupported("coder of a newer version")),
        }
    }

    fn next_bytes(&mut self, kernels: &Kernels, bits: u32, out: &mut [u8]) -> Result<(), Error> {
        match self {
            Plane::Raw { packed } => {
                let (head, rest) = packed.split_at((out.len() * bits as usize).div_ceil(8));
                unpack(kernels, bits, head, out);
                *packed = rest;
                Ok(())
            }
            Plane::Constant { value } => {
                out.fill(*value as u8);
                Ok(())
            }
            Plane::Rans12(plane) => plane.next_bytes(kernels, bits, out),
            Plane::Rans8(_) => Err(Error::Corrupt("coder does not fit the plane")),
        }
    }

    fn next_words(&mut self, kernels: &Kernels, bits: u32, symbols: &mut [u8], out: &mut [u16]) -> Result<(), Error> {
        match self {
            Plane::Constant { value } => {
                out.fill(*value);
                Ok(())
            }
            Plane::Rans8(plane) => plane.next(kernels, bits, out),
            Plane::Rans12(plane) if bits > 8 => plane.next_words(kernels, bits, symbols, out),
            Plane::Rans12(plane) => {
                plane.next_bytes(kernels, bits, symbols)?;
                (kernels.widen)(symbols, 0, None, &[], out);
                Ok(())
            }
            Plane::Raw { .. } => Err(Error::Corrupt("coder does not fit the plane")),
        }
    }

    fn finish(&self) -> Result<(), Error> {
        match self {
            Plane::Rans8(plane) => plane.finish(),
            Plane::Rans12(plane) => plane.finish(),
            Plane::Raw { .. } | Plane::Constant { .. } => Ok(()),
        }
    }
}

fn raw(payload: &[u8], n: usize, bits: u32) -> Result<Plane<'_>, Error> {
    let n_bits = n * bits as usize;
    let expected = n_bits.div_ceil(8);
    if payload.len() != expected {
        return Err(Error::Truncated { expected, actual: payload.len() });
    }
    match payload.last() {
        Some(last) if !n_bits.is_multiple_of(8) && last >> (n_bits % 8) != 0 => Err(Error::Corrupt("padding bits")),
        _ => Ok(Plane::Raw { packed: payload }),
    }
}

fn constant(payload: &[u8], bits: u32) -> Result<Plane<'_>, Error> {
    let mut reader = Reader::new(payload);
    let value = reader.u16()?;
    reader.finish()?;
    if u32::from(value) >= 1 << bits {
        return Err(Error::Corrupt("constant"));
    }
    Ok(Plane::Constant { value })
}

/// Unpacks `out.len()` values, which need not be a multiple of eight.
fn unpack(kernels: &Kernels, bits: u32, packed: &[u8], out: &mut [u8]) {
    if bits == 8 {
        return out.copy_from_slice(packed);
    }
    let (whole, tail) = out.split_at_mut(out.len() / 8 * 8);
    let (packed_whole, packed_tail) = packed.split_at(whole.len() / 8 * bits as usize);
    (kernels.unpack)(bits, packed_whole, whole);
    let (mut padded, mut eight) = ([0; 8], [0; 8]);
    padded[..packed_tail.len()].copy_from_slice(packed_tail);
    kernels::portable::unpack(bits, &padded[..bits as usize], &mut eight);
    tail.copy_from_slice(&eight[..tail.len()]);
}
