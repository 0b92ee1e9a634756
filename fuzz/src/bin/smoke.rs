//! Runs the fuzz targets without libFuzzer, on any toolchain:
//!
//!     smoke [SECONDS] [TARGET ...]     each target (or each named one) for so many seconds, 5 if not told
//!     smoke --replay TARGET FILE       one input, from a file of hex digits or of bytes
//!     smoke --seeds FOLDER             writes the inputs to begin with to FOLDER/TARGET, for libFuzzer
//!
//! The inputs are the same in every run; how many of them there are depends on the time. An input that makes a
//! target panic, or take longer than ten seconds, is written to a file of hex digits, and the exit status is 1.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fmt::Write as _;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use netweight_fuzz::{TARGETS, Target, by_name, mutate};

const SLOWEST: Duration = Duration::from_secs(10);

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--replay", target, file] => {
            let bytes = std::fs::read(file)?;
            (by_name(target).run)(&from_hex(&bytes).unwrap_or(bytes));
            Ok(ExitCode::SUCCESS)
        }
        ["--seeds", folder] => write_seeds(Path::new(folder)).map(|()| ExitCode::SUCCESS),
        [seconds, ref names @ ..] => smoke(seconds.parse()?, names),
        [] => smoke(5.0, &[]),
    }
}

fn smoke(seconds: f64, names: &[&str]) -> Result<ExitCode, Box<dyn Error>> {
    let time = Duration::try_from_secs_f64(seconds)?;
    let named: Vec<&Target> = names.iter().map(|name| by_name(name)).collect();
    let targets = if named.is_empty() { TARGETS.iter().collect() } else { named };
    let mut n_failed = 0;
    for target in targets {
        if let Err(input) = run(target, time) {
            n_failed += 1;
            let path = PathBuf::from(format!("fuzz-{}.hex", target.name));
            std::fs::write(&path, to_hex(&input))?;
            println!("{}: FAILED; run: smoke --replay {} {}", target.name, target.name, path.display());
        }
    }
    Ok(if n_failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Gives the input that failed.
fn run(target: &Target, time: Duration) -> Result<(), Vec<u8>> {
    let seeds = (target.seeds)();
    let mut random = mutate::Random::new(1);
    let (begin, mut n_runs, mut slowest) = (Instant::now(), 0u64, Duration::ZERO);
    let mut waiting = seeds.clone();
    while begin.elapsed() < time {
        let input = waiting.pop().unwrap_or_else(|| mutate::input(&mut random, &seeds));
        let start = Instant::now();
        if catch_unwind(|| (target.run)(&input)).is_err() || start.elapsed() > SLOWEST {
            return Err(input);
        }
        slowest = slowest.max(start.elapsed());
        n_runs += 1;
    }
    println!("{:24} {n_runs:9} runs, slowest {:6.1} ms", target.name, slowest.as_secs_f64() * 1e3);
    Ok(())
}

fn write_seeds(folder: &Path) -> Result<(), Box<dyn Error>> {
    for target in TARGETS {
        let folder = folder.join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (idx, seed) in (target.seeds)().iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{idx:03}")), seed)?;
        }
    }
    Ok(())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &[u8]) -> Option<Vec<u8>> {
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.trim_ascii_end().chunks(2).map(|two| (two.len() == 2).then(|| pair(two)).flatten()).collect()
}
