//! A batch that does not fit is refused before anything is computed.

mod common;

use common::{CONTEXT_LEN, Fixture, Session, places};
use netweight_model::{Batch, Error, MAX_CONTEXT, Model, Place, Reference, Workspace};

/// What is wrong, tokens, their places, and the tokens after which logits are wanted.
type Row = (&'static str, &'static [u32], [Option<Place>; 3], &'static [usize]);

#[test]
fn batches_that_do_not_fit_are_refused() {
    let fixture = Fixture::open("llama2");
    let mut session = Session::new(fixture.spec(), &fixture.weights);
    let at = |slot: usize, position: usize| Some(Place { slot, position, sequence_len: 9 });
    let rows: [Row; 8] = [
        ("tokens without places", &[1, 2], [at(0, 0), None, None], &[]),
        ("a token beyond the vocabulary", &[96], [at(0, 0), None, None], &[]),
        ("logits after no token", &[1], [at(0, 0), None, None], &[1]),
        ("a position beyond the context", &[1], [at(0, CONTEXT_LEN), None, None], &[]),
        ("a slot beyond the cache", &[1], [at(3, 0), None, None], &[]),
        ("a gap", &[1, 2], [at(0, 0), at(0, 2), None], &[]),
        ("a step back", &[1, 2], [at(0, 1), at(0, 0), None], &[]),
        ("a slot in two places", &[1, 2, 3], [at(0, 0), at(1, 0), at(0, 1)], &[]),
    ];
    for (what, tokens, places, logits_for) in rows {
        let places: Vec<Place> = places.into_iter().flatten().collect();
        let result = session.try_run(&Batch { tokens, places: &places, logits_for });
        assert!(matches!(result, Err(Error::InvalidArgument(_))), "{what}: {result:?}");
    }
    let too_many = vec![1; CONTEXT_LEN + 1];
    let two = [places(0, CONTEXT_LEN), places(1, 1)].concat();
    assert!(session.try_run(&Batch { tokens: &too_many, places: &two, logits_for: &[] }).is_err());
    let nothing = session.try_run(&Batch { tokens: &[], places: &[], logits_for: &[] });
    assert!(nothing.expect("an empty batch").is_empty());
}

#[test]
fn logits_have_to_have_their_size() {
    let fixture = Fixture::open("llama2");
    let model = Model::load(fixture.spec(), 8, &Reference, &mut &fixture.weights).expect("a model");
    let mut workspace = Workspace::new(&model, &Reference, 4, 1).expect("a workspace");
    let mut cache = netweight_model::Cache::new(model.spec(), 1, 8);
    let batch = Batch { tokens: &[1], places: &places(0, 1), logits_for: &[0] };
    for len in [0, 95, 97, 192] {
        let result = model.forward(&mut Reference, &batch, &mut workspace, &mut cache, &mut vec![0.0; len]);
        assert!(matches!(result, Err(Error::InvalidArgument(_))), "{len}");
    }
}

#[test]
fn sizes_have_limits() {
    let fixture = Fixture::open("llama2");
    let load = |context_len: usize| Model::load(fixture.spec(), context_len, &Reference, &mut &fixture.weights);
    assert!(load(0).is_err() && load(MAX_CONTEXT + 1).is_err());
    let model = load(4).expect("a model");
    assert!(Workspace::new(&model, &Reference, 0, 1).is_err() && Workspace::new(&model, &Reference, 1, 0).is_err());
}

/// A tensor that a declaration asks for in vain fails the load, it does not panic.
#[test]
fn missing_weights_fail_the_load() {
    let fixture = Fixture::open("llama_biases");
    let mut spec = fixture.spec();
    spec.is_tied = false;
    assert!(Model::load(spec, 8, &Reference, &mut &fixture.weights).is_err());
}
