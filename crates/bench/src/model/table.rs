//! Prints a report on a model as text, at most 120 columns wide with two sizes of batch.

use std::fmt::{self, Display, Formatter};

use crate::model::report::{ModelRatio, ModelReport, ModelRow, WeightsReport};
use crate::stats::Spread;

const MIB: f64 = 1048576.0;

impl Display for ModelReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let machine = &self.machine;
        writeln!(f, "netweight {}, {}, {}", self.version, self.isa, machine.date)?;
        writeln!(f, "{}, {} cores, {}", machine.cpu, machine.n_cores, machine.platform)?;
        let millions = |n: u64| n as f64 / 1e6;
        let (all, read) = (millions(self.n_weights), millions(self.weights_per_token));
        writeln!(f, "{}: {all:.1} M weights, {read:.1} M read for a token", self.model)?;
        writeln!(
            f,
            "prompt of {}, {} generated; tokens per second: median (least-most) of {} rounds",
            self.prompt, self.generate, self.rounds
        )?;
        for check in std::iter::once(&self.check).chain(&self.other_checks) {
            let of = if self.other_checks.is_empty() { String::new() } else { format!(" of {}", check.of) };
            writeln!(
                f,
                "same bits: {} logits of each of our {} contenders{of}, {} and {}",
                check.n_logits, check.n_contenders, check.prompt_hash, check.batch_hash
            )?;
        }
        self.write_weights(f)?;
        self.write_speed(f)?;
        self.write_ratios(f)
    }
}

impl ModelReport {
    fn write_weights(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let heads = ["load s", "bits/weight", "MiB", "peak MiB", "cosine"];
        write!(f, "\n{:<22}", "weights")?;
        heads.iter().try_for_each(|head| write!(f, " {head:>11}"))?;
        writeln!(f)?;
        self.weights.iter().try_for_each(|row| writeln!(f, "{row}"))
    }

    fn write_speed(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let batches = self.rows.first().map(|row| row.decode.as_slice()).unwrap_or_default();
        write!(f, "\n{:<22} {:>7} {:>21}", "speed", "threads", "prefill")?;
        for batch in batches {
            write!(f, " {:>21}", format!("decode x{}", batch.n_sequences))?;
        }
        writeln!(f, " {:>9} {:>7} {:>5}", "GB/s core", "of read", "CPU")?;
        for row in &self.rows {
            row.write(f, batches.iter().map(|batch| batch.n_sequences))?;
        }
        for row in &self.memory {
            let Spread { median, min, max } = row.rate.per_cpu_second;
            let together = row.rate.per_second.median;
            let mib = self.memory_bytes as f64 / MIB;
            write!(f, "{:<22} {:>7} ", format!("{} of {mib:.0} MiB", row.operation), row.n_threads)?;
            writeln!(f, "{median:.2} ({min:.2}-{max:.2}) GB/s per core, {together:.1} together")?;
        }
        Ok(())
    }

    fn write_ratios(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.ratios.is_empty() {
            return Ok(());
        }
        let (what, times, cpu) = ("ratios, of rounds", "of speed", "of speed per CPU time");
        writeln!(f, "\n{what:<22} {:>7} {:<11} {:<20} {times:>18} {cpu:>22}", "threads", "", "to")?;
        self.ratios.iter().try_for_each(|ratio| writeln!(f, "{ratio}"))
    }
}

impl Display for WeightsReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:<22}", self.tool)?;
        if let Some(note) = &self.note {
            return write!(f, " {note}");
        }
        let peak = self.memory.as_ref().and_then(|memory| memory.peak_bytes).map(|bytes| bytes as f64 / MIB);
        let cells = [(self.load_s, 2), (self.bits_per_weight, 2), (self.weights_mib, 0), (peak, 0), (self.cosine, 5)];
        let cell = |(value, decimals): (Option<f64>, usize)| {
            let text = value.map_or(String::new(), |value| format!("{value:.decimals$}"));
            format!(" {text:>11}")
        };
        let line: String = cells.into_iter().map(cell).collect();
        let version = self.version.as_deref().unwrap_or_default();
        write!(f, "{}", format!("{line}  {version}").trim_end())
    }
}

impl ModelRow {
    /// The row, with a cell for each size of batch.
    fn write(&self, f: &mut Formatter<'_>, batches: impl Iterator<Item = usize>) -> fmt::Result {
        write!(f, "{:<22} {:>7} {:>21}", self.tool, self.n_threads, cell(&self.prefill.tokens_per_second))?;
        for n_sequences in batches {
            let found = self.decode.iter().find(|batch| batch.n_sequences == n_sequences);
            write!(f, " {:>21}", found.map_or(String::new(), |batch| cell(&batch.speed.tokens_per_second)))?;
        }
        let median = |spread: &Option<Spread>| spread.map_or(String::new(), |spread| format!("{:.2}", spread.median));
        let share = self.decode.iter().map(|batch| batch.speed.cpu_share).fold(self.prefill.cpu_share, f64::min);
        writeln!(f, " {:>9} {:>7} {share:>5.2}", median(&self.gigabytes_per_core), median(&self.of_read))
    }
}

impl Display for ModelRatio {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let cell = |spread: &Spread| format!("{:.2} ({:.2}-{:.2})", spread.median, spread.min, spread.max);
        let (wall, cpu) = (cell(&self.per_second), cell(&self.per_cpu_second));
        write!(f, "{:<22} {:>7} {:<11} {:<20} {wall:>18} {cpu:>22}", self.tool, self.n_threads, self.what, self.to)
    }
}

fn cell(spread: &Spread) -> String {
    let decimals = if spread.median < 100.0 { 2 } else { 0 };
    format!("{:.decimals$} ({:.decimals$}-{:.decimals$})", spread.median, spread.min, spread.max)
}
