//! Joining: every row, every `k` that has a kernel, against the definition. Chunks that the encoder makes do not
//! reach all of them.

use super::{Join, Model, N_LANES, Plane, Scratch, Writer};
use crate::kernels::{self, Kernels, portable};
use crate::tests::Random;

/// A plane of field values and one of low bits, coded as a chunk has them, and the elements that they make.
struct Planes {
    n: usize,
    k: u32,
    payload: Vec<u8>,
    low: Vec<u8>, // packed
    elements: Vec<u8>,
}

/// `spread` is how far the values go around their centre; those far away become escapes.
fn planes(k: u32, n: usize, spread: f32) -> Planes {
    let mut random = Random(u64::from(k) + n as u64);
    let limit = 1u16 << (15 - k);
    let field: Vec<u16> =
        (0..n).map(|_| ((f32::from(limit / 2) + random.normal() * spread).max(0.0) as u16).min(limit - 1)).collect();
    let low: Vec<u8> = (0..n).map(|_| (random.next() >> 32) as u8 & ((1u16 << (k + 1)) - 1) as u8).collect();
    let mut counts = vec![0; usize::from(limit)];
    field.iter().for_each(|&value| counts[usize::from(value)] += 1);
    let model = Model::from_counts(&counts);
    let symbols: Vec<u8> = field.iter().map(|&value| model.symbol(value)).collect();
    let (steps, tail) = field.split_at(n / N_LANES * N_LANES);
    let escapes: Vec<u16> = steps.iter().copied().filter(|&value| model.symbol(value) == super::ESCAPE as u8).collect();
    let (mut payload, mut packed, mut elements) = (vec![], vec![0; n / 8 * (k as usize + 1)], vec![0; 2 * n]);
    let mut scratch = Scratch::default();
    let mut writer = Writer::new(&model, n / N_LANES, &mut scratch);
    writer.push(kernels::best(), &symbols[..steps.len()]);
    writer.finish(tail, &escapes, &mut payload);
    portable::pack(k + 1, &low, &mut packed);
    portable::join_half(k, &[], &low, &field, &mut elements);
    Planes { n, k, payload, low: packed, elements }
}

/// Joins with one row as far as it goes; then the rest of the plane must follow.
fn check(kernels: &Kernels, planes: &Planes) -> usize {
    let &Planes { n, k, .. } = planes;
    let (mut escapes, mut low, mut out) = (vec![], &planes.low[..], vec![0xaa; 2 * n]);
    let mut plane = Plane::open(&planes.payload, n, 15 - k, &mut escapes).unwrap();
    let n_bytes = plane.next_elements(kernels, Join { k, past_caches: false }, &mut low, &mut out);
    let name = kernels.name;
    assert!(out[..n_bytes] == planes.elements[..n_bytes], "{name}, k = {k}, n = {n}");
    assert_eq!(planes.low.len() - low.len(), n_bytes / 16 * (k as usize + 1), "{name}: bytes of the low plane");
    let mut rest = vec![0; n - n_bytes / 2];
    plane.next(kernels, 15 - k, &mut rest).unwrap();
    plane.finish().unwrap();
    let mask = (1u16 << (15 - k)) - 1;
    let wanted = planes.elements[n_bytes..].chunks_exact(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]) >> k);
    assert!(wanted.map(|top| top & mask).eq(rest), "{name}, k = {k}, n = {n}: what follows");
    n_bytes
}

#[test]
fn joined_elements_are_those_of_the_definition() {
    for k in [4, 6, 7] {
        for n in [8, 128, 1024, 1032, 8192, 20_480] {
            for spread in [0.3, 3.0, 9.0] {
                let planes = planes(k, n, spread);
                for kernels in kernels::available() {
                    check(kernels, &planes);
                }
            }
        }
    }
}

#[test]
#[cfg(target_arch = "aarch64")]
fn neon_is_among_the_rows_and_joins_most_of_a_plane() {
    let neon = kernels::available().find(|kernels| kernels.name == "neon").expect("a row");
    for k in [4, 6, 7] {
        assert!(check(neon, &planes(k, 20_480, 3.0)) > 2 * 20_000, "k = {k}");
    }
}

#[test]
fn rows_without_a_join_for_k_leave_everything() {
    let planes = planes(6, 1024, 3.0);
    for kernels in kernels::available() {
        let (mut escapes, mut low) = (vec![], &planes.low[..]);
        let mut plane = Plane::open(&planes.payload, planes.n, 9, &mut escapes).unwrap();
        let join = Join { k: 5, past_caches: false };
        assert_eq!(plane.next_elements(kernels, join, &mut low, &mut vec![0; 2048]), 0);
        assert_eq!(low.len(), planes.low.len());
    }
}
