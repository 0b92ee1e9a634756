//! The main path: one data set after the other, and on each everyone in turn, round by round.

use crate::bounds::bounds;
use crate::data::{DataSet, load, sources};
use crate::machine::Machine;
use crate::memory;
use crate::options::{Error, Options};
use crate::ours::Ours;
use crate::peers::Peers;
use crate::report::{Comparison, DataSetReport, MemoryRow, Ratio, Report, Row};
use crate::stats::{Rate, Spread, Timing};

/// Timings are of at least this many bytes: smaller data sets are gone over several times.
const LEAST_BYTES: usize = 32 << 20;

/// Measures all data sets that the options name.
///
/// # Errors
/// [`Error`]: files that cannot be read, and any difference between decoded and original data. Peers that
/// cannot be run are notes in the report, not errors.
pub fn run(options: &Options) -> Result<Report, Error> {
    let mut data_sets = Vec::new();
    for source in sources(options) {
        if let Some(data) = load(&source, options)? {
            data_sets.push(measure(&data, options)?);
        }
    }
    Ok(Report {
        version: env!("CARGO_PKG_VERSION").into(),
        isa: netweight_codec::isa().into(),
        machine: Machine::here(),
        rounds: options.rounds.max(1),
        data_sets,
    })
}

/// Everyone's timings on one data set.
struct Timings {
    memory: Vec<MemoryTimings>,
    tools: Vec<ToolTimings>,
}

struct MemoryTimings {
    operation: &'static str,
    n_threads: usize,
    timings: Vec<Timing>, // (rounds,)
}

