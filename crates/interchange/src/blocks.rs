//! Readers of quantised blocks, in the order of operations that GGML's own have, so that every value has its bits.
//! Next in the flow: floats.rs, which rounds values to what is written.

use half::f16;

fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 values: a scale, then a signed byte each.
pub(crate) fn q8_0(src: &[u8], dst: &mut [f32]) {
    for (block, values) in src.chunks_exact(34).zip(dst.chunks_exact_mut(32)) {
        let scale = half_at(block, 0);
        for (value, &index) in values.iter_mut().zip(&block[2..]) {
            *value = f32::from(index as i8) * scale;
        }
    }
}

/// 32 values: a scale, then 16 bytes whose low nibbles are the first half.
pub(crate) fn q4_0(src: &[u8], dst: &mut [f32]) {
    for (block, values) in src.chunks_exact(18).zip(dst.chunks_exact_mut(32)) {
        let scale = half_at(block, 0);
        let (low, high) = values.split_at_mut(16);
        for (idx, &pair) in block[2..].iter().enumerate() {
            low[idx] = scale * f32::from((pair & 15) as i8 - 8);
            high[idx] = scale * f32::from((pair >> 4) as i8 - 8);
        }
    }
}

/// The scale and the minimum, six bits each, of one of the eight groups of 32 in a block; `packed`: 12 bytes.
fn scale_and_min(packed: &[u8], group_idx: usize) -> (f32, f32) {
    let (scale, min) = if group_idx < 4 {
        (packed[group_idx] & 63, packed[group_idx + 4] & 63)
    } else {
        let (both, scale, min) = (packed[group_idx + 4], packed[group_idx - 4], packed[group_idx]);
        (both & 15 | (scale >> 6) << 4, both >> 4 | (min >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// 256 values: scale of scales, scale of minima, both packed, then two groups of nibbles in every 32 bytes.
pub(crate) fn q4_k(src: &[u8], dst: &mut [f32]) {
    for (block, values) in src.chunks_exact(144).zip(dst.chunks_exact_mut(256)) {
        affine_groups(block, &[0; 32], &block[16..144], values);
    }
}

/// As Q4_K, with a fifth bit of every value: bit g of byte i is that of value i of group g.
pub(crate) fn q5_k(src: &[u8], dst: &mut [f32]) {
    for (block, values) in src.chunks_exact(176).zip(dst.chunks_exact_mut(256)) {
        affine_groups(block, &block[16..48], &block[48..176], values);
    }
}

/// `head`: 16 bytes at least; `fifths`: (32,); `nibbles`: (128,); `values`: (256,)
fn affine_groups(head: &[u8], fifths: &[u8], nibbles: &[u8], values: &mut [f32]) {
    let (scale_of_scales, scale_of_mins) = (half_at(head, 0), half_at(head, 2));
    for (group_idx, group) in values.chunks_exact_mut(32).enumerate() {
        let (scale, min) = scale_and_min(&head[4..16], group_idx);
        let (scale, min) = (scale_of_scales * scale, scale_of_mins * min);
        let bytes = &nibbles[group_idx / 2 * 32..][..32];
        for ((value, &pair), &fifth) in group.iter_mut().zip(bytes).zip(fifths) {
            let nibble = if group_idx % 2 == 0 { pair & 15 } else { pair >> 4 };
            *value = scale * f32::from(nibble | (fifth >> group_idx & 1) << 4) - min;
        }
    }
}

/// 256 values: low nibbles, two high bits each, a signed scale for every 16 values, a scale of scales.
pub(crate) fn q6_k(src: &[u8], dst: &mut [f32]) {
    for (block, values) in src.chunks_exact(210).zip(dst.chunks_exact_mut(256)) {
        let (nibbles, pairs, scales) = (&block[..128], &block[128..192], &block[192..208]);
        let scale_of_scales = half_at(block, 208);
        for (idx, value) in values.iter_mut().enumerate() {
            // In each half of 128 values: low nibbles of 64 bytes, then their high ones; 32 bytes of pairs, four
            // times over.
            let (half_idx, row_idx, column) = (idx / 128, idx / 32 % 4, idx % 32);
            let byte = nibbles[half_idx * 64 + row_idx % 2 * 32 + column];
            let nibble = if row_idx < 2 { byte & 15 } else { byte >> 4 };
            let pair = pairs[half_idx * 32 + column] >> (2 * row_idx) & 3;
            let scale = scale_of_scales * f32::from(scales[idx / 16] as i8);
            *value = scale * f32::from((nibble | pair << 4) as i8 - 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of any blocks, the same in every language; scales, at `scales` in each block, are finite.
    fn blocks(block_bytes: usize, scales: &[usize]) -> Vec<u8> {
        let mut state = 1u64;
        let mut bytes: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .take(16 * block_bytes)
        .collect();
        for block in bytes.chunks_exact_mut(block_bytes) {
            scales.iter().for_each(|at| block[at + 1] %= 0x7c);
        }
        bytes
    }

    fn fnv(values: &[f32]) -> u64 {
        let bytes = values.iter().flat_map(|value| (value + 0.0).to_le_bytes()); // -0 as 0
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
    }

    /// Hashes of the values that the Python package gguf 0.19.0 (`gguf.dequantize`) gives for the same bytes.
    #[test]
    fn values_are_those_of_gguf() {
        let check = |decode: fn(&[u8], &mut [f32]), n: usize, block_bytes: usize, scales: &[usize], expected: u64| {
            let mut values = vec![0.0; 16 * n];
            decode(&blocks(block_bytes, scales), &mut values);
            assert_eq!(fnv(&values), expected, "{n} values of {block_bytes} bytes: {:?}", &values[..3]);
        };
        check(q8_0, 32, 34, &[0], 0xe451_d32c_f122_35e0);
        check(q4_0, 32, 18, &[0], 0xc1fa_d680_8896_c943);
        check(q4_k, 256, 144, &[0, 2], 0xbb58_2516_c416_6e15);
        check(q5_k, 256, 176, &[0, 2], 0x5723_9ed9_698a_e090);
        check(q6_k, 256, 210, &[208], 0x7610_8250_de28_1405);
    }
}
