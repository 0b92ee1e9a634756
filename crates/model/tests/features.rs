//! Every part of a declaration matters: with one thing changed, logits are no longer those of transformers. So the
//! comparisons in oracle.rs would notice a part that is read wrongly.

mod common;

use common::{Fixture, Session, places, worst_difference};
use netweight_model::{Activation, Attention, Mlp, Spec};

/// A hundred times the tolerance of oracle.rs.
const NOTICED: f64 = 1e-2;

/// A fixture, what is changed, and how.
type Row = (&'static str, &'static str, fn(&mut Spec));

const ROWS: &[Row] = &[
    ("llama2", "eps of norms", |spec| spec.norm_eps = 0.1),
    ("llama2", "own head", |spec| spec.is_tied = true),
    ("llama2", "activation", |spec| activation(spec, Activation::GeluErf)),
    ("llama2", "scale of scores", |spec| attention(spec, |attention| attention.scale *= 1.1)),
    ("llama3", "frequencies", |spec| spec.ropes[0].inv_freq = plain(1000.0, 16)),
    ("llama3", "one frequency", |spec| spec.ropes[0].inv_freq[3] = plain(1000.0, 16)[3]),
    ("llama_linear", "frequencies", |spec| spec.ropes[0].inv_freq = plain(100.0, 8)),
    ("llama_yarn", "frequencies", |spec| spec.ropes[0].inv_freq = plain(1000.0, 16)),
    ("llama_yarn", "attention factor from mscales", |spec| spec.ropes[0].attention_factor = 1.0),
    ("llama_yarn_factor", "attention factor", |spec| spec.ropes[0].attention_factor = 1.0),
    ("llama_biases", "biases of q, k, v", |spec| attention(spec, |attention| attention.qkv_bias = false)),
    ("llama_biases", "bias of o", |spec| attention(spec, |attention| attention.o_bias = false)),
    ("llama_biases", "biases of the feed-forward part", |spec| {
        mlp(spec, |mlp| {
            if let Mlp::Dense { bias, .. } = mlp {
                *bias = false;
            }
        });
    }),
    ("mistral_window", "window", |spec| attention(spec, |attention| attention.window = None)),
    ("mistral_window", "window, one less", |spec| attention(spec, |attention| attention.window = Some(8))),
    ("mistral_window", "window, one more", |spec| attention(spec, |attention| attention.window = Some(10))),
    ("qwen2", "no window", |spec| attention(spec, |attention| attention.window = Some(5))),
    ("qwen2", "biases of q, k, v", |spec| attention(spec, |attention| attention.qkv_bias = false)),
    ("qwen2_window", "first layer with a window", |spec| spec.layers[0].attention.window = Some(5)),
    ("qwen2_window", "second layer without", |spec| spec.layers[1].attention.window = None),
    ("qwen3", "norms of heads", |spec| attention(spec, |attention| attention.qk_norm = false)),
    ("qwen3", "biases of q, k, v", |spec| attention(spec, |attention| attention.qkv_bias = false)),
    ("qwen3", "bias of o", |spec| attention(spec, |attention| attention.o_bias = false)),
    ("qwen3_yarn", "frequencies", |spec| spec.ropes[0].inv_freq = plain(1000.0, 16)),
    ("qwen3_yarn", "attention factor", |spec| spec.ropes[0].attention_factor = 1.0),
    ("phi3", "window", |spec| attention(spec, |attention| attention.window = None)),
    ("phi3_partial", "rotated part", |spec| {
        spec.ropes[0].inv_freq = plain(100.0, 8);
        spec.ropes[0].rotary_dim = 8;
    }),
    ("phi3_longrope", "long factors", |spec| spec.ropes[0].long = None),
    ("phi3_longrope", "attention factor", |spec| spec.ropes[0].attention_factor = 1.0),
    ("gemma2", "softcap of scores", |spec| attention(spec, |attention| attention.softcap = None)),
    ("gemma2", "softcap of logits", |spec| spec.final_softcap = None),
    ("gemma2", "scale of embeddings", |spec| spec.embed_scale = None),
    ("gemma2", "1 + w", |spec| spec.norm_plus_one = false),
    ("gemma2", "norms after", |spec| spec.layers[1].post_norms = false),
    ("gemma2", "query_pre_attn_scalar", |spec| attention(spec, |attention| attention.scale = 0.25)),
    ("gemma2", "activation", |spec| activation(spec, Activation::Silu)),
    ("gemma2", "first layer's window", |spec| spec.layers[0].attention.window = None),
    ("gemma2", "second layer's none", |spec| spec.layers[1].attention.window = Some(6)),
    ("gemma3", "norms of heads", |spec| attention(spec, |attention| attention.qk_norm = false)),
    ("gemma3", "softcap of logits", |spec| spec.final_softcap = None),
    ("gemma3", "rotation of layers with a window", |spec| spec.layers[1].attention.rope_idx = 0),
    ("gemma3", "rotation of layers without", |spec| spec.layers[2].attention.rope_idx = 1),
    ("gemma3", "factor of layers without", |spec| spec.ropes[0].inv_freq = plain(5000.0, 16)),
    ("gemma3", "third layer's none", |spec| spec.layers[2].attention.window = Some(6)),
    ("gemma3_nested", "first layer's window", |spec| spec.layers[0].attention.window = None),
    ("mixtral", "divided weights", |spec| routed(spec, |routed| routed.norm_top_k = false)),
    ("mixtral", "two experts", |spec| routed(spec, |routed| routed.top_k = 1)),
    ("mixtral_window", "three experts", |spec| routed(spec, |routed| routed.top_k = 2)),
    ("mixtral_window", "window", |spec| attention(spec, |attention| attention.window = None)),
    ("qwen3_moe", "divided weights", |spec| routed(spec, |routed| routed.norm_top_k = false)),
    ("qwen3_moe_raw", "undivided weights", |spec| routed(spec, |routed| routed.norm_top_k = true)),
];

