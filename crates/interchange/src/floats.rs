//! Floats as bytes, both ways, and the one quantised type that is written. Writers count what does not fit exactly.

use half::{bf16, f16};

/// What writing values cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Values that a float type holds only rounded.
    pub(crate) rounded: u64,
    /// Finite values that it cannot hold at all; for quantised types, blocks with a value that is not finite or too
    /// large.
    pub(crate) unfit: u64,
}

impl Tally {
    pub(crate) fn plus(self, other: Tally) -> Tally {
        Tally { rounded: self.rounded + other.rounded, unfit: self.unfit + other.unfit }
    }

    fn count(&mut self, value: f32, stored: f32) {
        self.rounded += u64::from(stored != value && !value.is_nan());
        self.unfit += u64::from(stored.is_infinite() && value.is_finite());
    }
}

pub(crate) fn from_f32(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<4>().0.iter().zip(dst) {
        *value = f32::from_le_bytes(*bytes);
    }
}

pub(crate) fn from_f16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = f16::from_le_bytes(*bytes).to_f32();
    }
}

pub(crate) fn from_bf16(src: &[u8], dst: &mut [f32]) {
    for (bytes, value) in src.as_chunks::<2>().0.iter().zip(dst) {
        *value = bf16::from_le_bytes(*bytes).to_f32();
    }
}

pub(crate) fn to_f32(src: &[f32], dst: &mut [u8]) -> Tally {
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<4>().0) {
        *bytes = value.to_le_bytes();
    }
    Tally::default()
}

pub(crate) fn to_f16(src: &[f32], dst: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        let stored = f16::from_f32(*value);
        tally.count(*value, stored.to_f32());
        *bytes = stored.to_le_bytes();
    }
    tally
}

pub(crate) fn to_bf16(src: &[f32], dst: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    for (value, bytes) in src.iter().zip(dst.as_chunks_mut::<2>().0) {
        let stored = bf16::from_f32(*value);
        tally.count(*value, stored.to_f32());
        *bytes = stored.to_le_bytes();
    }
    tally
}

/// GGML's own rounding: to the nearest, halves away from zero, by the scale before that is rounded to f16.
pub(crate) fn to_q8_0(src: &[f32], dst: &mut [u8]) -> Tally {
    let mut tally = Tally::default();
    for (values, block) in src.chunks_exact(32).zip(dst.chunks_exact_mut(34)) {
        let largest = values.iter().fold(0f32, |largest, value| largest.max(value.abs()));
        let scale = largest / 127.0;
        let stored = f16::from_f32(scale);
        tally.unfit += u64::from(!stored.is_finite() || values.iter().any(|value| !value.is_finite()));
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        block[..2].copy_from_slice(&stored.to_le_bytes());
        for (value, byte) in values.iter().zip(&mut block[2..]) {
            *byte = (value * inverse).round() as i8 as u8;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_counted() {
        let check = |encode: fn(&[f32], &mut [u8]) -> Tally, value: f32, rounded: u64, unfit: u64| {
            let tally = encode(&[value], &mut [0; 2]);
            assert_eq!(tally, Tally { rounded, unfit }, "{value}");
        };
        check(to_bf16, 1.0, 0, 0);
        check(to_bf16, 1.0 + f32::EPSILON, 1, 0);
        check(to_bf16, f32::MAX, 1, 1);
        check(to_bf16, f32::INFINITY, 0, 0);
        check(to_bf16, f32::NAN, 0, 0);
        check(to_f16, 65504.0, 0, 0);
        check(to_f16, 1e6, 1, 1);
        check(to_f16, 1e-9, 1, 0);
    }

    #[test]
    fn blocks_that_do_not_fit_are_counted() {
        let check = |value: f32, unfit: u64| {
            let mut values = [0.5; 64];
            values[40] = value;
            assert_eq!(to_q8_0(&values, &mut [0; 68]), Tally { rounded: 0, unfit }, "{value}");
        };
        check(3.0, 0);
        check(f32::NAN, 1);
        check(f32::NEG_INFINITY, 1);
        check(127.0 * 65504.0, 0);
        check(127.0 * 70000.0, 1);
    }
}
