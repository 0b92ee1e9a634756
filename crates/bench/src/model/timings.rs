//! Everyone's timings, and the figures that they become. Next in the flow: report.rs.

use crate::model::contender::Family;
use crate::model::options::ModelOptions;
use crate::model::peers::ModelPeer;
use crate::model::report::{BatchSpeed, ModelRatio, ModelRow, Speed};
use crate::report::MemoryRow;
use crate::stats::{Rate, Spread, Timing};

/// Everyone's timings.
pub(crate) struct Timings {
    pub(crate) memory: Vec<MemoryTimings>,
    pub(crate) rows: Vec<RowTimings>,
    /// What each family said first in a batch of so many sequences.
    pub(crate) said: Vec<((Family, usize), Vec<u32>)>,
}

pub(crate) struct MemoryTimings {
    pub(crate) operation: &'static str,
    pub(crate) n_threads: usize,
    pub(crate) timings: Vec<Timing>, // (rounds)
}

pub(crate) struct RowTimings {
    pub(crate) tool: String,
    pub(crate) who: Who,
    pub(crate) n_threads: usize,
    pub(crate) prefill: Vec<Timing>, // (rounds)
    pub(crate) decode: Vec<Decode>,
}

pub(crate) struct Decode {
    pub(crate) n_sequences: usize,
    pub(crate) timings: Vec<Timing>, // (rounds)
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Who {
    Ours { contender_idx: usize, is_exact: bool },
    Peer { peer_idx: usize, is_bf16: bool },
}

impl Timings {
    /// A row without timings for everyone. Of ours the names, and whether they are exact layouts.
    pub(crate) fn line_up(ours: &[(String, bool)], peers: &[ModelPeer], options: &ModelOptions) -> Timings {
        let row = |tool: &str, who: Who, n_threads: usize, batches: &[usize]| {
            let decode = batches.iter().map(|&n_sequences| Decode { n_sequences, timings: Vec::new() }).collect();
            RowTimings { tool: tool.to_owned(), who, n_threads, prefill: Vec::new(), decode }
        };
        let (mut memory, mut rows) = (Vec::new(), Vec::new());
        for &n_threads in &options.threads {
            for operation in ["memcpy", "read"] {
                memory.push(MemoryTimings { operation, n_threads, timings: Vec::new() });
            }
            for (contender_idx, (name, is_exact)) in ours.iter().enumerate() {
                let who = Who::Ours { contender_idx, is_exact: *is_exact };
                rows.push(row(name, who, n_threads, &options.batches));
            }
        }
        for (peer_idx, peer) in peers.iter().enumerate() {
            let who = Who::Peer { peer_idx, is_bf16: peer.is_bf16() };
            rows.push(row(&peer.name, who, options.max_threads(), &[1]));
        }
        Timings { memory, rows, said: Vec::new() }
    }

    pub(crate) fn forget(&mut self) {
        self.memory.iter_mut().for_each(|row| row.timings.clear());
        for row in &mut self.rows {
            row.prefill.clear();
            row.decode.iter_mut().for_each(|decode| decode.timings.clear());
        }
    }

    /// What memory did; a timing is of `timed_bytes`.
    pub(crate) fn memory_rows(&self, timed_bytes: usize) -> Vec<MemoryRow> {
        let row = |row: &MemoryTimings| {
            let rate = Rate::of(timed_bytes, &row.timings);
            MemoryRow { operation: row.operation, n_threads: row.n_threads, rate }
        };
        self.memory.iter().map(row).collect()
    }

