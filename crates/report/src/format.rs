//! Numbers as people read them. `assets/data.js` spells them the same way.

const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
const COUNTS: [&str; 5] = ["", " k", " M", " G", " T"];

/// `13.6 MB`: three digits, decimal units.
pub(crate) fn bytes(n: f64) -> String {
    let (value, unit_idx) = scaled(n);
    format!("{value}\u{a0}{}", UNITS[unit_idx])
}

/// `8.03 G`.
pub(crate) fn count(n: f64) -> String {
    let (value, unit_idx) = scaled(n);
    format!("{value}{}", COUNTS[unit_idx].replace(' ', "\u{a0}"))
}

/// `66.9 %`, of 1.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}\u{a0}%", share * 100.0)
}

/// `-0.09 %` with its sign, of 1.
pub(crate) fn signed_percent(share: f64) -> String {
    format!("{:+.2}\u{a0}%", share * 100.0).replace('-', "\u{2212}")
}

/// `13,644,312`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and the index of the unit of 1000 to a power.
fn scaled(n: f64) -> (String, usize) {
    let (mut value, mut unit_idx) = (n, 0);
    while value >= 999.5 && unit_idx < UNITS.len() - 1 {
        value /= 1000.0;
        unit_idx += 1;
    }
    let n_decimals = match value {
        _ if unit_idx == 0 => 0,
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    (format!("{value:.n_decimals$}"), unit_idx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let check = |n: f64, expected: &str| assert_eq!(bytes(n).replace('\u{a0}', " "), expected);
        check(0.0, "0 B");
        check(999.0, "999 B");
        check(999.7, "1.00 kB");
        check(1_000.0, "1.00 kB");
        check(13_644_312.0, "13.6 MB");
        check(136_443_120.0, "136 MB");
        check(999_900_000.0, "1.00 GB");
        check(3e18, "3000000 TB");
        assert_eq!(count(8_030_261_248.0), "8.03\u{a0}G");
        assert_eq!(["0", "999", "1,000", "13,644,312"], [0, 999, 1000, 13_644_312].map(grouped)[..]);
        assert_eq!(signed_percent(-0.000_94), "\u{2212}0.09\u{a0}%");
        assert_eq!(percent(0.6694), "66.9\u{a0}%");
    }
}
