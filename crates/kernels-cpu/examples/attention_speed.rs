//! Speed of attention, for each instruction set: decoding one token at 2048 positions, and a prompt of 512. Counted in
//! seconds of all processors together, so that neighbours disturb little.
//!
//! `cargo run --release -p netweight-kernels-cpu --example attention_speed [n_threads]`

use cpu_time::ProcessTime;
use netweight_kernels_cpu::{
    Attend, Attention, AttentionShape, Isa, KvCache, KvShape, KvType, Place, Pool, Rows, RowsMut,
};

const SHAPE: AttentionShape = AttentionShape { n_heads: 32, n_kv_heads: 8, head_dim: 128 };
const CONTEXT: usize = 2048;
const PROMPT: usize = 512;
/// Positions whose keys and values stay in the second cache.
const SHORT: usize = 256;
/// Copies of the cache's layer, so that decoding reads keys and values from memory, as a model of as many layers does.
const N_LAYERS: usize = 16;
const N_ROUNDS: usize = 7;

fn main() {
    let n_threads = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(2);
    let pool = Pool::new(n_threads);
    println!("{n_threads} threads, {SHAPE:?}, best of {N_ROUNDS}, per processor second");
    for kv_type in [KvType::F32, KvType::F16, KvType::Bf16] {
        let mut cache = filled_cache(kv_type);
        for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::scalar()) {
            let (gigabytes, gigaflops) =
                (decode(isa, &pool, &cache, CONTEXT, N_LAYERS), prefill(isa, &pool, &mut cache));
            let from_cache = decode(isa, &pool, &cache, SHORT, 1);
            println!(
                "{kv_type:?} {:7} decode {gigabytes:6.1} GB/s of keys and values, at {SHORT} positions {from_cache:6.1}   \
                 prefill {gigaflops:6.1} GFLOP/s",
                isa.name()
            );
        }
    }
}

fn filled_cache(kv_type: KvType) -> KvCache {
    let AttentionShape { n_kv_heads, head_dim, .. } = SHAPE;
    let shape = KvShape { n_layers: N_LAYERS, n_kv_heads, head_dim, n_slots: 2, max_positions: CONTEXT, kv_type };
    let mut cache = KvCache::new(shape).expect("a shape");
    let width = n_kv_heads * head_dim;
    let numbers: Vec<f32> = (0..CONTEXT * width).map(|idx| (idx * 7919 % 1009) as f32 / 1009.0 - 0.5).collect();
    let rows = Rows { data: &numbers, stride: width };
    let places: Vec<Place> = (0..CONTEXT).map(|position| Place { slot: 0, position }).collect();
    (0..N_LAYERS).for_each(|layer| cache.append(layer, &places, rows, rows));
    cache
}

/// Processor seconds of the fastest of some rounds.
fn best(mut round: impl FnMut()) -> f64 {
    let time = |round: &mut dyn FnMut()| {
        let start = ProcessTime::now();
        round();
        start.elapsed().as_secs_f64()
    };
    (0..N_ROUNDS).map(|_| time(&mut round)).fold(f64::INFINITY, f64::min)
}

fn attend() -> Attend {
    Attend { scale: 1.0 / (SHAPE.head_dim as f32).sqrt(), window: None, softcap: None }
}

/// Gigabytes of keys and values that are read in a processor second.
fn decode(isa: Isa, pool: &Pool, cache: &KvCache, context: usize, n_layers: usize) -> f64 {
    let width = SHAPE.n_heads * SHAPE.head_dim;
    let mut attention = Attention::new(SHAPE, 1, context, pool.n_threads()).expect("a shape");
    let (q, mut out) = (vec![0.1; width], vec![0.0; width]);
    let places = [Place { slot: 0, position: context - 1 }];
    let seconds = best(|| {
        for call in 0..N_LAYERS * CONTEXT / context {
            let layer = call % n_layers;
            let rows = (Rows { data: &q, stride: width }, RowsMut { data: &mut out, stride: width });
            attention.run(isa, pool, cache, layer, &attend(), &places, rows.0, rows.1);
        }
    });
    let element_bytes = if cache.shape().kv_type == KvType::F32 { 4 } else { 2 };
    let n_elements = N_LAYERS * CONTEXT * SHAPE.n_kv_heads * SHAPE.head_dim * 2;
    (n_elements * element_bytes) as f64 / seconds / 1e9
}

/// Gigaflops in a processor second, of the two products over the keys that are seen.
fn prefill(isa: Isa, pool: &Pool, cache: &mut KvCache) -> f64 {
    let width = SHAPE.n_heads * SHAPE.head_dim;
    let mut attention = Attention::new(SHAPE, PROMPT, CONTEXT, pool.n_threads()).expect("a shape");
    let (q, mut out) = (vec![0.1; PROMPT * width], vec![0.0; PROMPT * width]);
    let places: Vec<Place> = (0..PROMPT).map(|position| Place { slot: 0, position }).collect();
    let seconds = best(|| {
        let rows = (Rows { data: &q, stride: width }, RowsMut { data: &mut out, stride: width });
        attention.run(isa, pool, cache, 0, &attend(), &places, rows.0, rows.1);
    });
    (PROMPT * (PROMPT + 1) / 2 * SHAPE.n_heads * SHAPE.head_dim * 4) as f64 / seconds / 1e9
}
