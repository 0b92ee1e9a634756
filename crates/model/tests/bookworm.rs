//! The bundled model writes what it wrote in transformers.

mod common;

use std::path::Path;

use common::{Session, Tensors, places};
use netweight_model::{Batch, Place, Spec};

/// "It was a dark night, and the" by the model's own tokenizer.
const PROMPT: [u32; 8] = [891, 317, 261, 1340, 881, 14, 277, 265];

/// What transformers 5 in float32 continues it with, taking the likeliest token each time: " sun was a long time. The
/// sun was a long time, and the sun was still. ..." The closest second choice is 0.03 behind.
const CONTINUATION: [u32; 40] = [
    1580, 317, 261, 688, 579, 16, 442, 1580, 317, 261, 688, 579, 14, 277, 265, 1580, 317, 777, 16, 442, 1580, 317, 261,
    688, 579, 14, 277, 265, 1580, 317, 777, 16, 442, 1580, 317, 777, 14, 277, 265, 1580,
];

#[test]
fn bookworm_continues_as_in_transformers() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm");
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
    let spec = Spec::from_config(&config).expect("a known model");
    let weights = Tensors::open(&folder.join("model.safetensors"));
    let names: usize = spec.tensors().map(|tensor| usize::from(weights.0.contains_key(tensor.name()))).sum();
    assert_eq!(names, weights.0.len(), "every tensor of the file is asked for");

    let mut session = Session::new(spec, &weights);
    let sequence_len = PROMPT.len() + CONTINUATION.len();
    let last = PROMPT.len() - 1;
    let batch = Batch { tokens: &PROMPT, places: &places(0, sequence_len)[..=last], logits_for: &[last] };
    let mut likeliest = argmax(&session.try_run(&batch).expect("a batch that fits"));
    for (idx, expected) in CONTINUATION.iter().enumerate() {
        assert_eq!(likeliest, *expected, "token {idx} of the continuation");
        let place = Place { slot: 0, position: PROMPT.len() + idx, sequence_len };
        likeliest = argmax(&session.run(&[likeliest], &[place]));
    }
}

fn argmax(logits: &[f32]) -> u32 {
    let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    largest.map_or(0, |(token, _)| token as u32)
}
