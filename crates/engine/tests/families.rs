//! Every family on the CPU: the logits of transformers, and the same bits from every loader, instruction set, number of
//! threads and way of batching.

mod common;

use common::{CONTEXT_LEN, bits, bookworm, fixtures, forward, load, oracle, rounded, run, worst_difference};
use netweight_engine::decoder::Place;
use netweight_engine::{Isa, KvType, Layout, LoadOptions, Precision};
use safetensors::Dtype;

/// Largest difference to transformers in float32, in standard deviations of the logits, where nothing is rounded.
const TOLERANCE: f64 = 1e-4;
/// The same where activations are rounded to bf16, whose last place is 2^-9, before each linear layer.
const TOLERANCE_BF16: f64 = 0.15;

fn options() -> LoadOptions {
    LoadOptions {
        n_threads: 1,
        n_slots: 3,
        kv_type: KvType::F32,
        max_positions: Some(CONTEXT_LEN),
        ..LoadOptions::default()
    }
}

#[test]
fn the_logits_of_transformers() {
    for folder in fixtures() {
        let (prompt, expected) = oracle(&folder, "prompt", "prompt_logits");
        let name = folder.file_name().expect("a name").to_string_lossy();
        for isa in Isa::available() {
            let mut model = load(&folder, &LoadOptions { isa: Some(isa), ..options() });
            let found = run(&mut model, 0, &prompt, 99);
            let worst = worst_difference(&found, &expected);
            println!("{name:20} {isa:?} {worst:.1e}");
            assert!(worst <= TOLERANCE, "{name} with {isa:?}: {worst:.1e}");
        }
        // Rounding may send a token to another expert, after which nothing is near any more.
        if name.starts_with("mixtral") || name.starts_with("qwen3_moe") {
            continue;
        }
        let mut model = load(&folder, &LoadOptions { precision: Some(Precision::Bf16), ..options() });
        let worst = worst_difference(&run(&mut model, 0, &prompt, 99), &expected);
        println!("{name:20} bf16 activations {worst:.1e}");
        assert!(worst <= TOLERANCE_BF16 && worst > 0.0, "{name} with activations in bf16: {worst:.1e}");
    }
}

/// bf16 weights through every loader, on every instruction set, in chunks and steps, in several threads.
#[test]
fn the_same_bits_whatever_the_way() {
    for folder in fixtures() {
        let (prompt, _) = oracle(&folder, "prompt", "prompt_logits");
        let name = folder.file_name().expect("a name").to_string_lossy();
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::BF16, scratch.path());
        for precision in [Precision::Bf16, Precision::F32] {
            let precision = Some(precision);
            let scalar = LoadOptions { isa: Some(Isa::scalar()), layout: Some(Layout::Bf16), precision, ..options() };
            let expected = bits(&run(&mut load(scratch.path(), &scalar), 0, &prompt, 99));
            for isa in Isa::available() {
                for (layout, n_threads) in
                    [(Layout::Bf16, 2), (Layout::Exact11, 1), (Layout::Exact12, 3), (Layout::F32, 2)]
                {
                    let how = LoadOptions { isa: Some(isa), layout: Some(layout), precision, n_threads, ..options() };
                    let mut model = load(scratch.path(), &how);
                    for (slot, step) in [(0, 99), (1, 1), (2, 7)] {
                        let found = bits(&run(&mut model, slot, &prompt, step));
                        let way = format!("{name}, {isa:?}, {}, {n_threads} threads, {step} at a time", layout.name());
                        assert!(found == expected, "{way}, activations {precision:?}");
                    }
                }
            }
        }
    }
}

/// A batch of a prompt's chunk and another sequence's step gives each the bits that it has alone.
#[test]
fn sequences_do_not_touch_each_other() {
    for folder in fixtures() {
        let (first, _) = oracle(&folder, "batch_0", "batch_0_logits");
        let (second, _) = oracle(&folder, "batch_1", "batch_1_logits");
        let mut model = load(&folder, &LoadOptions { n_threads: 2, ..options() });
        let vocab = run(&mut model, 0, &first, 99).len() / first.len();
        let alone = [run(&mut model, 0, &first, 99), run(&mut model, 0, &second, 99)];
        let split = first.len() - 1;
        run(&mut model, 1, &first[..split], 99);
        let step = Place { slot: 1, position: split };
        let places: Vec<Place> =
            [step].into_iter().chain((0..second.len()).map(|position| Place { slot: 2, position })).collect();
        let tokens: Vec<u32> = [first[split]].into_iter().chain(second.iter().copied()).collect();
        let found = forward(&mut model, &tokens, &places);
        assert!(bits(&found[..vocab]) == bits(&alone[0][split * vocab..]), "{}", folder.display());
        assert!(bits(&found[vocab..]) == bits(&alone[1]), "{}", folder.display());
    }
}

/// f16 checkpoints run too, raw or widened, with the same bits.
#[test]
fn half_precision_weights() {
    for folder in fixtures().into_iter().step_by(5) {
        let (prompt, expected) = oracle(&folder, "prompt", "prompt_logits");
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::F16, scratch.path());
        let scalar = LoadOptions { isa: Some(Isa::scalar()), layout: Some(Layout::F32), ..options() };
        let widened = run(&mut load(scratch.path(), &scalar), 0, &prompt, 99);
        let found = run(&mut load(scratch.path(), &options()), 0, &prompt, 5);
        assert!(bits(&found) == bits(&widened), "{}", folder.display());
        assert!(worst_difference(&found, &expected) < 0.15, "{}", folder.display());
    }
}

/// The bundled model, which is trained: 48 tokens, the likeliest each time, as transformers 5 in float32 writes them
/// after "It was a dark night, and the".
#[test]
fn the_bundled_model_writes_what_it_wrote() {
    const PROMPT: [u32; 8] = [891, 317, 261, 1340, 881, 14, 277, 265];
    const EXPECTED: [u32; 40] = [
        1580, 317, 261, 688, 579, 16, 442, 1580, 317, 261, 688, 579, 14, 277, 265, 1580, 317, 777, 16, 442, 1580, 317,
        261, 688, 579, 14, 277, 265, 1580, 317, 777, 16, 442, 1580, 317, 777, 14, 277, 265, 1580,
    ];
    for precision in [Precision::F32, Precision::Bf16] {
        let mut model = load(&bookworm(), &LoadOptions { precision: Some(precision), ..LoadOptions::default() });
        let mut tokens = PROMPT.to_vec();
        let mut logits = run(&mut model, 0, &tokens, 99);
        while tokens.len() < PROMPT.len() + EXPECTED.len() {
            let row = &logits[logits.len() - 4096..];
            let best = (0..4096).fold(0, |best, idx| if row[idx] > row[best] { idx } else { best });
            tokens.push(best as u32);
            let place = Place { slot: 0, position: tokens.len() - 1 };
            logits = forward(&mut model, &tokens[tokens.len() - 1..], &[place]);
        }
        assert_eq!(tokens[PROMPT.len()..], EXPECTED, "{precision:?}");
    }
}
