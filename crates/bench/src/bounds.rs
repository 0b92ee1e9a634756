//! How small order-0 entropy coding could make a data set, tables not counted.

use netweight_tensor::{Dtype, Layout};

use crate::data::{DataSet, Segment};
use crate::report::Bounds;

/// Both bounds, in percent of the original.
pub(crate) fn bounds(data: &DataSet) -> Bounds {
    let (mut exponent_bits, mut joint_bits) = (0.0, 0.0);
    for Segment { dtype, range } in &data.segments {
        let (exponent, joint) = tensor_bits(*dtype, &data.bytes[range.clone()]);
        exponent_bits += exponent;
        joint_bits += joint;
    }
    let percent = |bits: f64| 100.0 * bits / (8.0 * data.bytes.len() as f64);
    Bounds { exponent_percent: percent(exponent_bits), joint_percent: percent(joint_bits) }
}

/// Bits of the exponent and of the mantissa inside the top byte or two, where the dtype is a float.
fn exponent_field(dtype: Dtype) -> Option<(u32, u32)> {
    match (dtype.layout(), dtype.name()) {
        (Layout::Float16 { exponent_bits }, _) => Some((exponent_bits.into(), 15 - u32::from(exponent_bits))),
        (_, "F8_E4M3" | "F8_E4M3FNUZ") => Some((4, 3)),
        (_, "F8_E5M2" | "F8_E5M2FNUZ") => Some((5, 2)),
        _ => None,
    }
}

/// Bits of a tensor with (all but the exponent raw, top bits jointly coded and the other bytes each on its
/// own). Not a float: every byte on its own, twice.
fn tensor_bits(dtype: Dtype, bytes: &[u8]) -> (f64, f64) {
    let width = dtype.element_bytes();
    let plane = |byte_idx: usize| {
        let mut counts = [0u64; 256];
        bytes[byte_idx..].iter().step_by(width).for_each(|&byte| counts[usize::from(byte)] += 1);
        entropy_bits(&counts)
    };
    let Some((exponent_bits, mantissa_bits)) = exponent_field(dtype) else {
        let planes = (0..width).map(plane).sum();
        return (planes, planes);
    };
    let top_bytes = width.min(2);
    let mut joint = vec![0u64; 1 << (8 * top_bytes)];
    for element in bytes.chunks_exact(width) {
        let top = element[width - top_bytes..].iter().rev().fold(0, |top, &byte| top << 8 | usize::from(byte));
        joint[top] += 1;
    }
    let mut exponents = vec![0u64; 1 << exponent_bits];
    for (top, count) in joint.iter().enumerate() {
        exponents[top >> mantissa_bits & ((1 << exponent_bits) - 1)] += count;
    }
    let raw_bits = (8 * width as u32 - exponent_bits) as f64 * (bytes.len() / width) as f64;
    let lower: f64 = (0..width - top_bytes).map(plane).sum();
    (entropy_bits(&exponents) + raw_bits, entropy_bits(&joint) + lower)
}

/// Order-0 entropy of all symbols together, in bits.
fn entropy_bits(counts: &[u64]) -> f64 {
    let total: u64 = counts.iter().sum();
    let bits = |&count: &u64| count as f64 * (total as f64 / count as f64).log2();
    counts.iter().filter(|count| **count > 0).map(bits).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_entropies() {
        let check = |name: &str, bytes: &[u8], exponent: f64, joint: f64| {
            let mut data = DataSet::default();
            data.push(Dtype::from_name(name), bytes);
            let found = bounds(&data);
            assert!((found.exponent_percent - exponent).abs() < 1e-9, "{name} {found:?}");
            assert!((found.joint_percent - joint).abs() < 1e-9, "{name} {found:?}");
        };
        // One value: nothing but the raw bits is left, and nothing at all jointly.
        check("BF16", &[0x80, 0x3f, 0x80, 0x3f], 50.0, 0.0);
        // Two exponents (1.0 and 2.0): one bit each.
        check("BF16", &[0x80, 0x3f, 0x00, 0x40], 100.0 * 9.0 / 16.0, 100.0 / 16.0);
        check("F32", &[0, 0, 0x80, 0x3f, 1, 0, 0x00, 0x40], 100.0 * 25.0 / 32.0, 100.0 * 2.0 / 32.0);
        check("F8_E4M3", &[0x38, 0xb8], 50.0, 12.5);
        check("U8", &[1, 2, 3, 4], 25.0, 25.0);
    }
}
