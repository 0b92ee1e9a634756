//! Every family on a GPU, which is emulated: the logits of transformers and of the CPU, and the same bits from every
//! layout, way of batching, and place where weights are.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{CONTEXT_LEN, bits, fixtures, forward, oracle, rounded, run, worst_difference};
use netweight_cuda_emulator::{Emulator, Options};
use netweight_engine::decoder::{Batch, Place};
use netweight_engine::{
    CudaDecoder, Decoder, Error, Interrupt, KvType, Layout, LoadOptions, Precision, Sampler, Sampling, Store,
};
use netweight_kernels_cuda::Device;
use safetensors::Dtype;

/// Largest difference to transformers in float32, in standard deviations of the logits: keys, values, queries and the
/// weights of attention are rounded to f16.
const TOLERANCE: f64 = 0.02;
/// Largest difference to the CPU, where both round activations to bf16: their sums differ in the last bits, which
/// rounding makes more of.
const TOLERANCE_BF16: f64 = 0.15;

fn options() -> LoadOptions {
    LoadOptions {
        n_slots: 3,
        max_positions: Some(CONTEXT_LEN),
        max_batch_tokens: Some(99),
        measures: false,
        ..LoadOptions::default()
    }
}

fn try_load(path: &Path, how: &LoadOptions, gpu: Options) -> netweight_engine::Result<(CudaDecoder, Arc<Emulator>)> {
    let store = Store::open(path).expect("a model");
    let emulator = Arc::new(Emulator::new(gpu));
    let device = Device::new(emulator.clone());
    Ok((CudaDecoder::load(&store, &device, how, &Interrupt::new(), &|_| ())?, emulator))
}

fn load(path: &Path, how: &LoadOptions, gpu: Options) -> CudaDecoder {
    try_load(path, how, gpu).unwrap_or_else(|error| panic!("{}: {error}", path.display())).0
}

/// Rounding may send a token to another expert, after which nothing is near any more.
fn has_experts(name: &str) -> bool {
    name.starts_with("mixtral") || name.starts_with("qwen3_moe")
}

#[test]
fn the_logits_of_transformers() {
    for folder in fixtures() {
        let (prompt, expected) = oracle(&folder, "prompt", "prompt_logits");
        let name = folder.file_name().expect("a name").to_string_lossy();
        let worst =
            worst_difference(&run(&mut load(&folder, &options(), Options::default()), 0, &prompt, 99), &expected);
        println!("{name:20} {worst:.1e}");
        assert!(worst <= TOLERANCE || has_experts(&name), "{name}: {worst:.1e}");
        if has_experts(&name) {
            let mut model = load(&folder, &options(), Options::default()); // which the host routes
            assert_eq!(
                bits(&run(&mut model, 1, &prompt, 1)),
                bits(&run(&mut model, 2, &prompt, 99)),
                "{name} in steps"
            );
        }
    }
}

/// bf16 weights in every layout, in chunks and steps, captured and not, threads in three orders; and near the CPU.
#[test]
fn the_same_bits_whatever_the_way() {
    for folder in fixtures() {
        let (prompt, _) = oracle(&folder, "prompt", "prompt_logits");
        let name = folder.file_name().expect("a name").to_string_lossy();
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::BF16, scratch.path());
        let mut expected: Option<Vec<f32>> = None;
        let ways = [
            (0, Layout::Bf16, true, [99, 1, 7].as_slice()),
            (1, Layout::Exact12, false, &[7, 1]),
            (2, Layout::Exact11, true, &[99, 1]),
        ];
        for (order, layout, has_graphs, steps) in ways {
            let how = LoadOptions { layout: Some(layout), ..options() };
            let mut model = load(scratch.path(), &how, Options { order, has_graphs, ..Options::default() });
            for (slot, &step) in steps.iter().enumerate() {
                let found = run(&mut model, slot, &prompt, step);
                let expected = expected.get_or_insert_with(|| found.clone());
                assert!(bits(&found) == bits(expected), "{name}, {}, order {order}, {step} at a time", layout.name());
            }
        }
        let how = LoadOptions { precision: Some(Precision::Bf16), kv_type: KvType::F16, ..options() };
        let of_cpu = run(&mut common::load(scratch.path(), &how), 0, &prompt, 99);
        let worst = worst_difference(&expected.expect("three runs"), &of_cpu);
        println!("{name:20} {worst:.1e} from the CPU");
        assert!(worst <= TOLERANCE_BF16 || has_experts(&name), "{name}: {worst:.1e}");
    }
}

