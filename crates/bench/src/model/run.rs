//! The main path: load, make sure that all of ours compute the same, then everyone in turn, round by round.

use netweight_engine::Store;
use netweight_layout::AlignedBytes;

use crate::machine::Machine;
use crate::memory;
use crate::model::contender::{Contender, Family, hash, prompt, weights_per_token};
use crate::model::memory_use::{MemoryUse, in_process};
use crate::model::options::ModelOptions;
use crate::model::peers::{ModelPeer, ModelPeers};
use crate::model::report::{LogitsCheck, ModelReport, WeightsReport};
use crate::model::timings::{Timings, Who};
use crate::options::Error;
use crate::stats::Timing;

const MIB: f64 = 1048576.0;
/// Memory is measured on as many bytes as a token's weights have in bf16, within these bounds.
const MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=512 << 20;
/// Timings of memory are of at least this many bytes.
const LEAST_BYTES: usize = 32 << 20;

/// Measures a model.
///
/// # Errors
/// [`Error`]: a model that cannot be loaded or run, and any difference between what our layouts and numbers of threads
/// compute. Peers that cannot be run are notes in the report, not errors.
pub fn run_model(options: &ModelOptions) -> Result<ModelReport, Error> {
    let options = &options.sound();
    options.check()?;
    let store = Store::open(&options.model).map_err(netweight_engine::Error::from)?;
    let (mut contenders, memory_uses) = load(&store, options)?;
    let prompt = prompt(options.prompt, 0, netweight_engine::Decoder::vocab_size(&contenders[0].decoder));
    let (check, other_checks, logits) = check(&mut contenders, options, &prompt)?;
    let weights_per_token = weights_per_token(contenders[0].decoder.spec());
    let mut peers = match (options.peers, store.is_archive() && options.peers_of.is_none()) {
        (false, _) => None,
        (true, is_archive) => Some(if is_archive {
            Err("peers read checkpoints; this is an archive (--peers-of names one)".to_owned())
        } else {
            Ok(ModelPeers::start(options)?)
        }),
    };
    let mut memory = Memory::new(weights_per_token)?;
    let ours: Vec<(String, bool)> = contenders.iter().map(|one| (one.name(), one.layout.has_palette())).collect();
    let theirs: &[_] = peers.as_ref().and_then(|peers| peers.as_ref().ok()).map_or(&[], |peers| &peers.list);
    let mut timings = Timings::line_up(&ours, theirs, options);
    // Round 0 maps memory and fills caches; it is not counted.
    for round_idx in 0..=options.rounds {
        our_round(&mut contenders, &mut memory, &mut timings, options, &prompt)?;
        peer_round(&mut peers, &mut timings);
        if round_idx == 0 {
            timings.forget();
        }
    }
    let report = contenders[0].decoder.report();
    Ok(ModelReport {
        version: env!("CARGO_PKG_VERSION").into(),
        isa: report.isa.clone(),
        machine: Machine::here(),
        model: options.model.display().to_string(),
        n_weights: report.n_weights,
        weights_per_token,
        prompt: options.prompt,
        generate: options.generate,
        rounds: options.rounds,
        check,
        other_checks,
        memory_bytes: memory.source.len(),
        weights: weights(&contenders, memory_uses, &mut peers, &logits),
        rows: timings.rows(options, weights_per_token, memory.timed_bytes()),
        ratios: timings.ratios(),
        memory: timings.memory_rows(memory.timed_bytes()),
    })
}

/// Every layout once with each kind of activations. Where a checkpoint is not bf16, layouts fall together.
fn load(store: &Store, options: &ModelOptions) -> Result<(Vec<Contender>, Vec<Option<MemoryUse>>), Error> {
    let (mut contenders, mut memory_uses): (Vec<Contender>, _) = (Vec::new(), Vec::new());
    for wanted in options.wanted() {
        // Memory first, while the models before are all that is loaded; what fails is told better by loading here.
        let memory_use = in_process(options, wanted);
        let contender = Contender::load(store, options, wanted)?;
        let key = |contender: &Contender| (contender.layout, contender.precision());
        if contenders.iter().all(|other| key(other) != key(&contender)) {
            contenders.push(contender);
            memory_uses.push(memory_use?);
        }
    }
    Ok((contenders, memory_uses))
}

