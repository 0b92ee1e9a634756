//! Logarithms in integers, so that every machine makes the same choices and writes the same bytes.

/// Fraction bits of [`log2`].
pub(crate) const FRACTION_BITS: u32 = 16;

/// `log2(x)` times 2^16 from the leading twelve bits of `x`, so up to 46 units (0.0007 bits) too small; 0 for
/// `x` = 0.
pub(crate) fn log2(x: u32) -> u32 {
    let shift = x.checked_ilog2().unwrap_or(0).saturating_sub(11);
    LOG2[(x >> shift) as usize] + (shift << FRACTION_BITS)
}

/// `log2(x)` times 2^16, rounded down; 0 for `x` = 0. By squaring: each square of the mantissa yields one bit.
const fn log2_by_squaring(x: u32) -> u32 {
    if x == 0 {
        return 0;
    }
    let whole = x.ilog2();
    let mut mantissa = (x as u64) << (31 - whole); // 1.31 fixed point, in [1, 2)
    let mut fraction = 0;
    let mut bit = 0;
    while bit < FRACTION_BITS {
        mantissa = (mantissa * mantissa) >> 31;
        fraction <<= 1;
        if mantissa >= 1 << 32 {
            mantissa >>= 1;
            fraction |= 1;
        }
        bit += 1;
    }
    whole << FRACTION_BITS | fraction
}

/// `log2` of 0..=4096, made at compile time.
pub(crate) static LOG2: [u32; 4097] = {
    let mut table = [0; 4097];
    let mut x = 0;
    while x < table.len() {
        table[x] = log2_by_squaring(x as u32);
        x += 1;
    }
    table
};

/// Order-0 entropy of `counts` in bits (all of them together) times 2^16.
pub(crate) fn entropy(counts: &[u32]) -> u64 {
    let total: u64 = counts.iter().map(|&count| u64::from(count)).sum();
    let Ok(total) = u32::try_from(total) else { return u64::MAX };
    let log2_total = log2(total);
    let per_symbol = |&count: &u32| u64::from(count) * u64::from(log2_total.saturating_sub(log2(count)));
    counts.iter().filter(|&&count| count > 0).map(per_symbol).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log2_is_close() {
        for x in (1..5000).chain([65_535, 1 << 20, 3 << 20, u32::MAX]) {
            let exact = f64::from(x).log2() * 65536.0;
            assert!((-2.0..47.0).contains(&(exact - f64::from(log2(x)))), "{x}");
        }
    }

    #[test]
    fn entropy_of_a_fair_coin_is_one_bit_a_toss() {
        assert_eq!(entropy(&[0, 512, 512]), 1024 << 16);
    }
}
