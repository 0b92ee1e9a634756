//! Whether weights leave the range in which hardware that flushes subnormals gives the same bits as any other: not 0
//! but below 2^-62 in magnitude, Inf or NaN. Goes in: weights of a group. Comes out: a flag of its header.

use crate::Layout;

/// `(bytes)`: least magnitude less one, 0 standing for the largest, and greatest magnitude of 16-bit elements.
pub(crate) type Extremes = fn(&[u8]) -> (u16, u16);

/// Biased exponent of 2^-62 in f32 and bf16.
const LEAST_EXPONENT: u32 = 127 - 62;

/// Whether `src`, elements of the source dtype of `layout`, has such a weight.
pub(crate) fn is_wide(extremes: Extremes, layout: Layout, src: &[u8]) -> bool {
    match layout {
        Layout::F32 => src.as_chunks::<4>().0.iter().any(|&bytes| {
            let magnitude = u32::from_le_bytes(bytes) & 0x7fff_ffff;
            magnitude != 0 && !(LEAST_EXPONENT << 23..0xff << 23).contains(&magnitude)
        }),
        Layout::Index8 | Layout::Index4 | Layout::Index3 | Layout::Int4 => false,
        // The least half float is 2^-24.
        Layout::F16 => extremes(src).1 >= 0x1f << 10,
        Layout::Bf16 | Layout::Exact11 | Layout::Exact12 => {
            let (least_less_one, greatest) = extremes(src);
            least_less_one < (LEAST_EXPONENT << 7) as u16 - 1 || greatest >= 0xff << 7
        }
    }
}

/// [`Extremes`].
#[inline(always)]
pub(crate) fn extremes(src: &[u8]) -> (u16, u16) {
    let magnitudes = src.as_chunks::<2>().0.iter().map(|&bytes| u16::from_le_bytes(bytes) & 0x7fff);
    magnitudes.fold((u16::MAX, 0), |(least, greatest), magnitude| {
        (least.min(magnitude.wrapping_sub(1)), greatest.max(magnitude))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let check = |weight: f32, expected: bool| {
            let words = |bytes: &[u8]| [&[0, 0, 0x80, 0x3f], bytes].concat();
            let bf16 = words(&half::bf16::from_f32(weight).to_le_bytes());
            assert_eq!(is_wide(extremes, Layout::Bf16, &bf16), expected, "bf16 {weight:e}");
            let mut f32 = 1f32.to_le_bytes().to_vec();
            f32.extend(weight.to_le_bytes());
            assert_eq!(is_wide(extremes, Layout::F32, &f32), expected, "f32 {weight:e}");
        };
        let least = 2f32.powi(-62);
        for sign in [1.0, -1.0] {
            check(sign * 0.0, false);
            check(sign * least, false);
            check(sign * least * 0.99, true);
            check(sign * f32::MIN_POSITIVE / 128.0, true);
            check(sign * 3.0e38, false);
            check(sign * f32::INFINITY, true);
        }
        check(f32::NAN, true);
        for (bits, expected) in [(0u16, false), (1, false), (0x8001, false), (0xfbff, false), (0x7c00, true)] {
            assert_eq!(is_wide(extremes, Layout::F16, &bits.to_le_bytes()), expected, "{bits:x}");
        }
    }
}