/// Compares the bits of logits of all contenders of a family with all numbers of threads; fills every slot. Gives what was
/// found of the first family and of the others, and the first logits after the prompt.
fn check(
    contenders: &mut [Contender],
    options: &ModelOptions,
    prompt: &[u32],
) -> Result<(LogitsCheck, Vec<LogitsCheck>, Vec<f32>), Error> {
    let mut seen: Vec<(Family, String, LogitsCheck)> = Vec::new();
    let mut logits = Vec::new();
    for contender in &mut *contenders {
        contender.decoder.set_threads(options.max_threads())?;
        contender.fill(options.prompt)?;
        for &n_threads in &options.threads {
            contender.decoder.set_threads(n_threads)?;
            let after_prompt = contender.prefill(prompt)?.to_vec();
            let after_step = contender.step()?;
            let n_logits = after_prompt.len() + after_step.len();
            let [prompt_hash, batch_hash] = [&after_prompt, after_step].map(|logits| format!("{:016x}", hash(logits)));
            let (family, name) = (contender.family(), name(&contender.name(), n_threads));
            let of = family.to_string();
            match seen.iter_mut().find(|(other, ..)| *other == family) {
                None => {
                    let check = LogitsCheck { of, n_contenders: 1, n_logits, prompt_hash, batch_hash };
                    seen.push((family, name, check));
                }
                Some((_, _, check)) if (&check.prompt_hash, &check.batch_hash) == (&prompt_hash, &batch_hash) => {
                    check.n_contenders += 1;
                }
                Some((_, first, _)) => return Err(Error::Differ { what: "logits", one: first.clone(), other: name }),
            }
            if logits.is_empty() {
                logits = after_prompt;
            }
        }
    }
    let mut checks = seen.into_iter().map(|(.., check)| check);
    let first = checks.next().unwrap_or_default();
    Ok((first, checks.collect(), logits))
}

fn name(tool: &str, n_threads: usize) -> String {
    format!("{tool} with {n_threads} threads")
}

/// Memory to read and to copy.
struct Memory {
    source: AlignedBytes,
    copy: AlignedBytes,
    n_repeats: usize,
}

impl Memory {
    fn new(weights_per_token: u64) -> Result<Memory, Error> {
        let n_bytes = weights_per_token.saturating_mul(2).clamp(*MEMORY_BYTES.start(), *MEMORY_BYTES.end()) as usize;
        let filled = |value: u8| {
            let bytes = AlignedBytes::zeroed(n_bytes);
            let mut bytes = bytes.map_err(|source| Error::Io { path: "memory to measure on".into(), source })?;
            bytes.fill(value); // Pages that nobody wrote are not there.
            Ok::<_, Error>(bytes)
        };
        Ok(Memory { source: filled(1)?, copy: filled(2)?, n_repeats: LEAST_BYTES.div_ceil(n_bytes) })
    }

    /// Bytes of one timing.
    fn timed_bytes(&self) -> usize {
        self.source.len() * self.n_repeats
    }

    fn timed(&mut self, operation: &str, n_threads: usize) -> Timing {
        match operation {
            "read" => memory::read(&self.source, n_threads, self.n_repeats),
            _ => memory::copy(&self.source, &mut self.copy, n_threads, self.n_repeats),
        }
    }
}

