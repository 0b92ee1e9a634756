//! Compares grids with other quantisers at equal divergence: method, bits a weight, divergence, perplexity.
//!
//! `cargo run --release -p netweight-tune --example compare -- MODEL CALIBRATION,... HELD_OUT [OOD]`; counted are all
//! matrices, embeddings and head included, with the steps and tables that a file would need, on either side. `TOKENS` and
//! `HELD` in the environment are numbers of tokens of each calibration text and of the texts that are measured on.

use std::path::Path;
use std::time::Instant;

use netweight_engine::{CpuDecoder, Interrupt, Layout, LoadOptions, Precision, Store, Tokenizer};
use netweight_eval::{Recorded, Windows};
use netweight_tune::{Allocation, BASELINES, Budget, Measured, Order, Sensitivity, Tuner, calibrate, profile, search};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

fn tokens(tokenizer: &Tokenizer, path: &str, most: usize) -> Outcome<Vec<u32>> {
    let text = std::fs::read_to_string(path)?;
    let mut end = text.len().min(most.saturating_mul(8));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut tokens = tokenizer.encode_bare(&text[..end])?;
    tokens.truncate(most);
    Ok(tokens)
}

fn line(name: &str, found: &Measured) -> String {
    let c = &found.comparison;
    let d = &c.divergence;
    format!(
        "{name:26} {:7.3} {:10.6} +- {:.6} {:9.6} {:9.6} {:9.6} {:9.6} {:9.5} +- {:.5} {:8.3} {:8.5}",
        found.bits_per_weight,
        d.mean,
        d.standard_error,
        d.median,
        d.p90,
        d.p99,
        d.p999,
        c.ln_ratio.mean,
        c.ln_ratio.standard_error,
        100.0 * c.same_top,
        c.probability_change_rms,
    )
}

/// Bits at which the curve has that divergence: a line through two neighbours in bits and ln divergence.
fn bits_at(curve: &[(f64, f64)], divergence: f64) -> Option<f64> {
    let pair = curve.windows(2).find(|pair| pair[0].1 >= divergence && pair[1].1 <= divergence)?;
    let ((bits, high), (more_bits, low)) = (pair[0], pair[1]);
    Some(bits + (more_bits - bits) * (high / divergence).ln() / (high / low).ln())
}

/// Prints grids of many sizes; gives bits and divergence of those that are dealt out by sensitivity.
fn grids(
    tuner: &Tuner<'_>,
    model: &mut CpuDecoder,
    recorded: &Recorded,
    profile: &[Sensitivity],
    interrupt: &Interrupt,
) -> Outcome<Vec<(f64, f64)>> {
    let mut curve = Vec::new();
    let all = "3,3.5,4,4.5,5,5.5,6,6.5";
    let wanted = std::env::var("BITS").unwrap_or_else(|_| all.to_owned());
    for bits in wanted.split(',').filter_map(|bits| bits.parse().ok()) {
        for allocation in [Allocation::Sensitivity, Allocation::Uniform] {
            let plan =
                search(tuner, model, recorded, profile, allocation, Budget::Bits(bits), interrupt, &mut |_, _| ())?;
            println!("{}", line(&format!("grid {allocation:?}"), &plan.measured));
            if allocation == Allocation::Sensitivity {
                curve.push((plan.measured.bits_per_weight, plan.measured.comparison.divergence.mean));
            }
        }
    }
    Ok(curve)
}

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model_path, calibration, held_out, ood @ ..] = args.as_slice() else {
        return Err("MODEL CALIBRATION HELD_OUT".into());
    };
    let store = Store::open(Path::new(model_path))?;
    let (tokenizer, interrupt) = (Tokenizer::read(&store)?, Interrupt::new());
    let options = LoadOptions { layout: Some(Layout::Bf16), ..LoadOptions::default() };
    let mut model = CpuDecoder::load(&store, &options, &interrupt, &|_| ())?;
    let windows = Windows { n_inputs: number("WINDOW", 256) };
    let mut text = Vec::new();
    for path in calibration.split(',') {
        text.extend(tokens(&tokenizer, path, number("TOKENS", 4096))?);
    }
    let begin = Instant::now();
    let found = calibrate(&mut model, &text, windows, &interrupt, &mut |_, _| ())?;
    println!("calibrated on {} tokens in {:.1?}", found.n_tokens, begin.elapsed());
    let begin = Instant::now();
    let order = if std::env::var("LARGEST").is_ok() { Order::Largest } else { Order::Given };
    let mut tuner = Tuner::new(&store, model.spec(), found, order)?;
    println!("factored in {:.1?}", begin.elapsed());
    let begin = Instant::now();
    // The profile, too, is of the calibration text.
    let probed =
        Recorded::new(&mut model, &text[text.len().saturating_sub(number("PROBE", 4096))..], windows, &interrupt)?;
    let profile = profile(&mut tuner, &mut model, &probed, &[], &interrupt, &mut |_| ())?;
    println!("profiled in {:.1?}", begin.elapsed());
    drop(probed);
    for matrix in &profile {
        let heads: Vec<String> = matrix.heads.iter().map(|head| format!("{:.6}", head.divergence)).collect();
        println!("  {:44} {:.2} bits {:.6} {}", matrix.name, matrix.bits, matrix.divergence, heads.join(" "));
    }
    for path in std::iter::once(held_out).chain(ood) {
        let text = tokens(&tokenizer, path, number("HELD", 16384))?;
        let recorded = Recorded::new(&mut model, &text, windows, &interrupt)?;
        println!("\n{path}, {} tokens", text.len());
        println!(
            "method                        bits         KL               median        90 %      99 %    99.9 %   ln ppl ratio       same top   dp rms"
        );
        let other = if model.report().precision == Precision::Bf16 { Precision::F32 } else { Precision::Bf16 };
        let mut floor =
            CpuDecoder::load(&store, &LoadOptions { precision: Some(other), ..options }, &interrupt, &|_| ())?;
        let comparison = recorded.compare(&mut floor, &interrupt)?;
        println!(
            "{}",
            line("bf16 activations or not", &Measured { bits_per_weight: 16.0, of_each: Vec::new(), comparison })
        );
        drop(floor);
        let curve = grids(&tuner, &mut model, &recorded, &profile, &interrupt)?;
        for baseline in &BASELINES {
            let found = tuner.measure_baseline(&mut model, &recorded, baseline, &interrupt)?;
            let fewer = bits_at(&curve, found.comparison.divergence.mean).map(|bits| found.bits_per_weight - bits);
            let fewer = fewer.map_or_else(String::new, |fewer| format!("   grid: {fewer:.3} bits fewer"));
            println!("{}{fewer}", line(baseline.name, &found));
        }
    }
    Ok(())
}
