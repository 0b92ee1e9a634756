//! Prints a report on kernels as text, at most 120 columns wide with two exact layouts.

use std::fmt::{self, Display, Formatter};

use crate::gpu::kernels::{Gpu, KernelReport, LinearRow, MemoryRate};

impl Display for Gpu {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        let l2 = self.l2_bytes as f64 / f64::from(1 << 20);
        let (capability, driver, n) = (&self.compute_capability, &self.driver, self.n_multiprocessors);
        write!(f, "{}, capability {capability}, driver for CUDA {driver}, {n} multiprocessors, ", self.name)?;
        write!(f, "{gib:.0} GiB, L2 {l2:.0} MiB")
    }
}

impl Display for MemoryRate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (mib, read, copy) = (self.n_bytes as f64 / f64::from(1 << 20), self.read, self.copy);
        write!(f, "memory, {mib:.0} MiB: read {:.0} ({:.0}-{:.0}) GB/s", read.median, read.min, read.max)?;
        write!(f, ", copied {:.0} ({:.0}-{:.0}) GB/s", copy.median, copy.min, copy.max)
    }
}

impl Display for KernelReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "netweight {}, {}", self.version, self.machine.date)?;
        writeln!(f, "{}", self.gpu)?;
        writeln!(f, "{}", self.memory)?;
        writeln!(f, "medians of {} rounds by the GPU's clock; the least and the most are in --json", self.rounds)?;
        if !self.has_vendor {
            writeln!(f, "no cuBLAS here: ratios are to our own bf16 alone, and there are no prompts")?;
        }
        self.write_linear(f)?;
        self.write_decode(f)?;
        self.write_prefill(f)
    }
}

impl KernelReport {
    /// A line for each matrix and number of tokens: raw ways, then for each exact layout its microseconds, GB/s of stored
    /// bytes, their share of memory's, and times as fast as the better raw way.
    fn write_linear(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut layouts: Vec<&str> = Vec::new();
        for row in self.linear.iter().filter(|row| row.of_raw.is_some()) {
            if !layouts.contains(&row.way.as_str()) {
                layouts.push(&row.way);
            }
        }
        write!(f, "\n{:<22} {:>6} {:>9} {:>5} {:>9}", "linear", "tokens", "bf16 us", "mem", "vendor us")?;
        for layout in &layouts {
            write!(f, " {:>10} {:>5} {:>5} {:>6}", format!("{layout} us"), "GB/s", "mem", "x raw")?;
        }
        writeln!(f)?;
        for raw in self.linear.iter().filter(|row| row.way == "bf16") {
            let is_of = |row: &&LinearRow| row.matrix == raw.matrix && row.n_tokens == raw.n_tokens;
            let find = |way: &str| self.linear.iter().filter(is_of).find(|row| row.way == way);
            let name = format!("{} {}x{}", raw.matrix, raw.rows, raw.cols);
            write!(f, "{name:<22} {:>6} {:>9.1} {:>5.2}", raw.n_tokens, raw.microseconds.median, raw.of_read)?;
            let vendor = find("vendor bf16").map_or("-".to_owned(), |row| format!("{:.1}", row.microseconds.median));
            write!(f, " {vendor:>9}")?;
            for row in layouts.iter().map(|layout| find(layout)) {
                let Some(row) = row else {
                    write!(f, " {:>10} {:>5} {:>5} {:>6}", "-", "", "", "")?;
                    continue;
                };
                let times = row.of_raw.map_or(String::new(), |times| format!("{times:.2}x"));
                let (us, rate) = (row.microseconds.median, row.gigabytes_per_second);
                write!(f, " {us:>10.1} {rate:>5.0} {:>5.2} {times:>6}", row.of_read)?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_decode(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<22} {:>10} {:>10} {:>12}", "decode to bf16", "layout", "us", "GB/s written")?;
        self.decode.iter().try_for_each(|row| {
            let us = row.microseconds.median;
            writeln!(f, "{:<22} {:>10} {us:>10.1} {:>12.0}", row.matrix, row.layout, row.gigabytes_per_second)
        })
    }

    fn write_prefill(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.prefill.is_empty() {
            return Ok(());
        }
        let heads = ["layout", "tokens", "us", "bf16 us"];
        write!(f, "\n{:<22}", "prompt, decoded first")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>10}"))?;
        writeln!(f, " {:>10}", "overhead")?;
        self.prefill.iter().try_for_each(|row| {
            let (us, raw) = (row.microseconds.median, row.raw_microseconds.median);
            write!(f, "{:<22} {:>10} {:>10} {us:>10.1} {raw:>10.1}", row.matrix, row.layout, row.n_tokens)?;
            writeln!(f, " {:>9.1}%", 100.0 * row.overhead)
        })
    }
}
