//! How fast linear layers read weights: GB/s of the bf16 weights that are multiplied, per core, and as a ratio to
//! layout bf16. From the second-level cache with one thread (the kernel's ceiling), and from memory with 1 and 2.
//!
//! `cargo run --release -p netweight-kernels-cpu --example linear_speed [l2|dram] [isa ...] [index] [best]`
//!
//! Layouts of indices stand there twice, with bf16 and with int8 activations; `index` leaves out the others but bf16.
//! Medians of interleaved rounds, by the time of the process's CPUs; `best` prints the best round instead, for a machine with much else to do.

use cpu_time::ProcessTime;
use netweight_kernels_cpu::{Input, Isa, Job, Pool, Precision, Scratch, linear};
use netweight_layout::{Layout, Matrix};

const COLS: usize = 4096;
/// 1 MiB in bf16: half of a second-level cache.
const ROWS_L2: usize = 128;
/// 1 GiB in bf16: beyond any last-level cache.
const ROWS_DRAM: usize = 131072;
const N_ROUNDS: usize = 15;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |group: &[&str], name: &str| {
        let named: Vec<&String> = args.iter().filter(|arg| group.contains(&arg.as_str())).collect();
        named.is_empty() || named.iter().any(|arg| *arg == name)
    };
    let names: Vec<&str> = Isa::available().iter().map(|isa| isa.name()).collect();
    let isas: Vec<Isa> = Isa::available();
    let isas: Vec<Isa> =
        isas.into_iter().filter(|isa| isa.name() != "scalar" && is_wanted(&names, isa.name())).collect();
    if is_wanted(&["l2", "dram"], "l2") {
        let matrices = matrices(ROWS_L2);
        for n_tokens in [1, 8, 128] {
            measure("L2", &isas, &matrices, n_tokens, 1, 100 / n_tokens.min(100));
        }
    }
    if is_wanted(&["l2", "dram"], "dram") {
        let matrices = matrices(ROWS_DRAM);
        for (n_tokens, n_threads) in [(1, 1), (1, 2), (8, 1), (8, 2), (128, 1), (128, 2)] {
            let isas = if n_tokens == 128 { &isas[isas.len() - 1..] } else { &isas };
            measure("DRAM", isas, &matrices, n_tokens, n_threads, 1);
        }
    }
}

/// The same normal weights in every layout, on a grid in those of indices.
fn matrices(n_rows: usize) -> Vec<Matrix> {
    let mut state = 88_172_645_463_325_252u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    let n_pool = 1 << 20;
    let pool: Vec<f32> = (0..n_pool).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    let scales: Vec<f32> = (0..n_rows).map(|_| 0.02 * (0.2 * (uniform() * 4.0 - 2.0)).exp()).collect();
    let weights = |row: usize| {
        let scale = scales[row];
        let pool = &pool;
        (0..COLS).map(move |col| pool[(row * 7919 + col * 3 + row * row) % n_pool] * scale)
    };
    let index_only = std::env::args().any(|arg| arg == "index");
    Layout::all()
        .filter(|layout| !index_only || *layout == Layout::Bf16 || layout.is_index())
        .map(|layout| {
            let rows = (0..n_rows).flat_map(weights);
            // Steps of a grid in deviations: 3 bits of entropy for index3, else 4.
            let step = if layout == Layout::Index3 { 0.52 } else { 0.26 };
            let fit = |index: f32| if layout == Layout::Int4 { index.clamp(-8.0, 7.0) } else { index };
            let index = |(idx, weight): (usize, f32)| fit((weight / (scales[idx / COLS] * step)).round()) as i8 as u8;
            let bytes: Vec<u8> = match layout.element_bytes() {
                1 => rows.enumerate().map(index).collect(),
                4 => rows.flat_map(|weight| weight.to_le_bytes()).collect(),
                _ if layout == Layout::F16 => {
                    rows.flat_map(|weight| half::f16::from_f32(weight).to_le_bytes()).collect()
                }
                _ => rows.flat_map(|weight| half::bf16::from_f32(weight).to_le_bytes()).collect(),
            };
            Matrix::encode(layout, n_rows, COLS, &bytes).expect("a matrix")
        })
        .collect()
}

/// Rounds go through all instruction sets and layouts in turn, so that a noisy minute hits all.
fn measure(place: &str, isas: &[Isa], matrices: &[Matrix], n_tokens: usize, n_threads: usize, n_repeats: usize) {
    let pool = Pool::new(n_threads);
    let n_rows = matrices[0].rows();
    let scratch = Scratch::new(&pool, n_tokens, COLS);
    let mut input = Input::new(n_tokens, COLS);
    let x: Vec<f32> = (0..n_tokens * COLS).map(|idx| ((idx * 37) % 101) as f32 / 50.0 - 1.0).collect();
    let mut y = vec![0.0; n_tokens * n_rows];
    let contenders: Vec<(&Matrix, Precision)> = [Precision::Bf16, Precision::Int8]
        .into_iter()
        .flat_map(|precision| matrices.iter().map(move |matrix| (matrix, precision)))
        .filter(|(matrix, precision)| *precision == Precision::Bf16 || matrix.layout().is_index())
        .collect();
    let mut seconds = vec![vec![Vec::new(); contenders.len()]; isas.len()];
    for _ in 0..N_ROUNDS {
        for (isa, seconds) in isas.iter().zip(&mut seconds) {
            for ((matrix, precision), seconds) in contenders.iter().zip(seconds) {
                input.set(*isa, &pool, &x, COLS, [n_tokens, COLS], *precision);
                let jobs = [Job { matrix, row_steps: None, bias: None, out_col: 0 }];
                let start = ProcessTime::now();
                for _ in 0..n_repeats {
                    linear(*isa, &pool, &scratch, &input, &jobs, &mut y, n_rows);
                }
                seconds.push(start.elapsed().as_secs_f64() / n_repeats as f64);
            }
        }
    }
    for (isa, seconds) in isas.iter().zip(seconds) {
        let summary = if std::env::args().any(|arg| arg == "best") { best } else { median };
        let medians: Vec<f64> = seconds.into_iter().map(summary).collect();
        let is_bf16 = |(matrix, _): &(&Matrix, Precision)| matrix.layout() == Layout::Bf16;
        let bf16 = contenders.iter().position(is_bf16).map_or(f64::NAN, |idx| medians[idx]);
        print!("{place:4} {n_threads} threads {n_tokens:3} tokens {:6}", isa.name());
        for ((matrix, precision), seconds) in contenders.iter().zip(medians) {
            let gigabytes = (n_rows * COLS * 2) as f64 / 1e9 / seconds;
            let integers = if *precision == Precision::Int8 { " int8" } else { "" };
            print!(" | {}{integers} {gigabytes:5.1} ({:.2}x)", matrix.layout().name(), bf16 / seconds);
        }
        println!();
    }
}

fn best(values: Vec<f64>) -> f64 {
    values.into_iter().fold(f64::INFINITY, f64::min)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
