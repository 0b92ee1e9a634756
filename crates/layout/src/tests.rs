//! Groups in and out, over every layout and every instruction set that this CPU runs.

mod corruption;
mod round_trip;

/// A small generator of pseudo-random numbers (xorshift64*), so that failures repeat.
pub(crate) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Roughly normal, by a sum of uniform numbers.
    pub fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / 16_777_216.0).sum::<f32>() - 6.0
    }
}

/// Normal weights in the source dtype of a layout.
pub(crate) fn normal_weights(layout: crate::Layout, n: usize, random: &mut Random) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..n {
        let weight = random.normal() * 0.02;
        match layout {
            crate::Layout::F32 => bytes.extend(weight.to_le_bytes()),
            crate::Layout::F16 => bytes.extend(half::f16::from_f32(weight).to_le_bytes()),
            crate::Layout::Int4 => bytes.push((weight * 100.0).round().clamp(-8.0, 7.0) as i8 as u8),
            _ if layout.is_index() => bytes.push((weight * 200.0).round() as i8 as u8), // entropy about 4 bits
            _ => bytes.extend(half::bf16::from_f32(weight).to_le_bytes()),
        }
    }
    bytes
}

/// Random bits: every exponent, infinities, NaN; nearly all of them escapes.
pub(crate) fn random_weights(layout: crate::Layout, n: usize, random: &mut Random) -> Vec<u8> {
    let fit = |byte: u8| if layout == crate::Layout::Int4 { (byte >> 4).wrapping_sub(8) } else { byte };
    (0..n * layout.element_bytes()).map(|_| fit((random.next() >> 32) as u8)).collect()
}

/// FNV-1a, 64 bits.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
