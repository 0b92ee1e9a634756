//! The reference backend computes what transformers computes, and the same bits however tokens are batched.

mod common;

use common::{Fixture, Session, places, worst_difference};
use netweight_model::{Batch, Place};

/// Largest difference to transformers in float32, in standard deviations of the logits. Two float32 engines that sum
/// in different orders differ by some 1e-5.
const TOLERANCE: f64 = 1e-4;

#[test]
fn whole_prompts_give_the_logits_of_transformers() {
    for fixture in Fixture::all() {
        let (prompt, expected) = fixture.prompt();
        let found = Session::new(fixture.spec(), &fixture.weights).run(&prompt, &places(0, prompt.len()));
        let worst = worst_difference(&found, expected);
        println!("{:20} {worst:.1e}", fixture.name);
        assert!(worst <= TOLERANCE, "{}: {worst:.1e}", fixture.name);
    }
}

#[test]
fn two_sequences_in_a_batch_give_the_logits_of_transformers() {
    for fixture in Fixture::all() {
        let [first, second] = ["batch_0", "batch_1"].map(|name| fixture.oracle.ids(name));
        let tokens = [second.clone(), first.clone()].concat();
        let both = [places(1, second.len()), places(2, first.len())].concat();
        let mut session = Session::new(fixture.spec(), &fixture.weights);
        let found = session.run(&tokens, &both);
        let expected = ["batch_1_logits", "batch_0_logits"].map(|name| fixture.oracle.values(name)).concat();
        let worst = worst_difference(&found, &expected);
        println!("{:20} {worst:.1e}", fixture.name);
        assert!(worst <= TOLERANCE, "{}: {worst:.1e}", fixture.name);
        let alone = [session.run_in_chunks(0, &second, 99), session.run_in_chunks(0, &first, 99)].concat();
        assert!(found == alone, "{}: a batch and each of its sequences alone", fixture.name);
    }
}

#[test]
fn chunks_and_steps_give_the_bits_of_the_whole() {
    for fixture in Fixture::all() {
        let (prompt, _) = fixture.prompt();
        let mut session = Session::new(fixture.spec(), &fixture.weights);
        let whole = session.run(&prompt, &places(0, prompt.len()));
        for chunk_len in [1, 7, 16] {
            let chunked = session.run_in_chunks(1, &prompt, chunk_len);
            assert!(whole == chunked, "{}: chunks of {chunk_len}", fixture.name);
        }
    }
}

/// A step of one sequence, the rest of another one's prompt, and logits after some tokens only.
#[test]
fn steps_and_chunks_mix() {
    for fixture in Fixture::all() {
        let [first, second] = ["batch_0", "batch_1"].map(|name| fixture.oracle.ids(name));
        let mut session = Session::new(fixture.spec(), &fixture.weights);
        let vocab = session.model.spec().vocab;
        let last_of = |logits: Vec<f32>| logits[logits.len() - vocab..].to_vec();
        let expected = [last_of(session.run_in_chunks(0, &first, 99)), last_of(session.run_in_chunks(1, &second, 99))];
        let (n_first, n_second) = (first.len() - 1, 5);
        let [places_0, places_1]: [Vec<Place>; 2] = [places(2, first.len()), places(0, second.len())];
        session.run(&first[..n_first], &places_0[..n_first]);
        session.run(&second[..n_second], &places_1[..n_second]);
        let tokens = [&first[n_first..], &second[n_second..]].concat();
        let both = [&places_0[n_first..], &places_1[n_second..]].concat();
        let logits_for = [tokens.len() - 1, 0];
        let found = session.try_run(&Batch { tokens: &tokens, places: &both, logits_for: &logits_for });
        let expected = [expected[1].clone(), expected[0].clone()].concat();
        assert!(found.expect("a batch that fits") == expected, "{}", fixture.name);
    }
}
