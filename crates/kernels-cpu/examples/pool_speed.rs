//! What the pool costs, and how it bears a competitor: latency of runs, and throughput alone and beside a process that
//! keeps one core busy (`taskset` pins it, so this is for Linux). Slices with and without the competitor take turns,
//! and each has a look at how much processor time this process got: where others keep the machine busy, the slices
//! without the competitor are not alone either, and the ratio says little.
//!
//! `cargo run --release -p netweight-kernels-cpu --example pool_speed [n_threads]`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cpu_time::ProcessTime;
use netweight_kernels_cpu::Pool;

const SLICE: Duration = Duration::from_millis(400);
const N_SLICES: usize = 21;
/// Items of a run and how long each takes: like a linear layer of a small model.
const N_ITEMS: usize = 64;
const ITEM: Duration = Duration::from_micros(10);

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let pool = Pool::new(n_threads);
    println!("{n_threads} threads");
    println!("run of one item, no other thread wanted: {:8.2} us", latency(&pool, 1, Duration::ZERO));
    println!("run of an empty item for each thread:    {:8.2} us", latency(&pool, n_threads, Duration::ZERO));
    let pause = Duration::from_millis(1);
    println!("the same, after a pause of a millisecond: {:7.2} us", latency(&pool, n_threads, pause));
    let n_additions = calibrate();
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..N_SLICES {
        alone.push(throughput(&pool, n_additions));
        let Some(mut competitor) = spin_on_core(1) else { return println!("no taskset: no competitor") };
        beside.push(throughput(&pool, n_additions));
        competitor.kill().and_then(|()| competitor.wait().map(drop)).expect("the competitor ends");
    }
    let ideal = n_threads as f64 / (ITEM.as_secs_f64() * N_ITEMS as f64);
    println!("runs of {N_ITEMS} items of {ITEM:?}, at most {ideal:.0}/s; median (best) of {N_SLICES} slices:");
    let (alone, beside) = (report("alone", &mut alone), report("beside a busy process", &mut beside));
    println!("ratio of medians {:.2}, of bests {:.2}", alone.0 / beside.0, alone.1 / beside.1);
}

/// Prints and returns the median and the best of runs in a second; prints the median of the cores had.
fn report(what: &str, slices: &mut [(f64, f64)]) -> (f64, f64) {
    slices.sort_by(|a, b| a.1.total_cmp(&b.1));
    let cores = slices[slices.len() / 2].1;
    slices.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (median, best) = (slices[slices.len() / 2].0, slices[slices.len() - 1].0);
    println!("  {what:22} {median:6.0}/s ({best:.0}), on {cores:.2} cores");
    (median, best)
}

/// Median microseconds of a run of empty items, each run after a pause.
fn latency(pool: &Pool, n_items: usize, pause: Duration) -> f64 {
    let n_runs = if pause.is_zero() { 20_000 } else { 300 };
    let time = |_| {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        pool.run(n_items, 1, &|_, _| ());
        start.elapsed().as_secs_f64() * 1e6
    };
    let mut times: Vec<f64> = (0..n_runs).map(time).collect();
    times.sort_by(f64::total_cmp);
    times[n_runs / 2]
}

/// Runs in a second, and cores that this process had meanwhile.
fn throughput(pool: &Pool, n_additions: u32) -> (f64, f64) {
    let (start, cpu) = (Instant::now(), ProcessTime::now());
    let mut n_runs = 0;
    while start.elapsed() < SLICE {
        pool.run(N_ITEMS, 1, &|_, _| work(n_additions));
        n_runs += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    (f64::from(n_runs) / seconds, cpu.elapsed().as_secs_f64() / seconds)
}

/// Additions that take as long as an item, on a core of its own.
fn calibrate() -> u32 {
    let time = |_| {
        let start = Instant::now();
        work(10_000);
        start.elapsed().as_secs_f64()
    };
    let fastest = (0..200).map(time).fold(f64::INFINITY, f64::min);
    (10_000.0 * ITEM.as_secs_f64() / fastest) as u32
}

/// So many dependent additions.
fn work(n_additions: u32) {
    let sum = (0..n_additions).fold(1.0_f32, |sum, _| std::hint::black_box(sum + 1e-3));
    std::hint::black_box(sum);
}

fn spin_on_core(core: usize) -> Option<Child> {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), "sh", "-c", "while :; do :; done"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}