fn our_round(
    contenders: &mut [Contender],
    memory: &mut Memory,
    timings: &mut Timings,
    options: &ModelOptions,
    prompt: &[u32],
) -> Result<(), Error> {
    for &n_threads in &options.threads {
        for row in timings.memory.iter_mut().filter(|row| row.n_threads == n_threads) {
            row.timings.push(memory.timed(row.operation, n_threads));
        }
        for row in timings.rows.iter_mut().filter(|row| row.n_threads == n_threads) {
            let Who::Ours { contender_idx, .. } = row.who else { continue };
            let contender = &mut contenders[contender_idx];
            contender.decoder.set_threads(n_threads)?;
            contender.step()?; // New threads and their memory are met outside the timing.
            row.prefill.push(contender.timed_prefill(prompt)?);
            for decode in &mut row.decode {
                let (timing, tokens) = contender.timed_decode(decode.n_sequences, options.generate)?;
                decode.timings.push(timing);
                let key = (contender.family(), decode.n_sequences);
                match timings.said.iter().find(|said| said.0 == key) {
                    None => timings.said.push((key, tokens)),
                    Some((_, said)) if *said == tokens => (),
                    Some(_) => {
                        let (one, other) = ("the first of its kind".to_owned(), name(&row.tool, n_threads));
                        return Err(Error::Differ { what: "tokens", one, other });
                    }
                }
            }
        }
    }
    Ok(())
}

fn peer_round(peers: &mut Option<Result<ModelPeers, String>>, timings: &mut Timings) {
    let Some(Ok(peers)) = peers else { return };
    for row in &mut timings.rows {
        let Who::Peer { peer_idx, .. } = row.who else { continue };
        let peer = &mut peers.list[peer_idx];
        // One that fails keeps no row; its note says why.
        let (prefill, decode) = (peer.timed("prefill"), peer.timed("decode"));
        row.prefill.extend(prefill);
        row.decode[0].timings.extend(decode);
        if peer.note.is_some() {
            row.prefill.clear();
            row.decode[0].timings.clear();
        }
    }
}

/// How the weights lie in memory, ours and theirs.
fn weights(
    contenders: &[Contender],
    memory_uses: Vec<Option<MemoryUse>>,
    peers: &mut Option<Result<ModelPeers, String>>,
    logits: &[f32],
) -> Vec<WeightsReport> {
    let ours = contenders.iter().zip(memory_uses).map(|(contender, memory)| {
        let report = contender.decoder.report();
        WeightsReport {
            tool: contender.name(),
            load_s: Some(report.seconds),
            bits_per_weight: Some(report.bits_per_weight()),
            weights_mib: Some(report.matrix_bytes as f64 / MIB),
            memory,
            ..WeightsReport::default()
        }
    });
    let mut rows: Vec<WeightsReport> = ours.collect();
    let n_weights = contenders[0].decoder.report().n_weights as f64;
    match peers {
        None => (),
        Some(Err(reason)) => {
            let note = Some(reason.clone());
            rows.push(WeightsReport { tool: "peers".to_owned(), peer: true, note, ..WeightsReport::default() });
        }
        Some(Ok(peers)) => rows.extend(peers.list.iter_mut().map(|peer| peer_weights(peer, n_weights, logits))),
    }
    rows
}

fn peer_weights(peer: &mut ModelPeer, n_weights: f64, logits: &[f32]) -> WeightsReport {
    let cosine = peer.logits().map(|theirs| cosine(&theirs, logits));
    let bytes = |mib: f64| (mib * MIB) as u64;
    let memory = peer.memory_mib();
    WeightsReport {
        tool: peer.name.clone(),
        peer: true,
        version: peer.about.version.clone(),
        load_s: peer.about.load_s,
        bits_per_weight: peer.about.file_mib.map(|mib| 8.0 * mib * MIB / n_weights.max(1.0)),
        weights_mib: peer.about.file_mib,
        memory: memory
            .map(|[peak, resident]| MemoryUse { peak_bytes: peak.map(bytes), resident_bytes: resident.map(bytes) }),
        cosine,
        note: peer.note.clone(),
    }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}
