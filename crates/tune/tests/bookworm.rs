//! The bundled model, tuned on a text and measured on that text's second half: small figures of what the crate is for.

use std::path::{Path, PathBuf};

use netweight_engine::{CpuDecoder, Interrupt, Layout, LoadOptions, Store, Tokenizer};
use netweight_eval::{Recorded, Windows, compare};
use netweight_tune::{
    Allocation, Baseline, Budget, Calibration, Error, Order, Sensitivity, Tuner, calibrate, profile, search,
};

const WINDOWS: Windows = Windows { n_inputs: 128 };

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn store() -> Store {
    Store::open(&root().join("models/bookworm")).expect("the bundled model")
}

fn load(store: &Store) -> CpuDecoder {
    let options = LoadOptions { layout: Some(Layout::Bf16), ..LoadOptions::default() };
    CpuDecoder::load(store, &options, &Interrupt::new(), &|_| ()).expect("a model that loads")
}

fn tokens() -> Vec<u32> {
    let tokenizer = Tokenizer::read(root().join("models/bookworm").as_path()).expect("a tokenizer");
    let text = std::fs::read_to_string(root().join("tests/text/heldout.txt")).expect("a text");
    tokenizer.encode_bare(&text).expect("tokens")
}

fn calibrated(model: &mut CpuDecoder, tokens: &[u32]) -> Calibration {
    calibrate(model, tokens, WINDOWS, &Interrupt::new(), &mut |_, _| ()).expect("a calibration")
}

#[test]
fn a_grid_needs_fewer_bits_than_others_at_the_same_divergence() {
    let (store, tokens, interrupt) = (store(), tokens(), Interrupt::new());
    let (train, held_out) = (&tokens[..6144], &tokens[12_000..13_024]);
    let mut model = load(&store);
    let calibration = calibrated(&mut model, train);
    let mut tuner = Tuner::new(&store, model.spec(), calibration, Order::Given).expect("factors");
    let probed = Recorded::new(&mut model, &train[..513], WINDOWS, &interrupt).expect("logits");
    let mut noted = Vec::new();
    let mut note = |matrix: &Sensitivity| noted.push(matrix.clone());
    let found = profile(&mut tuner, &mut model, &probed, &[], &interrupt, &mut note).expect("a profile");
    // What is known is not probed again, and what follows is the same.
    let mut again = Vec::new();
    let mut note = |matrix: &Sensitivity| again.push(matrix.clone());
    let profile = profile(&mut tuner, &mut model, &probed, &found[..40], &interrupt, &mut note).expect("a profile");
    assert!(noted == found && profile == found && again == found[40..]);
    assert_eq!(profile.iter().map(|matrix| matrix.heads.len()).sum::<usize>(), 6 * (4 + 2 + 2));
    assert_eq!(profile.len(), 2 + 6 * 7);
    assert!(profile.iter().all(|matrix| (matrix.bits - 3.5).abs() < 0.5 && matrix.divergence < 0.05), "{profile:?}");
    let recorded = Recorded::new(&mut model, held_out, WINDOWS, &interrupt).expect("logits");
    let same = recorded.compare(&mut model, &interrupt).expect("a comparison");
    assert_eq!(same.n_identical, held_out.len() - 1, "a profile leaves the model as it was");

    let mut at = |budget: Budget, allocation: Allocation| {
        search(&tuner, &mut model, &recorded, &profile, allocation, budget, &interrupt, &mut |_, _| ())
    };
    let plan = at(Budget::Bits(3.9), Allocation::Sensitivity).expect("a plan");
    assert!((3.85..=3.9).contains(&plan.measured.bits_per_weight), "{}", plan.measured.bits_per_weight);
    let heads = at(Budget::Bits(3.9), Allocation::Heads).expect("a plan");
    let ratio = heads.measured.comparison.divergence.mean / plan.measured.comparison.divergence.mean;
    assert!(ratio != 1.0 && (0.8..1.2).contains(&ratio), "{ratio}");
    let uniform = at(Budget::Bits(3.9), Allocation::Uniform).expect("a plan");
    assert!(plan.measured.comparison.divergence.mean < uniform.measured.comparison.divergence.mean);
    let by_loss = at(Budget::Divergence(0.01), Allocation::Sensitivity).expect("a plan");
    assert!((0.008..=0.01).contains(&by_loss.measured.comparison.divergence.mean));
    assert!(matches!(at(Budget::Divergence(1e-9), Allocation::Sensitivity), Err(Error::Budget { .. })));

    for (name, fewer) in [("q4_k", 0.45), ("gptq-int4-g128", 0.5)] {
        let baseline = Baseline::from_name(name).expect("a baseline");
        let other = tuner.measure_baseline(&mut model, &recorded, baseline, &interrupt).expect("a measurement");
        let budget = Budget::Divergence(other.comparison.divergence.mean);
        let allocation = Allocation::Sensitivity;
        let plan = search(&tuner, &mut model, &recorded, &profile, allocation, budget, &interrupt, &mut |_, _| ());
        let bits = plan.expect("a plan").measured.bits_per_weight;
        assert!(bits < other.bits_per_weight - fewer, "{name}: {bits} and {}", other.bits_per_weight);
    }
}

