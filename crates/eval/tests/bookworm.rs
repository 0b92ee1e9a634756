//! The bundled model on text that it never saw, against what transformers computes on the same windows.

use std::path::{Path, PathBuf};

use netweight_engine::{CpuDecoder, Interrupt, Layout, LoadOptions, Precision, Store, Tokenizer};
use netweight_eval::{Windows, compare, perplexity};

/// transformers 5.23 in float32, and in bfloat16: windows of 256 inputs, 17 484 tokens predicted.
const FLOAT32: f64 = 44.653_704_446;
const BFLOAT16: f64 = 44.650_234_174;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn load(options: &LoadOptions) -> CpuDecoder {
    let store = Store::open(&root().join("models/bookworm")).expect("the bundled model");
    CpuDecoder::load(&store, options, &Interrupt::new(), &|_| ()).expect("a model that loads")
}

fn tokens() -> Vec<u32> {
    let tokenizer = Tokenizer::read(root().join("models/bookworm").as_path()).expect("a tokenizer");
    let text = std::fs::read_to_string(root().join("tests/text/heldout.txt")).expect("a text");
    tokenizer.encode_bare(&text).expect("tokens")
}

#[test]
fn the_perplexity_of_transformers() {
    let (tokens, windows) = (tokens(), Windows { n_inputs: 256 });
    assert_eq!(tokens.len(), 17_485);
    for (precision, expected, tolerance) in [(Precision::F32, FLOAT32, 1e-5), (Precision::Bf16, BFLOAT16, 1e-3)] {
        let mut model = load(&LoadOptions { precision: Some(precision), ..LoadOptions::default() });
        let found = perplexity(&mut model, &tokens, windows, &Interrupt::new(), &mut |_, _| ()).expect("a score");
        assert_eq!(found.n_predicted, 17_484);
        let error = (found.value() / expected - 1.0).abs();
        assert!(error < tolerance, "{precision:?}: {} and not {expected}", found.value());
        assert!(found.value_error() > 0.5 && found.value_error() < 3.0, "{}", found.value_error());
    }
}

#[test]
fn a_model_is_at_no_distance_from_itself_and_at_some_from_another() {
    let (tokens, windows) = (&tokens()[..1500], Windows { n_inputs: 256 });
    let how = |layout: Layout, precision: Precision| {
        load(&LoadOptions { layout: Some(layout), precision: Some(precision), ..LoadOptions::default() })
    };
    let mut base = how(Layout::Bf16, Precision::Bf16);
    let mut same = how(Layout::Exact12, Precision::Bf16);
    let found = compare(&mut base, &mut same, tokens, windows, &Interrupt::new(), &mut |_, _| ()).expect("a score");
    assert_eq!((found.n_identical, found.divergence.n), (1499, 1499));
    assert_eq!((found.divergence.max, found.same_top, found.ln_ratio.max), (0.0, 1.0, 0.0));
    let mut other = how(Layout::Exact12, Precision::F32);
    let found = compare(&mut base, &mut other, tokens, windows, &Interrupt::new(), &mut |_, _| ()).expect("a score");
    assert!(found.n_identical < 10 && found.divergence.mean > 0.0 && found.divergence.mean < 1e-3);
    assert!(found.same_top > 0.97 && found.same_top < 1.0 && found.acceptance.mean > 0.98);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let mut model = load(&LoadOptions { max_positions: Some(64), ..LoadOptions::default() });
    let mut score = |tokens: &[u32], n_inputs: usize| {
        perplexity(&mut model, tokens, Windows { n_inputs }, &Interrupt::new(), &mut |_, _| ())
            .map(|found| found.n_predicted)
    };
    assert!(score(&[1], 8).is_err());
    assert!(score(&[1, 2], 0).is_err());
    assert!(score(&[1, 2], 65).is_err());
    assert!(score(&[1, 4096], 8).is_err());
    assert_eq!(score(&[1, 2, 3], 64).expect("a score"), 2);
}