    /// Speed of everyone who was measured.
    pub(crate) fn rows(&self, options: &ModelOptions, weights_per_token: u64, timed_bytes: usize) -> Vec<ModelRow> {
        let token_gigabytes = 2e-9 * weights_per_token as f64 * options.generate as f64;
        let row = |row: &RowTimings| {
            let one = row.timings("decode x1").unwrap_or_default();
            let per_core = one.iter().map(|timing| token_gigabytes / timing.cpu_s.max(1e-9));
            let read = self.read(row.n_threads).iter().map(|timing| 1e-9 * timed_bytes as f64 / timing.cpu_s.max(1e-9));
            let of_read = per_core.clone().zip(read).map(|(per_core, read)| per_core / read);
            ModelRow {
                tool: row.tool.clone(),
                peer: matches!(row.who, Who::Peer { .. }),
                n_threads: row.n_threads,
                prefill: row.speed(options.prompt, &row.prefill),
                decode: row.decode.iter().map(|decode| row.batch_speed(decode, options.generate)).collect(),
                gigabytes_per_core: (!one.is_empty()).then(|| Spread::of(per_core)),
                of_read: (!one.is_empty()).then(|| Spread::of(of_read)),
            }
        };
        self.rows.iter().filter(|row| !row.prefill.is_empty()).map(row).collect()
    }

    /// Exact layouts against the first raw one with as many threads; ours against the fastest peer that computes with
    /// bf16 weights, and against the fastest of all where that is another.
    pub(crate) fn ratios(&self) -> Vec<ModelRatio> {
        let mut ratios = Vec::new();
        for ours in &self.rows {
            let Who::Ours { is_exact, .. } = ours.who else { continue };
            for (what, timings) in ours.measures() {
                let with_as_many = self.rows.iter().filter(|row| row.n_threads == ours.n_threads);
                let rivals = with_as_many.filter_map(|row| Some((row, row.timings(&what)?)));
                let mut rivals = rivals.collect::<Vec<_>>();
                let is_raw = |who: Who| matches!(who, Who::Ours { is_exact: false, .. });
                let raw = rivals.iter().position(|(row, _)| is_exact && is_raw(row.who)).map(|idx| rivals[idx]);
                rivals.retain(|(row, _)| matches!(row.who, Who::Peer { .. }));
                let median = |timings: &[Timing]| Spread::of(timings.iter().map(|timing| timing.wall_s)).median;
                rivals.sort_by(|a, b| median(a.1).total_cmp(&median(b.1)));
                let fastest = rivals.first().copied();
                let in_bf16 = |(row, _): &&(&RowTimings, _)| matches!(row.who, Who::Peer { is_bf16: true, .. });
                let fastest_in_bf16 = rivals.iter().find(in_bf16).copied();
                let fastest = fastest.filter(|peer| fastest_in_bf16.is_none_or(|other| other.0.tool != peer.0.tool));
                for (row, theirs) in [raw, fastest_in_bf16, fastest].into_iter().flatten() {
                    ratios.push(ratio(ours, &what, timings, &row.tool, theirs));
                }
            }
        }
        ratios
    }

    fn read(&self, n_threads: usize) -> &[Timing] {
        let found = self.memory.iter().find(|row| row.operation == "read" && row.n_threads == n_threads);
        found.map(|row| row.timings.as_slice()).unwrap_or_default()
    }
}

impl RowTimings {
    fn speed(&self, n_tokens: usize, timings: &[Timing]) -> Speed {
        let per_second = |timing: &Timing| n_tokens as f64 / timing.wall_s.max(1e-9);
        let share = |timing: &Timing| timing.cpu_s / timing.wall_s.max(1e-9) / self.n_threads as f64;
        Speed {
            tokens_per_second: Spread::of(timings.iter().map(per_second)),
            cpu_share: Spread::of(timings.iter().map(share)).median,
        }
    }

    fn batch_speed(&self, decode: &Decode, n_steps: usize) -> BatchSpeed {
        let speed = self.speed(decode.n_sequences * n_steps, &decode.timings);
        BatchSpeed { n_sequences: decode.n_sequences, speed }
    }

    /// `prefill` and `decode xN`, with their timings.
    fn measures(&self) -> impl Iterator<Item = (String, &[Timing])> {
        let decode = self.decode.iter().map(|decode| (format!("decode x{}", decode.n_sequences), &decode.timings[..]));
        std::iter::once(("prefill".to_owned(), &self.prefill[..])).chain(decode)
    }

