//! Numbers as people read them: thousands separators, decimal units for bytes (GB is 10^9), rates and times.

/// `13,644,312`
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (idx, digit) in digits.chars().enumerate() {
        if idx > 0 && (digits.len() - idx).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `721 bytes`, `13.64 MB`, `16.06 GB`
pub fn bytes(n: u64) -> String {
    const UNITS: [(u64, &str); 4] =
        [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|row| n >= row.0) {
        Some((size, unit)) => format!("{:.2} {unit}", n as f64 / *size as f64),
        None => counted(n, "byte"),
    }
}

/// `1 file`, `57 tensors`
pub fn counted(n: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(n), if n == 1 { "" } else { "s" })
}

/// `1.24 GB/s`
pub fn rate(n_bytes: u64, seconds: f64) -> String {
    format!("{}/s", bytes((n_bytes as f64 / seconds.max(1e-9)) as u64))
}

/// `0.08 s`, `12.3 s`, `3 min 20 s`, `1 h 5 min`
pub fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..10 => format!("{seconds:.2} s"),
        10..120 => format!("{seconds:.1} s"),
        120..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// `67.98 %`
pub fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.2} %", 100.0 * part / whole) } else { "100.00 %".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separators() {
        let check = |n: u64, expected: &str| assert_eq!(grouped(n), expected);
        check(0, "0");
        check(999, "999");
        check(1000, "1,000");
        check(13_644_312, "13,644,312");
        check(u64::MAX, "18,446,744,073,709,551,615");
    }

    #[test]
    fn sizes_and_times() {
        let check = |text: String, expected: &str| assert_eq!(text, expected);
        check(bytes(1), "1 byte");
        check(bytes(721), "721 bytes");
        check(bytes(13_644_312), "13.64 MB");
        check(bytes(16_060_000_000), "16.06 GB");
        check(rate(2_000_000_000, 2.0), "1.00 GB/s");
        check(duration(0.0812), "0.08 s");
        check(duration(12.34), "12.3 s");
        check(duration(200.0), "3 min 20 s");
        check(duration(3900.0), "65 min 0 s");
        check(duration(7500.0), "2 h 5 min");
        check(percent(2.0, 3.0), "66.67 %");
        check(percent(0.0, 0.0), "100.00 %");
    }
}