/// A batch of a prompt's chunk and another sequence's step gives each the bits that it has alone.
#[test]
fn sequences_do_not_touch_each_other() {
    for folder in fixtures() {
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::BF16, scratch.path());
        let (first, _) = oracle(&folder, "batch_0", "batch_0_logits");
        let (second, _) = oracle(&folder, "batch_1", "batch_1_logits");
        let mut model = load(scratch.path(), &options(), Options::default());
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

/// Where weights may take less memory than they need, some stream in from the host, and nothing else changes.
#[test]
fn weights_that_stream() {
    let mut n_streaming = 0;
    for folder in fixtures().into_iter().step_by(3) {
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::BF16, scratch.path());
        let (prompt, _) = oracle(&folder, "prompt", "prompt_logits");
        let mut resident = load(scratch.path(), &options(), Options::default());
        let expected = bits(&run(&mut resident, 0, &prompt, 99));
        let n_bytes = resident.report().matrix_bytes;
        assert_eq!(resident.report().streamed_bytes, 0);
        // From little less than all there is down to the least that the slots and the embeddings take.
        for (tenths, late_copies) in [(9, true), (8, false), (7, true), (6, true), (5, true)] {
            let how = LoadOptions { gpu_memory: Some(n_bytes * tenths / 10), ..options() };
            let Ok((mut model, _)) = try_load(scratch.path(), &how, Options { late_copies, ..Options::default() })
            else {
                continue;
            };
            n_streaming += usize::from(model.report().streamed_bytes > 0);
            for step in [99, 1] {
                let found = bits(&run(&mut model, 1, &prompt, step));
                assert!(found == expected, "{} in {tenths} tenths, {step} at a time", folder.display());
            }
        }
    }
    assert!(n_streaming >= 3, "streamed {n_streaming} times only");
}

/// Tokens that the GPU chooses are those of a sampler that is given its logits: eagerly, captured and replayed, and where
/// settings change between replays.
#[test]
fn tokens_that_the_gpu_chooses() {
    let folder = &fixtures()[3];
    let mut model = load(folder, &options(), Options::default());
    let drawn = |temperature: f32, top_k: usize, top_p: f32, min_p: f32, seed: u64| Sampling {
        temperature,
        top_k,
        top_p,
        min_p,
        seed,
        ..Sampling::default()
    };
    let ways = [
        Sampling::default(),
        drawn(1.0, 0, 1.0, 0.0, 7),
        drawn(0.7, 5, 1.0, 0.0, 8),
        drawn(3.0, 0, 0.8, 0.0, u64::MAX),
        drawn(2.0, 30, 0.9, 0.05, 1),
        drawn(9.0, 1, 1.0, 0.0, 0),
    ];
    for sampling in ways {
        let mut by_logits = Sampler::new(&sampling, model.vocab_size()).expect("settings that make sense");
        let mut asked = Sampler::new(&sampling, model.vocab_size()).expect("the same");
        let mut token = 1;
        for position in 0..6 {
            let logits = forward(&mut model, &[token], &[Place { slot: 0, position }]);
            let expected = by_logits.sample(&logits).expect("a token");
            let batch = Batch { tokens: &[token], places: &[Place { slot: 1, position }], logits_for: &[0] };
            let choice = asked.choice().expect("no penalties");
            let chosen = model.choose(&batch, &choice, &Interrupt::new()).expect("a step");
            asked.skip();
            assert_eq!(chosen, Some(expected), "{sampling:?}, position {position}");
            token = expected;
        }
    }
}

