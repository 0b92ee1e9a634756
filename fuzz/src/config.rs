//! Configurations: `config.json` is refused, or declares a model whose parts fit each other.

use std::path::Path;

use netweight_model::{
    Batch, Cache, Error, Matrix, Mlp, Model, Place, Reference, Result, Source, Spec, Tensor, Workspace, limits,
};

/// Layers, and experts in layers, of models whose tensors are listed.
const MAX_PARTS: usize = 200;
/// Weights of models that are run.
const MAX_WEIGHTS: usize = 1 << 16;
const MAX_CONTEXT: usize = 8;

/// Input: `config.json`.
pub(crate) fn read(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let spec = match Spec::from_config(&text) {
        Ok(spec) => spec,
        Err(error) => return drop(error.to_string()),
    };
    check(&spec);
    let n_parts = |layer: &netweight_model::Layer| match layer.mlp {
        Mlp::Dense { .. } => 1,
        Mlp::Experts(routed) => routed.n_experts,
    };
    if spec.layers.iter().map(n_parts).sum::<usize>() > MAX_PARTS {
        return;
    }
    let tensors: Vec<Tensor> = spec.tensors().collect();
    assert!(tensors.iter().all(|tensor| !tensor.name().is_empty() && tensor.rows > 0 && tensor.cols > 0));
    if tensors.iter().map(|tensor| tensor.rows * tensor.cols).sum::<usize>() <= MAX_WEIGHTS {
        run(spec);
    }
}

/// What a forward pass takes for granted.
fn check(spec: &Spec) {
    assert!(!spec.layers.is_empty() && spec.layers.len() <= limits::MAX_LAYERS);
    assert!(spec.hidden <= limits::MAX_WIDTH && spec.vocab <= limits::MAX_VOCAB);
    assert!(spec.max_positions <= limits::MAX_POSITIONS && spec.norm_eps > 0.0);
    for layer in &spec.layers {
        let attention = &layer.attention;
        assert!(attention.n_heads.is_multiple_of(attention.n_kv_heads) && attention.q_width() <= limits::MAX_WIDTH);
        assert!(attention.scale.is_finite() && attention.window != Some(0));
        let rope = &spec.ropes[attention.rope_idx];
        assert!(rope.rotary_dim <= attention.head_dim && rope.inv_freq.len() * 2 == rope.rotary_dim);
        assert!(rope.long.as_ref().is_none_or(|long| long.inv_freq.len() == rope.inv_freq.len()));
    }
}

/// Weights from nowhere.
struct AnyWeights;

impl Source for AnyWeights {
    type Linear = Matrix;
    type Vector = Vec<f32>;
    type Error = Error;

    fn linear(&mut self, tensor: &Tensor) -> Result<Matrix> {
        let weight = |idx: usize| (idx * 7 % 23) as f32 / 23.0 - 0.5;
        let bias = tensor.bias.as_ref().map(|bias| self.vector(bias)).transpose()?;
        Matrix::new((0..tensor.rows * tensor.cols).map(weight).collect(), tensor.rows, tensor.cols, bias)
    }

    fn vector(&mut self, tensor: &Tensor) -> Result<Vec<f32>> {
        Ok((0..tensor.rows).map(|idx| 1.0 + (idx % 5) as f32 / 8.0).collect())
    }
}

/// Runs a few tokens together and then one by one, which must give the same.
fn run(spec: Spec) {
    let (vocab, context_len) = (spec.vocab, spec.max_positions.min(MAX_CONTEXT));
    let model = Model::load(spec, context_len, &Reference, &mut AnyWeights).expect("weights for each tensor");
    let tokens: Vec<u32> = (0..context_len).map(|idx| (idx * 11 % vocab) as u32).collect();
    let all_places: Vec<Place> =
        (0..context_len).map(|position| Place { slot: 0, position, sequence_len: context_len }).collect();
    let run = |n_together: usize| {
        let mut workspace = Workspace::new(&model, &Reference, context_len, 3).expect("room");
        let mut cache = Cache::new(model.spec(), 1, context_len);
        let mut all = vec![];
        for (tokens, places) in tokens.chunks(n_together).zip(all_places.chunks(n_together)) {
            let logits_for: Vec<usize> = (0..tokens.len()).collect();
            let mut logits = vec![f32::NAN; tokens.len() * vocab];
            let batch = Batch { tokens, places, logits_for: &logits_for };
            model.forward(&mut Reference, &batch, &mut workspace, &mut cache, &mut logits).expect("a batch that fits");
            all.extend(logits.iter().map(|logit| if logit.is_nan() { f32::NAN } else { *logit }.to_bits()));
        }
        all
    };
    assert!(run(context_len) == run(1), "logits depend on what runs together");
}

/// The configurations that `netweight-model` is tested with.
pub(crate) fn read_seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/model/tests/fixtures");
    let entries = std::fs::read_dir(folder).expect("fixtures").map(|entry| entry.expect("an entry").path());
    let mut folders: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    let files = folders.iter().flat_map(|folder| ["config.json", "config_old.json"].map(|name| folder.join(name)));
    files.map(|path| std::fs::read(path).expect("a configuration")).collect()
}
