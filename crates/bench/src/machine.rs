//! Where and when the figures were taken.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// Where and when the figures were taken.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Machine {
    /// Processor, as the system names it.
    pub cpu: String,
    /// Logical processors that this process may use.
    pub n_cores: usize,
    /// System and architecture, as Rust names them.
    pub platform: String,
    /// Date in UTC, `YYYY-MM-DD`.
    pub date: String,
}

impl Machine {
    /// This machine, today.
    pub fn here() -> Machine {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Machine {
            cpu: cpu_model(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default()),
            n_cores: std::thread::available_parallelism().map_or(1, usize::from),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            date: date(seconds / 86_400),
        }
    }
}

/// Model name, and on x86 family and model number, which tell apart what hypervisors call "Processor".
fn cpu_model(cpuinfo: &str) -> String {
    let field = |key: &str| {
        let value =
            |line: &str| line.split_once(':').filter(|(k, _)| k.trim() == key).map(|(_, v)| v.trim().to_string());
        cpuinfo.lines().find_map(value)
    };
    match (field("model name"), field("cpu family"), field("model")) {
        (Some(name), Some(family), Some(model)) => format!("{name} (family {family}, model {model})"),
        (Some(name), ..) => name,
        _ => "unknown".to_string(),
    }
}

/// Date of a day since 1970, by the civil calendar (H. Hinnant, "chrono-compatible low-level date algorithms").
fn date(days_since_1970: u64) -> String {
    let days = days_since_1970 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        let check = |days: u64, expected: &str| assert_eq!(date(days), expected);
        check(0, "1970-01-01");
        check(59, "1970-03-01");
        check(11_016, "2000-02-29");
        check(20_088, "2024-12-31");
    }

    #[test]
    fn cpu_models() {
        let check = |cpuinfo: &str, expected: &str| assert_eq!(cpu_model(cpuinfo), expected);
        check("", "unknown");
        check("model name\t: A B\n", "A B");
        check("cpu family\t: 6\nmodel\t\t: 167\nmodel name\t: A B\n", "A B (family 6, model 167)");
    }
}