#[test]
fn each_part_shows_in_the_logits() {
    for (name, what, change) in ROWS {
        let fixture = Fixture::open(name);
        let mut spec = fixture.spec();
        change(&mut spec);
        assert!(spec != fixture.spec(), "{name}, {what}: nothing is changed");
        let (prompt, expected) = fixture.prompt();
        let found = Session::new(spec, &fixture.weights).run(&prompt, &places(0, prompt.len()));
        let worst = worst_difference(&found, expected);
        println!("{name:20} {what:40} {worst:.1e}");
        assert!(worst > NOTICED, "{name}, {what}: {worst:.1e}");
    }
}

/// The two gelus are so close that they are told apart by less.
#[test]
fn gelus_are_told_apart() {
    let fixture = Fixture::open("llama_biases");
    let mut spec = fixture.spec();
    activation(&mut spec, Activation::GeluTanh);
    let (prompt, expected) = fixture.prompt();
    let found = Session::new(spec, &fixture.weights).run(&prompt, &places(0, prompt.len()));
    let worst = worst_difference(&found, expected);
    assert!(worst > 3e-4, "{worst:.1e}");
}

fn attention(spec: &mut Spec, change: fn(&mut Attention)) {
    spec.layers.iter_mut().for_each(|layer| change(&mut layer.attention));
}

fn mlp(spec: &mut Spec, change: impl Fn(&mut Mlp)) {
    spec.layers.iter_mut().for_each(|layer| change(&mut layer.mlp));
}

fn routed(spec: &mut Spec, change: fn(&mut netweight_model::Routed)) {
    mlp(spec, |mlp| {
        if let Mlp::Experts(routed) = mlp {
            change(routed);
        }
    });
}

fn activation(spec: &mut Spec, other: Activation) {
    mlp(spec, |mlp| match mlp {
        Mlp::Dense { activation, .. } => *activation = other,
        Mlp::Experts(routed) => routed.activation = other,
    });
}

/// Frequencies without any stretching.
fn plain(theta: f64, dim: usize) -> Vec<f32> {
    (0..dim / 2).map(|pair_idx| theta.powf(-((2 * pair_idx) as f64) / dim as f64) as f32).collect()
}