#[test]
fn calibration_is_deterministic_and_sees_every_matrix() {
    let (store, tokens) = (store(), tokens());
    let mut model = load(&store);
    let mut first = calibrated(&mut model, &tokens[..600]);
    let mut again = calibrated(&mut model, &tokens[..600]);
    assert_eq!((first.n_tokens, &first.token_counts), (599, &again.token_counts));
    assert_eq!(first.logit_weights, again.logit_weights);
    for name in ["model.layers.3.self_attn.v_proj.weight", "model.layers.5.mlp.down_proj.weight", "lm_head.weight"] {
        let (first, again) = (first.gram(name).expect("seen"), again.gram(name).expect("seen"));
        assert_eq!((first.n_rows(), first.mean()), (599, again.mean()), "{name}");
    }
    assert_eq!(
        first.input_idx("model.layers.0.self_attn.q_proj.weight"),
        first.input_idx("model.layers.0.self_attn.k_proj.weight")
    );
    assert!(first.gram("model.embed_tokens.weight").is_none(), "rows are looked up there");
}

#[test]
fn what_cannot_be_calibrated_on_is_refused() {
    let (store, tokens) = (store(), tokens());
    let mut model = load(&store);
    let mut run = |tokens: &[u32]| calibrate(&mut model, tokens, WINDOWS, &Interrupt::new(), &mut |_, _| ());
    assert!(matches!(run(&tokens[..255]), Err(Error::TextTooShort { n_tokens: 255, least: 256 })));
    assert!(run(&vec![5000; 300]).is_err(), "tokens that the model does not know");
    // Weights near the largest bf16: what they make is infinite.
    let huge = [0x7f7fu16.to_le_bytes(); 256 * 256].concat();
    model.replace("model.layers.2.self_attn.o_proj.weight", Layout::Bf16, &huge).expect("weights that fit");
    match calibrate(&mut model, &tokens[..300], WINDOWS, &Interrupt::new(), &mut |_, _| ()) {
        Err(Error::NotFinite { layer }) => assert!(layer.starts_with("model.layers."), "{layer}"),
        other => panic!("{other:?}"),
    }
}

/// Logits that were kept say what two models that run side by side say.
#[test]
fn recorded_logits_compare_as_a_model_does() {
    let (store, tokens, interrupt) = (store(), tokens(), Interrupt::new());
    let (mut base, mut other) = (load(&store), load(&store));
    let zeros = vec![0; 2 * 256 * 256];
    other.replace("model.layers.4.self_attn.q_proj.weight", Layout::Bf16, &zeros).expect("weights that fit");
    let recorded = Recorded::new(&mut base, &tokens[..400], WINDOWS, &interrupt).expect("logits");
    let found = recorded.compare(&mut other, &interrupt).expect("a comparison");
    let expected = compare(&mut base, &mut other, &tokens[..400], WINDOWS, &interrupt, &mut |_, _| ()).expect("one");
    assert_eq!(found, expected);
    assert!(found.divergence.mean > 1e-4);
}
