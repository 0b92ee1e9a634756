//! The 8-bit float `F8_E4M3` (`e4m3fn`: bias 7, no infinities, 0x7f and 0xff are NaN) to and from f32.

/// Largest finite value.
pub(crate) const E4M3_MAX: f32 = 448.0;

/// `value` rounded to the nearest e4m3fn code, ties to even; beyond the halfway point above 448, and for NaN
/// and infinities, the NaN of that sign.
pub fn e4m3_from_f32(value: f32) -> u8 {
    let sign = ((value.to_bits() >> 24) & 0x80) as u8;
    let magnitude = value.abs();
    if magnitude.is_nan() || magnitude > 464.0 {
        return sign | 0x7f;
    }
    let code = if magnitude < 1.0 / 64.0 {
        // Subnormal steps are 2^-9; adding 2^14 leaves exactly those steps in the mantissa, so the addition
        // rounds.
        (magnitude + 16384.0).to_bits() & 0xf
    } else {
        let bits = magnitude.to_bits();
        let rounded = bits + 0x7_ffff + ((bits >> 20) & 1);
        (rounded >> 20) - (120 << 3)
    };
    sign | code as u8
}

/// The value of an e4m3fn code.
pub fn e4m3_to_f32(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from((code >> 3) & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa / 512.0,
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By search over all codes.
    fn nearest(value: f32) -> u8 {
        let sign = if value.is_sign_negative() { 0x80 } else { 0 };
        let magnitude = f64::from(value.abs());
        if magnitude.is_nan() || magnitude > 464.0 {
            return sign | 0x7f;
        }
        let distance = |code: u8| (f64::from(e4m3_to_f32(code)) - magnitude).abs();
        let best = (0..0x7fu8).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
        sign | best.unwrap()
    }

    #[test]
    fn every_code_survives() {
        for code in 0..=255u8 {
            let back = e4m3_from_f32(e4m3_to_f32(code));
            assert_eq!(back, code, "{code:#x}");
        }
        assert_eq!(e4m3_to_f32(0x7e), E4M3_MAX);
        assert_eq!(e4m3_to_f32(0x01), 1.0 / 512.0);
    }

    #[test]
    fn rounds_to_nearest_even() {
        let check = |value: f32| assert_eq!(e4m3_from_f32(value), nearest(value), "{value:e} {:#x}", value.to_bits());
        // Every bf16 value, as many as there are.
        for bits in 0..=u16::MAX {
            check(f32::from_bits(u32::from(bits) << 16));
        }
        // Each halfway point and its neighbours.
        for code in 0..0x7eu8 {
            let middle = (e4m3_to_f32(code) + e4m3_to_f32(code + 1)) / 2.0;
            for value in [middle.next_down(), middle, middle.next_up()] {
                check(value);
                check(-value);
            }
        }
        for value in [464.0, 464.00003, 448.0001, 1e30, f32::INFINITY, f32::MIN_POSITIVE] {
            check(value);
        }
    }
}
