//! The codec: chunks from nowhere, chunks with damage, and any bytes there and back.

use std::sync::OnceLock;

use netweight_codec::{Decoder, Encoder, Level, describe_chunk, isas};
use netweight_tensor::{DTYPES, Dtype};

use crate::input::Input;
use crate::make;

/// Longest output of a chunk from nowhere, in elements: several blocks of the decoder.
const MAX_ELEMENTS: usize = 20_000;
const MAX_RAW_BYTES: usize = 1 << 18;

/// Input: dtype, number of elements (u16), the chunk.
pub(crate) fn decode(input: &[u8]) {
    let mut input = Input::new(input);
    let dtype = input.dtype();
    let n = usize::from(input.u16()) % MAX_ELEMENTS + 1;
    decode_everywhere(dtype, input.rest(), n * dtype.element_bytes());
}

/// Input: dtype, level, repetitions; number of changes, each of a position (u16), a way and a byte; then what is
/// encoded and changed.
pub(crate) fn mutate(input: &[u8]) {
    let mut input = Input::new(input);
    let (dtype, level, n_repeats) = (input.dtype(), input.level(), input.u8());
    let n_changes = input.u8() % 8;
    let changes: Vec<(u16, u8, u8)> = (0..n_changes).map(|_| (input.u16(), input.u8(), input.u8())).collect();
    let raw = stretch(input.rest(), n_repeats, dtype);
    if raw.is_empty() {
        return;
    }
    let mut chunk = vec![];
    Encoder::new(level).encode_chunk(dtype, &raw, &mut chunk).expect("a length that a chunk can have");
    for (position, way, byte) in changes {
        change(&mut chunk, usize::from(position), way, byte);
    }
    decode_everywhere(dtype, &chunk, raw.len());
}

fn change(chunk: &mut Vec<u8>, position: usize, way: u8, byte: u8) {
    if chunk.is_empty() {
        return;
    }
    // Positions near the front, where the frame and the tables are, and anywhere.
    let last = chunk.len() - 1;
    let idx = if way & 8 == 0 { position % chunk.len().min(700) } else { position * 7 % chunk.len() };
    match way % 8 {
        0 => chunk[idx] ^= byte,
        1 => chunk[idx] = byte,
        2 => chunk[idx] = chunk[idx].wrapping_add(1),
        3 => chunk[idx] = chunk[idx].wrapping_sub(1),
        4 => chunk.truncate(idx),
        5 => chunk.insert(idx, byte),
        6 => drop(chunk.remove(idx)),
        _ => chunk.swap(idx, usize::from(byte).min(last)),
    }
}

/// Input: dtype, level, repetitions, then what is encoded.
pub(crate) fn round_trip(input: &[u8]) {
    let mut input = Input::new(input);
    let (dtype, level, n_repeats) = (input.dtype(), input.level(), input.u8());
    let raw = stretch(input.rest(), n_repeats, dtype);
    let mut chunk = vec![];
    let encoded = Encoder::new(level).encode_chunk(dtype, &raw, &mut chunk);
    assert_eq!(encoded.is_ok(), !raw.is_empty());
    if encoded.is_ok() {
        assert!(chunk.len() <= raw.len() + 1 + 5 * dtype.element_bytes(), "{} from {}", chunk.len(), raw.len());
        assert!(decode_everywhere(dtype, &chunk, raw.len()).as_deref() == Some(&raw[..]), "other bytes came back");
    }
}

/// Input: dtype, the chunk.
pub(crate) fn describe(input: &[u8]) {
    let mut input = Input::new(input);
    let (dtype, chunk) = (input.dtype(), input.rest());
    if let Ok(info) = describe_chunk(dtype, chunk) {
        let plane_bytes: usize = info.planes.iter().map(|plane| 5 + plane.len_bytes).sum();
        assert_eq!(1 + plane_bytes, chunk.len());
        let plane_bits: u32 = info.planes.iter().map(|plane| plane.bits).sum();
        assert_eq!(plane_bits as usize, 8 * dtype.element_bytes());
    }
}

