//! Prints a report as text, at most 120 columns wide.

use std::fmt::{self, Display, Formatter};

use crate::report::{Comparison, DataSetReport, Ratio, Report, Row};
use crate::stats::{Rate, Spread};

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(f, "netweight {}, {}, {}", self.version, self.isa, machine.date)?;
        writeln!(f, "{}, {} cores, {}", machine.cpu, machine.n_cores, machine.platform)?;
        writeln!(f, "GB of original data per CPU-second: median (least-most) of {} rounds", self.rounds)?;
        self.data_sets.iter().try_for_each(|data_set| write!(f, "\n{data_set}"))
    }
}

impl Display for DataSetReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let megabytes = self.len_bytes as f64 / 1e6;
        writeln!(f, "{}: {megabytes:.1} MB, {} tensors", self.name, self.n_tensors)?;
        if self.n_repeats > 1 {
            writeln!(f, "small: {} passes a timing, figures may be those of the cache", self.n_repeats)?;
        }
        let bounds = self.bounds;
        writeln!(f, "bounds: exponent {:.2} %, joint {:.2} %", bounds.exponent_percent, bounds.joint_percent)?;
        for row in &self.memory {
            let per_core = cell(&row.rate.per_cpu_second);
            let together = row.rate.per_second.median;
            writeln!(f, "{:<8} x{:<3} {per_core} per core, {together:.1} together", row.operation, row.n_threads)?;
        }
        writeln!(
            f,
            "{:<36} {:>7} {:>7}  {:<19} {:<19} {:>13}",
            "", "threads", "size %", "encode", "decode", "wall enc/dec"
        )?;
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        self.comparisons.iter().try_for_each(|comparison| writeln!(f, "{comparison}"))
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<36} {:>7}", self.tool, self.n_threads)?;
        if let Some(note) = &self.note {
            return write!(f, " {note}");
        }
        let size = self.size_percent.map_or(String::new(), |percent| format!("{percent:.2}"));
        let cpu = |rate: &Option<Rate>| rate.map_or(String::new(), |rate| cell(&rate.per_cpu_second));
        let wall = |rate: &Option<Rate>| rate.map_or(String::new(), |rate| format!("{:.2}", rate.per_second.median));
        let walls = format!("{}/{}", wall(&self.encode), wall(&self.decode));
        write!(f, " {size:>7}  {:<19} {:<19} {walls:>13}", cpu(&self.encode), cpu(&self.decode))
    }
}

impl Display for Comparison {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}, against the best of each:", self.tool)?;
        let decode = self.decode.iter().chain([&self.decode_to_memcpy]);
        for (what, ratio) in self.encode.iter().map(|ratio| ("encodes", ratio)).chain(decode.map(|r| ("decodes", r))) {
            write!(f, "\n  {what} {ratio}")?;
        }
        match &self.size_points {
            Some((points, peer)) => write!(f, "\n  size {points:+.2} points to {peer}"),
            None => Ok(()),
        }
    }
}

impl Display for Ratio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2}x ({:.2}-{:.2}) {}", self.ratio.median, self.ratio.min, self.ratio.max, self.to)
    }
}

fn cell(spread: &Spread) -> String {
    format!("{:.2} ({:.2}-{:.2})", spread.median, spread.min, spread.max)
}
