//! What the pool costs, and how it bears a competitor: latency of runs, and throughput alone and beside a process that
//! keeps one core busy (`taskset` pins it, so this is for Linux).
//!
//! `cargo run --release -p netweight-kernels-cpu --example pool_speed [n_threads]`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use netweight_kernels_cpu::Pool;

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let pool = Pool::new(n_threads);
    println!("{n_threads} threads");
    println!("run of one item, no other thread wanted: {:8.2} us", latency(&pool, 1, Duration::ZERO));
    println!("run of an empty item for each thread:    {:8.2} us", latency(&pool, n_threads, Duration::ZERO));
    let pause = Duration::from_millis(1);
    println!("the same, after a pause of a millisecond: {:7.2} us", latency(&pool, n_threads, pause));
    let quiet = throughput(&pool);
    let Some(mut competitor) = spin_on_core(1) else { return println!("no taskset: no competitor") };
    let busy = throughput(&pool);
    competitor.kill().and_then(|()| competitor.wait().map(drop)).expect("the competitor ends");
    println!(
        "runs of 64 items of some 10 us: {quiet:.0}/s alone, {busy:.0}/s beside a busy process: {:.2}x",
        quiet / busy
    );
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

/// Runs in a second: each like a linear layer of a small model, with a pause for what is done by one thread.
fn throughput(pool: &Pool) -> f64 {
    let start = Instant::now();
    let mut n_runs = 0;
    while start.elapsed() < Duration::from_secs(3) {
        pool.run(64, 1, &|_, _| work(10_000));
        work(10_000);
        n_runs += 1;
    }
    f64::from(n_runs) / start.elapsed().as_secs_f64()
}

/// About so many nanoseconds of dependent additions.
fn work(nanoseconds: u32) {
    let sum = (0..nanoseconds).fold(1.0_f32, |sum, _| std::hint::black_box(sum + 1e-3));
    std::hint::black_box(sum);
}

fn spin_on_core(core: usize) -> Option<Child> {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string(), "sh", "-c", "while :; do :; done"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}
