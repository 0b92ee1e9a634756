//! Prints a report on a model on a GPU as text, at most 120 columns wide.

use std::fmt::{self, Display, Formatter};

use crate::gpu::model::{GpuBatch, GpuModelReport, GpuModelRow};

impl Display for GpuModelReport {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "netweight {}, {}", self.version, self.machine.date)?;
        writeln!(f, "{}", self.gpu)?;
        writeln!(f, "{}", self.memory)?;
        let millions = |n: u64| n as f64 / 1e6;
        let (all, read) = (millions(self.n_weights), millions(self.weights_per_token));
        writeln!(f, "{}: {all:.1} M weights, {read:.1} M read for a token", self.model)?;
        let turns = if self.took_turns { "in turn" } else { "one layout after the other: together they do not fit" };
        writeln!(f, "medians of {} rounds, {turns}; {} tokens generated", self.rounds, self.generate)?;
        let check = &self.check;
        let (n, hash) = (check.n_contenders, &check.batch_hash);
        write!(f, "same bits: {} logits of a step of each of {n} layouts, {hash}; ", check.n_logits)?;
        let prompt = if check.prompt_is_same { "the same" } else { "NOT the same" };
        writeln!(f, "after the prompt {prompt}")?;
        self.write_weights(f)?;
        self.write_decode(f)?;
        self.write_prefill(f)
    }
}

impl GpuModelReport {
    fn write_weights(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<12} {:>9} {:>12} {:>10} {:>14}", "weights", "load s", "bits/weight", "GB", "GB streaming")?;
        self.rows.iter().try_for_each(|row| {
            let gigabytes = |n: u64| n as f64 / 1e9;
            let (all, streamed) = (gigabytes(row.matrix_bytes), gigabytes(row.streamed_bytes));
            let (load_s, bits) = (row.load_s, row.bits_per_weight);
            writeln!(f, "{:<12} {load_s:>9.2} {bits:>12.2} {all:>10.3} {streamed:>14.3}", row.layout)
        })
    }

    fn write_decode(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let heads = ["tokens/s", "(least-most)", "x bf16", "step ms", "x bf16", "mem"];
        write!(f, "\n{:<12} {:>6} {:>10} {:>19}", "decode", "batch", heads[0], heads[1])?;
        writeln!(f, " {:>7} {:>10} {:>7} {:>6}", heads[2], heads[3], heads[4], heads[5])?;
        let batches = self.rows.iter().flat_map(|row| row.decode.iter().map(move |batch| (row, batch)));
        let mut batches: Vec<(&GpuModelRow, &GpuBatch)> = batches.collect();
        batches.sort_by_key(|(_, batch)| batch.n_sequences);
        batches.into_iter().try_for_each(|(row, batch)| {
            let rate = batch.tokens_per_second;
            let spread = format!("({:.1}-{:.1})", rate.min, rate.max);
            write!(f, "{:<12} {:>6} {:>10.1} {spread:>19}", row.layout, batch.n_sequences, rate.median)?;
            let step = batch.step_ms.map_or("-".to_owned(), |step| format!("{:.3}", step.median));
            let share = batch.of_read.map_or("-".to_owned(), |share| format!("{share:.2}"));
            let (passed, times) = (times(batch.of_raw_passed), times(batch.of_raw));
            writeln!(f, " {passed:>7} {step:>10} {times:>7} {share:>6}")
        })
    }

    fn write_prefill(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{:<12} {:>6} {:>10} {:>19} {:>7}", "prefill", "tokens", "tokens/s", "(least-most)", "x bf16")?;
        self.rows.iter().try_for_each(|row| {
            let (rate, times) = (row.prefill, times(row.prefill_of_raw));
            let spread = format!("({:.0}-{:.0})", rate.min, rate.max);
            writeln!(f, "{:<12} {:>6} {:>10.0} {spread:>19} {times:>7}", row.layout, self.prompt, rate.median)
        })
    }
}

fn times(times: Option<f64>) -> String {
    times.map_or(String::new(), |times| format!("{times:.2}x"))
}