    /// Timings of that name; `None` where there are none.
    fn timings(&self, what: &str) -> Option<&[Timing]> {
        self.measures().find(|(name, timings)| name == what && !timings.is_empty()).map(|(_, timings)| timings)
    }
}

fn ratio(ours: &RowTimings, what: &str, timings: &[Timing], to: &str, theirs: &[Timing]) -> ModelRatio {
    let spread = |time: fn(&Timing) -> f64| {
        Spread::of(timings.iter().zip(theirs).map(|(ours, theirs)| time(theirs) / time(ours).max(1e-9)))
    };
    ModelRatio {
        tool: ours.tool.clone(),
        n_threads: ours.n_threads,
        what: what.to_owned(),
        to: to.to_owned(),
        per_second: spread(|timing| timing.wall_s),
        per_cpu_second: spread(|timing| timing.cpu_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row whose rounds took these seconds, with all its cores.
    fn row(tool: &str, who: Who, prefill: &[f64], decode: &[f64]) -> RowTimings {
        let timings = |seconds: &[f64]| seconds.iter().map(|&s| Timing { cpu_s: 2.0 * s, wall_s: s }).collect();
        let decode = vec![Decode { n_sequences: 1, timings: timings(decode) }];
        RowTimings { tool: tool.to_owned(), who, n_threads: 2, prefill: timings(prefill), decode }
    }

    #[test]
    fn ratios_are_of_rounds_and_peers_the_fastest() {
        let ours = |is_exact| Who::Ours { contender_idx: 0, is_exact };
        let peer = |is_bf16| Who::Peer { peer_idx: 0, is_bf16 };
        let rows = vec![
            row("raw", ours(false), &[1.0, 2.0, 3.0], &[4.0; 3]),
            row("exact", ours(true), &[2.0, 2.0, 2.0], &[2.0; 3]),
            row("slow", peer(true), &[9.0; 3], &[9.0; 3]),
            row("fast", peer(true), &[1.0; 3], &[3.0; 3]),
            row("small", peer(false), &[4.0; 3], &[1.0; 3]),
            row("gone", peer(true), &[], &[]),
        ];
        let timings = Timings { memory: Vec::new(), rows, said: Vec::new() };
        let found = timings.ratios();
        let found: Vec<_> = found.iter().map(|r| (&r.tool[..], &r.what[..], &r.to[..], r.per_second.median)).collect();
        let expected = [
            ("raw", "prefill", "fast", 0.5),
            ("raw", "decode x1", "fast", 0.75),
            ("raw", "decode x1", "small", 0.25),
            ("exact", "prefill", "raw", 1.0),
            ("exact", "prefill", "fast", 0.5),
            ("exact", "decode x1", "raw", 2.0),
            ("exact", "decode x1", "fast", 1.5),
            ("exact", "decode x1", "small", 0.5),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn gigabytes_are_those_of_bf16() {
        let mut timings = Timings { memory: Vec::new(), rows: Vec::new(), said: Vec::new() };
        timings.rows.push(row("raw", Who::Ours { contender_idx: 0, is_exact: false }, &[1.0], &[2.0]));
        let read = vec![Timing { cpu_s: 1.0, wall_s: 0.5 }];
        timings.memory.push(MemoryTimings { operation: "read", n_threads: 2, timings: read });
        let options = ModelOptions { generate: 10, ..ModelOptions::new("x".into()) };
        // 10 tokens of 1 G weights are 20 GB in 4 seconds of CPU time; a core reads 10 GB in one.
        let found = &timings.rows(&options, 1_000_000_000, 10_000_000_000)[0];
        assert_eq!((found.gigabytes_per_core.unwrap().median, found.of_read.unwrap().median), (5.0, 0.5));
        assert_eq!((found.decode[0].speed.tokens_per_second.median, found.decode[0].speed.cpu_share), (5.0, 1.0));
    }
}