/// A model without files: the same weights in every layout, others with another seed.
#[test]
fn random_models() {
    let config = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 90, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rope_theta": 10000.0,
        "max_position_embeddings": 512}"#;
    let device = Device::new(Arc::new(Emulator::new(Options::default())));
    let tokens: Vec<u32> = (0..9).map(|idx| idx * 7).collect();
    let logits = |layout: Layout, seed: u64| {
        let how = LoadOptions { layout: Some(layout), ..options() };
        let spec = netweight_model::Spec::from_config(config).expect("a declaration");
        let mut model = CudaDecoder::random((spec, seed), &device, &how, &Interrupt::new(), &|_| ()).expect("a model");
        assert!(model.report().layouts[0].0 == layout && model.report().n_weights == 90 * 64 * 2 + 2 * 36864);
        run(&mut model, 0, &tokens, 9)
    };
    let raw = logits(Layout::Bf16, 1);
    assert!(raw.iter().all(|logit| logit.is_finite()) && raw.iter().any(|logit| logit.abs() > 0.1));
    assert!(bits(&logits(Layout::Exact12, 1)) == bits(&raw));
    assert!(bits(&logits(Layout::Bf16, 2)) != bits(&raw));
}

/// f16 checkpoints run too.
#[test]
fn half_precision_weights() {
    for folder in fixtures().into_iter().step_by(5) {
        let (prompt, expected) = oracle(&folder, "prompt", "prompt_logits");
        let scratch = tempfile::tempdir().expect("a folder");
        rounded(&folder, Dtype::F16, scratch.path());
        let found = run(&mut load(scratch.path(), &options(), Options::default()), 0, &prompt, 5);
        let is_near = worst_difference(&found, &expected) < 0.15;
        assert!(is_near || has_experts(&folder.file_name().expect("a name").to_string_lossy()), "{}", folder.display());
    }
}

/// The context that is said to fit does, and the next one does not.
#[test]
fn the_context_that_would_fit() {
    let bookworm = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/bookworm"));
    let in_memory = |memory_bytes, max_positions: usize| {
        let gpu_memory = (max_positions == 0).then_some(1);
        let options = LoadOptions { max_positions: Some(max_positions.max(64)), gpu_memory, n_slots: 32, ..options() };
        try_load(bookworm, &options, Options { memory_bytes, ..Options::default() }).map(|_| ())
    };
    let memory = (9..).map(|n| n << 24).find(|&bytes| in_memory(bytes, 256).is_ok()).expect("enough");
    let Err(Error::GpuTooSmall { fitting_context: Some(fitting), .. }) = in_memory(memory, 1024) else {
        panic!("a context that would fit")
    };
    assert!((256..1024).contains(&fitting), "{fitting}");
    in_memory(memory, fitting).expect("room");
    let error = in_memory(memory, fitting + 64);
    assert!(matches!(error, Err(Error::GpuTooSmall { .. })), "{error:?}");
    let error = in_memory(memory, 0); // and one byte for the weights
    assert!(matches!(error, Err(Error::GpuTooSmall { fitting_context: None, .. })), "{error:?}");
}

#[test]
fn what_does_not_fit_is_said() {
    let folder = &fixtures()[0];
    let error = try_load(folder, &options(), Options { memory_bytes: 1 << 16, ..Options::default() });
    let error = error.err().expect("64 KiB are too few").to_string();
    assert!(error.contains("GPU memory"), "{error}");
    let error = try_load(folder, &LoadOptions { gpu_memory: Some(1), ..options() }, Options::default());
    assert!(error.err().expect("1 byte is too few").to_string().contains(" 1 are to be had"));
}