/// Decodes with every instruction set, over zeros and over ones, with a decoder that is fresh and with one whose
/// memory another chunk has been in. Every time the same bytes must come out, or an error.
fn decode_everywhere(dtype: Dtype, chunk: &[u8], len_bytes: usize) -> Option<Vec<u8>> {
    let mut first: Option<Option<Vec<u8>>> = None;
    let (mut aligned, mut back) = (vec![0; len_bytes + 64], vec![0; len_bytes]);
    let begin = aligned.as_ptr().align_offset(64);
    let aligned = &mut aligned[begin..][..len_bytes];
    for isa in isas() {
        let decoder = || Decoder::for_isa(isa).expect("an instruction set of this CPU");
        back.fill(0);
        let over_zeros = decoder().decode_chunk(dtype, chunk, &mut back).is_ok();
        let over_zeros = over_zeros.then(|| back.clone());
        let mut used = decoder().past_caches(true);
        let (other, mut other_back) = other_chunk();
        used.decode_chunk(other_dtype(), other, &mut other_back).expect("a good chunk");
        aligned.fill(0xff);
        let over_ones = used.decode_chunk(dtype, chunk, aligned).is_ok();
        assert!(over_ones == over_zeros.is_some(), "{isa}: accepted or not depends on what was in memory");
        if let Some(over_zeros) = &over_zeros {
            assert!(*over_zeros == *aligned, "{isa}: the output depends on what was in memory");
            assert!(describe_chunk(dtype, chunk).is_ok(), "decodes but cannot be described");
        }
        let first = first.get_or_insert_with(|| over_zeros.clone());
        assert!(*first == over_zeros, "{isa}: the output depends on the instruction set");
    }
    first.flatten()
}

fn other_dtype() -> Dtype {
    Dtype::from_name("F64")
}

/// A chunk that leaves something in every table and buffer of a decoder, and room for its output.
fn other_chunk() -> (&'static [u8], Vec<u8>) {
    static CHUNK: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    let (chunk, len_bytes) = CHUNK.get_or_init(|| {
        let raw: Vec<u8> = make::weights(10_000, 7).iter().map(|&byte| byte & 0x7f).collect();
        let mut chunk = vec![];
        Encoder::new(Level::Max).encode_chunk(other_dtype(), &raw, &mut chunk).expect("a good length");
        (chunk, raw.len())
    });
    (chunk, vec![0; *len_bytes])
}

/// `bytes` again and again, the later ones with other low bits, cut to whole elements.
fn stretch(bytes: &[u8], n_repeats: u8, dtype: Dtype) -> Vec<u8> {
    let mut raw = bytes.to_vec();
    for repeat in 0..n_repeats {
        if raw.len() > MAX_RAW_BYTES {
            break;
        }
        raw.extend(bytes.iter().enumerate().map(|(idx, byte)| byte ^ if idx % 2 == 0 { repeat } else { repeat & 1 }));
    }
    raw.truncate(raw.len() / dtype.element_bytes() * dtype.element_bytes());
    raw
}

/// Chunks of several lengths, dtypes and levels with their dtype's number and their number of elements.
fn chunks() -> Vec<(u8, u16, Vec<u8>)> {
    let mut chunks = vec![];
    for (dtype_idx, row) in DTYPES
        .iter()
        .enumerate()
        .filter(|(_, row)| matches!(row.name, "BF16" | "F16" | "F32" | "F64" | "F8_E4M3" | "U8"))
    {
        for level in [Level::Default, Level::Max] {
            for n in [1, 130, 700, 4100] {
                for raw in [make::weights(n * row.element_bytes, 3), vec![1; n * row.element_bytes]] {
                    let mut chunk = vec![];
                    let dtype = Dtype::from_name(row.name);
                    Encoder::new(level).encode_chunk(dtype, &raw, &mut chunk).expect("a good length");
                    chunks.push((dtype_idx as u8, n as u16 - 1, chunk));
                }
            }
        }
    }
    chunks
}

pub(crate) fn decode_seeds() -> Vec<Vec<u8>> {
    let seed = |(dtype, n, chunk): (u8, u16, Vec<u8>)| [&[dtype], &n.to_le_bytes()[..], &chunk].concat();
    chunks().into_iter().map(seed).collect()
}

pub(crate) fn describe_seeds() -> Vec<Vec<u8>> {
    chunks().into_iter().map(|(dtype, _, chunk)| [&[dtype], &chunk[..]].concat()).collect()
}

pub(crate) fn mutate_seeds() -> Vec<Vec<u8>> {
    let head = |dtype: u8, level: u8, way: u8| [dtype, level, 2, 3, 9, 0, way, 1, 200, 0, way, 4, 100, 1, way | 8, 16];
    let ways = (0..16).map(|way| [&head(way % 5, way / 2 % 2, way)[..], &make::weights(3000, u64::from(way))].concat());
    ways.collect()
}

pub(crate) fn round_trip_seeds() -> Vec<Vec<u8>> {
    let noise: Vec<u8> = (0..2000u32).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    let mut seeds = vec![];
    for dtype in [0, 1, 2, 3, 4, 13, 16] {
        for (level, repeats) in [(0, 0), (1, 0), (0, 20), (1, 20)] {
            for raw in [&make::weights(2000, 5)[..], &noise, &[0; 300], &[1, 2, 3, 4, 5, 6, 7, 8]] {
                seeds.push([&[dtype, level, repeats], raw].concat());
            }
        }
    }
    seeds
}