struct ToolTimings {
    tool: String,
    /// Index of the level or of the peer.
    contender: Contender,
    n_threads: usize,
    len_bytes: usize,
    encode: Vec<Timing>, // (rounds,), empty where there is a note
    decode: Vec<Timing>, // (rounds,)
    note: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Contender {
    Level(usize),
    Peer(usize),
}

fn measure(data: &DataSet, options: &Options) -> Result<DataSetReport, Error> {
    let n_repeats = LEAST_BYTES.div_ceil(data.bytes.len());
    let thread_counts = options.thread_counts();
    let max_threads = thread_counts[thread_counts.len() - 1];
    let levels = options.levels.iter();
    let mut ours: Vec<Ours> = levels.map(|&level| Ours::new(data, level, max_threads, n_repeats)).collect();
    let mut mapped = vec![0xa5u8; data.bytes.len() + 64];
    let begin = mapped.as_ptr().align_offset(64); // as mapped files and loaded models are
    let decoded = &mut mapped[begin..][..data.bytes.len()];
    let mut peers = match options.peers {
        true => Some(Peers::start(&options.python, data, n_repeats)?),
        false => None,
    };
    let mut timings = line_up(&ours, &peers, &thread_counts);
    // Round 0 maps memory and fills caches; it is checked like the others and not counted.
    for round_idx in 0..=options.rounds.max(1) {
        for row in &mut timings.memory {
            let timing = match row.operation {
                "read" => memory::read(&data.bytes, row.n_threads, n_repeats),
                _ => memory::copy(&data.bytes, decoded, row.n_threads, n_repeats),
            };
            row.timings.push(timing);
        }
        for row in timings.tools.iter_mut().filter(|row| row.note.is_none()) {
            match (row.contender, &mut peers) {
                (Contender::Level(idx), _) => our_round(&mut ours[idx], row, data, decoded)?,
                (Contender::Peer(idx), Some(Ok(peers))) => peer_round(peers, idx, row),
                (Contender::Peer(_), _) => {}
            }
        }
        if round_idx == 0 {
            timings.forget();
        }
    }
    Ok(report(data, n_repeats, timings))
}

/// A row without timings for everyone.
fn line_up(ours: &[Ours], peers: &Option<Result<Peers, String>>, thread_counts: &[usize]) -> Timings {
    let mut lined_up = Timings { memory: Vec::new(), tools: Vec::new() };
    let row = |tool: String, contender, n_threads, note| ToolTimings {
        tool,
        contender,
        n_threads,
        len_bytes: 0,
        encode: Vec::new(),
        decode: Vec::new(),
        note,
    };
    for &n_threads in thread_counts {
        for operation in ["memcpy", "read"] {
            lined_up.memory.push(MemoryTimings { operation, n_threads, timings: Vec::new() });
        }
        for (idx, ours) in ours.iter().enumerate() {
            let tool = format!("netweight {}", ours.level.name());
            lined_up.tools.push(row(tool, Contender::Level(idx), n_threads, None));
        }
    }
    match peers {
        None => {}
        Some(Err(reason)) => lined_up.tools.push(row("peers".into(), Contender::Peer(0), 1, Some(reason.clone()))),
        Some(Ok(peers)) => {
            let peer_row = |(idx, peer): (usize, &crate::peers::Peer)| {
                row(peer.name.clone(), Contender::Peer(idx), 1, peer.missing.clone())
            };
            lined_up.tools.extend(peers.list.iter().enumerate().map(peer_row));
        }
    }
    lined_up
}

impl Timings {
    fn forget(&mut self) {
        self.memory.iter_mut().for_each(|row| row.timings.clear());
        self.tools.iter_mut().for_each(|row| {
            row.encode.clear();
            row.decode.clear();
        });
    }
}

fn our_round(ours: &mut Ours, row: &mut ToolTimings, data: &DataSet, decoded: &mut [u8]) -> Result<(), Error> {
    row.encode.push(ours.encode(row.n_threads)?);
    row.len_bytes = ours.len_bytes();
    // The buffer holds the right bytes from the last decoding; they must not hide a decoder that writes nothing.
    decoded.fill(0xa5);
    row.decode.push(ours.decode(row.n_threads, decoded)?);
    if decoded == data.bytes {
        Ok(())
    } else {
        Err(Error::Changed { tool: row.tool.clone(), data_set: data.name.clone() })
    }
}

fn peer_round(peers: &mut Peers, peer_idx: usize, row: &mut ToolTimings) {
    let result = peers.request(peer_idx, "encode").and_then(|(encode, len_bytes)| {
        let (decode, _) = peers.request(peer_idx, "decode")?;
        Ok((encode, decode, len_bytes))
    });
    match result {
        Ok((encode, decode, len_bytes)) => {
            row.encode.push(encode);
            row.decode.push(decode);
            row.len_bytes = len_bytes;
        }
        Err(error) => row.note = Some(format!("failed: {error}")),
    }
}

fn report(data: &DataSet, n_repeats: usize, timings: Timings) -> DataSetReport {
    let timed_bytes = data.bytes.len() * n_repeats;
    let comparisons = compare(&timings, data.bytes.len());
    let memory_row = |row: MemoryTimings| MemoryRow {
        operation: row.operation,
        n_threads: row.n_threads,
        rate: Rate::of(timed_bytes, &row.timings),
    };
    let row = |row: ToolTimings| {
        let measured = row.note.is_none();
        let rate = |timings: &[Timing]| measured.then(|| Rate::of(timed_bytes, timings));
        Row {
            tool: row.tool,
            peer: matches!(row.contender, Contender::Peer(_)),
            n_threads: row.n_threads,
            size_percent: measured.then(|| 100.0 * row.len_bytes as f64 / data.bytes.len() as f64),
            encode: rate(&row.encode),
            decode: rate(&row.decode),
            note: row.note,
        }
    };
    DataSetReport {
        name: data.name.clone(),
        len_bytes: data.bytes.len(),
        n_tensors: data.segments.len(),
        n_repeats,
        bounds: bounds(data),
        memory: timings.memory.into_iter().map(memory_row).collect(),
        rows: timings.tools.into_iter().map(row).collect(),
        comparisons,
    }
}

/// Our rows on one thread against the best peers and memcpy.
fn compare(timings: &Timings, len_bytes: usize) -> Vec<Comparison> {
    let is_peer = |row: &&ToolTimings| matches!(row.contender, Contender::Peer(_)) && row.note.is_none();
    let peers: Vec<&ToolTimings> = timings.tools.iter().filter(is_peer).collect();
    let median = |timings: &[Timing]| Spread::of(timings.iter().map(|timing| timing.cpu_s)).median;
    let best = |key: &dyn Fn(&ToolTimings) -> f64| peers.iter().copied().min_by(|a, b| key(a).total_cmp(&key(b)));
    let smallest = best(&|row| row.len_bytes as f64);
    let encoder = best(&|row| median(&row.encode));
    let decoder = best(&|row| median(&row.decode));
    let ours = (timings.tools.iter()).filter(|row| matches!(row.contender, Contender::Level(_)) && row.n_threads == 1);
    let points = |row: &ToolTimings, peer: &ToolTimings| {
        100.0 * (row.len_bytes as f64 - peer.len_bytes as f64) / len_bytes as f64
    };
    ours.map(|row| Comparison {
        tool: row.tool.clone(),
        encode: encoder.map(|peer| ratio(&row.encode, &peer.encode, &peer.tool)),
        decode: decoder.map(|peer| ratio(&row.decode, &peer.decode, &peer.tool)),
        decode_to_memcpy: ratio(&row.decode, &timings.memory[0].timings, timings.memory[0].operation),
        size_points: smallest.map(|peer| (points(row, peer), peer.tool.clone())),
    })
    .collect()
}

fn ratio(ours: &[Timing], theirs: &[Timing], to: &str) -> Ratio {
    let ratios = ours.iter().zip(theirs).map(|(ours, theirs)| theirs.cpu_s / ours.cpu_s.max(1e-9));
    Ratio { to: to.to_string(), ratio: Spread::of(ratios) }
}
