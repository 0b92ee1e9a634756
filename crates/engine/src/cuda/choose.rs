//! Which layout each matrix gets. Goes in: what a model multiplies with, how long each layout took, and how much room there
//! is. Comes out: a [`Choice`]. Next in the flow: measured.rs, which takes the times.

use std::collections::HashMap;

use netweight_kernels_cuda::Layout;
use netweight_kernels_cuda::layout::Shape;
use netweight_model::{Gated, MlpWeights, Part, Spec, Tensor};

use super::source::shape_of;

/// Tokens of a batch from which on the vendor's GEMM may take over. With fewer, one kernel computes every batch, so that
/// its bits do not depend on how many tokens run together.
pub const LEAST_GEMM_FROM: usize = 65;
/// Numbers of tokens for which layouts are compared: one, and the most that each of the kernels takes.
pub const BUCKETS: [usize; 5] = [1, 8, 16, 32, 64];
/// Times that differ by less are equal: medians of a few rounds are not more exact.
const NOISE: f64 = 1.02;

/// Matrices that one launch multiplies with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Names of their tensors.
    pub names: Vec<String>,
    /// All their rows, and the columns of each.
    pub shape: Shape,
    /// Whether each token multiplies with them: not with a table of embeddings that has a head beside it.
    pub is_multiplied: bool,
}

/// Seconds of one shape in each layout that was measured, for each of [`BUCKETS`].
pub type Seconds = Vec<(Layout, [f64; BUCKETS.len()])>;

/// What was chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Choice {
    /// By names of tensors.
    pub layouts: HashMap<String, Layout>,
    /// Names whose layout is slower than the uncompressed one, because memory is short.
    pub n_slower: usize,
}

/// All matrices of a model, in the order of the forward pass.
pub fn groups(spec: &Spec) -> Vec<Group> {
    let mut groups = Vec::new();
    let weights = spec.weights();
    groups.push(group(std::slice::from_ref(&weights.embed), weights.head.is_none()));
    for layer in &weights.layers {
        groups.push(group(&layer.qkv, true));
        groups.push(group(std::slice::from_ref(&layer.o), true));
        match &layer.mlp {
            MlpWeights::Dense(gated) => groups.extend(of_gated(gated)),
            MlpWeights::Experts { router, experts } => {
                groups.push(group(std::slice::from_ref(router), true));
                groups.extend(experts.iter().flat_map(of_gated));
            }
        }
    }
    groups.extend(weights.head.iter().map(|head| group(std::slice::from_ref(head), true)));
    groups
}

fn of_gated(gated: &Gated<Tensor>) -> [Group; 2] {
    [group(&gated.gate_up, true), group(std::slice::from_ref(&gated.down), true)]
}

fn group(parts: &[Part<Tensor>], is_multiplied: bool) -> Group {
    Group {
        names: parts.iter().map(|part| part.linear.name().to_owned()).collect(),
        shape: Shape {
            rows: parts.iter().map(|part| part.linear.rows).sum(),
            cols: parts.first().map_or(0, |part| shape_of(&part.linear).cols),
        },
        is_multiplied,
    }
}

/// The distinct shapes that tokens multiply with, and how many matrices' worth of each there are, the largest share of a
/// model first.
pub fn shapes(groups: &[Group]) -> Vec<(Shape, usize)> {
    let mut shapes: Vec<(Shape, usize)> = Vec::new();
    for group in groups.iter().filter(|group| group.is_multiplied) {
        match shapes.iter_mut().find(|(shape, _)| *shape == group.shape) {
            Some((_, n)) => *n += 1,
            None => shapes.push((group.shape, 1)),
        }
    }
    shapes.sort_by_key(|(shape, n)| std::cmp::Reverse(shape.rows * shape.cols * n));
    shapes
}

/// Chooses for each shape the layout that is fastest in steps of up to `step_tokens` tokens, of equals the smallest, among
/// those that are slower than the uncompressed one with none of [`BUCKETS`], which short prompts may have too. A shape without times stays uncompressed.
/// Where the matrices then do not fit into `room` bytes, they shrink, first those that lose the least time for each byte.
/// Where even that is not enough, all are as small as can be, and some will stream in.
pub fn choose(
    groups: &[Group],
    seconds_of: impl Fn(Shape) -> Option<Seconds>,
    step_tokens: usize,
    room: u64,
) -> Choice {
    let n_buckets = BUCKETS.iter().filter(|&&n_tokens| n_tokens < step_tokens).count() + 1;
    let mut kinds = kinds(groups, seconds_of, n_buckets.min(BUCKETS.len()));
    while kinds.iter().map(|kind| kind.bytes(kind.chosen)).sum::<u64>() > room {
        let steps = kinds.iter().enumerate().filter_map(|(idx, kind)| kind.next_smaller().map(|step| (idx, step)));
        let Some((idx, (layout, _))) = steps.min_by(|a, b| a.1.1.total_cmp(&b.1.1)) else { break };
        kinds[idx].chosen = layout;
    }
    take_back(&mut kinds, room);
    let mut choice = Choice::default();
    for group in groups {
        let Some(kind) = kinds.iter().find(|kind| kind.is_of(group)) else { continue };
        choice.n_slower += if kind.is_slower(kind.chosen) { group.names.len() } else { 0 };
        choice.layouts.extend(group.names.iter().map(|name| (name.clone(), kind.chosen)));
    }
    choice
}

/// Gives kinds their best layout again where later steps left room for it, first those that gain the most time.
fn take_back(kinds: &mut [Kind], room: u64) {
    let mut order: Vec<usize> = (0..kinds.len()).filter(|&idx| kinds[idx].chosen != kinds[idx].best).collect();
    let gain = |kind: &Kind| kind.seconds(kind.chosen) - kind.seconds(kind.best);
    order.sort_by(|&a, &b| gain(&kinds[b]).total_cmp(&gain(&kinds[a])));
    for idx in order {
        let taken: u64 = kinds.iter().map(|kind| kind.bytes(kind.chosen)).sum();
        let kind = &mut kinds[idx];
        if taken - kind.bytes(kind.chosen) + kind.bytes(kind.best) <= room {
            kind.chosen = kind.best;
        }
    }
}

/// All groups of a shape.
struct Kind {
    shape: Shape,
    is_multiplied: bool,
    n_groups: usize,
    measured: Seconds,
    n_buckets: usize, // that steps have
    best: Layout,     // where memory is not short
    chosen: Layout,
}

fn kinds(groups: &[Group], seconds_of: impl Fn(Shape) -> Option<Seconds>, n_buckets: usize) -> Vec<Kind> {
    let mut kinds: Vec<Kind> = Vec::new();
    for group in groups {
        if let Some(kind) = kinds.iter_mut().find(|kind| kind.is_of(group)) {
            kind.n_groups += 1;
            continue;
        }
        let measured = if group.is_multiplied { seconds_of(group.shape) } else { None };
        let measured = measured.unwrap_or_default();
        let (shape, is_multiplied) = (group.shape, group.is_multiplied);
        let mut kind =
            Kind { shape, is_multiplied, n_groups: 1, measured, n_buckets, best: Layout::Rows, chosen: Layout::Rows };
        let by_time_and_bytes = |a: &Layout, b: &Layout| {
            kind.seconds(*a).total_cmp(&kind.seconds(*b)).then(kind.bytes(*a).cmp(&kind.bytes(*b)))
        };
        let never_slower = Layout::ALL.into_iter().filter(|layout| !kind.is_slower(*layout));
        kind.best = never_slower.min_by(by_time_and_bytes).unwrap_or(Layout::Rows);
        kind.chosen = kind.best;
        kinds.push(kind);
    }
    kinds
}

impl Kind {
    fn is_of(&self, group: &Group) -> bool {
        (self.shape, self.is_multiplied) == (group.shape, group.is_multiplied)
    }

    fn bytes(&self, layout: Layout) -> u64 {
        (layout.likely_bytes(self.shape) * self.n_groups) as u64
    }

    /// Seconds of a step of each size that there is, together. Who is not multiplied with takes none; who was not measured has
    /// only the uncompressed layout to trust in.
    fn seconds(&self, layout: Layout) -> f64 {
        match self.buckets(layout) {
            _ if !self.is_multiplied => 0.0,
            Some(buckets) => buckets[..self.n_buckets].iter().sum::<f64>() * self.n_groups as f64,
            None if layout == Layout::Rows => 0.0,
            None => f64::INFINITY,
        }
    }

    /// Whether some number of tokens takes longer than with the uncompressed layout.
    fn is_slower(&self, layout: Layout) -> bool {
        match (self.buckets(layout), self.buckets(Layout::Rows)) {
            (Some(own), Some(rows)) => own.iter().zip(rows).any(|(own, rows)| *own > NOISE * rows),
            _ => self.is_multiplied && layout != Layout::Rows,
        }
    }

    /// Seconds of each of [`BUCKETS`].
    fn buckets(&self, layout: Layout) -> Option<&[f64; BUCKETS.len()]> {
        self.measured.iter().find(|(of, _)| *of == layout).map(|(_, seconds)| seconds)
    }

    /// The layout with fewer bytes than the chosen one that costs the least time for each byte, and what it costs.
    fn next_smaller(&self) -> Option<(Layout, f64)> {
        let (bytes, seconds) = (self.bytes(self.chosen), self.seconds(self.chosen));
        let smaller = Layout::ALL.into_iter().filter(|&layout| self.bytes(layout) < bytes);
        let price = |layout: Layout| match self.seconds(layout) {
            more if more <= seconds => 0.0,
            more => (more - seconds) / (bytes - self.bytes(layout)) as f64,
        };
        smaller.map(|layout| (layout, price(layout))).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Shape = Shape { rows: 4096, cols: 4096 };
    const SMALL: Shape = Shape { rows: 1024, cols: 1024 };

    /// Two large matrices, one small, and a large table that nobody multiplies with.
    fn model() -> Vec<Group> {
        let group = |name: &str, shape, is_multiplied| Group { names: vec![name.to_owned()], shape, is_multiplied };
        vec![
            group("table", LARGE, false),
            group("one", LARGE, true),
            group("two", LARGE, true),
            group("small", SMALL, true),
        ]
    }

    /// Seconds of bf16 and of exact12, of the large shape and of the small one.
    fn check(large: Option<[f64; 2]>, small: Option<[f64; 2]>, room: u64, expected: [Layout; 4], n_slower: usize) {
        let seconds_of = |shape: Shape| {
            let [rows, exact] = if shape == LARGE { large? } else { small? };
            Some(vec![(Layout::Rows, [rows; 5]), (Layout::Exact12, [exact; 5])])
        };
        let choice = choose(&model(), seconds_of, 1, room);
        let found = ["table", "one", "two", "small"].map(|name| choice.layouts[name]);
        assert_eq!((found, choice.n_slower), (expected, n_slower), "{large:?} {small:?} {room}");
    }

    #[test]
    fn the_fastest_that_fits() {
        const EVER: u64 = u64::MAX;
        let (raw, exact) = (Layout::Rows, Layout::Exact12);
        // A table takes no time: it is as small as can be. There may be layouts that are smaller still.
        let table = Layout::ALL.into_iter().min_by_key(|layout| layout.likely_bytes(LARGE)).unwrap();
        check(Some([2.0, 1.0]), Some([2.0, 1.0]), EVER, [table, exact, exact, exact], 0);
        check(Some([2.0, 1.0]), Some([1.0, 2.0]), EVER, [table, exact, exact, raw], 0);
        check(Some([1.0, 2.0]), Some([1.0, 2.0]), EVER, [table, raw, raw, raw], 0);
        // Not measured: no risk.
        check(Some([2.0, 1.0]), None, EVER, [table, exact, exact, raw], 0);
        check(None, None, EVER, [table, raw, raw, raw], 0);
    }

    #[test]
    fn memory_forces() {
        let (raw, exact) = (Layout::Rows, Layout::Exact12);
        let table = Layout::ALL.into_iter().min_by_key(|layout| layout.likely_bytes(LARGE)).unwrap();
        let bytes = |layout: Layout, shape: Shape| layout.likely_bytes(shape) as u64;
        let all_raw = bytes(table, LARGE) + 2 * bytes(raw, LARGE) + bytes(raw, SMALL);
        check(Some([1.0, 1.5]), Some([1.0, 1.1]), all_raw, [table, raw, raw, raw], 0);
        // One byte less: the small one gives enough, but the large ones lose less for each byte.
        check(Some([1.0, 1.5]), Some([1.0, 1.1]), all_raw - 1, [table, exact, exact, raw], 2);
        check(Some([1.0, 9.5]), Some([1.0, 1.1]), all_raw - 1, [table, raw, raw, exact], 1);
        check(Some([1.0, 9.5]), None, all_raw - 1, [table, exact, exact, raw], 2);
    }

    /// A layout that is slower with some number of tokens is chosen for want of memory only; of others the one that is
    /// fastest in the steps that there are.
    #[test]
    fn never_slower_with_any_number_of_tokens() {
        const ROWS: [f64; 5] = [1.0, 1.0, 1.0, 2.0, 2.0];
        let check = |exact: [f64; 5], room: u64, expected: (Layout, usize)| {
            for step_tokens in [1, 2, 8, 9, 33, 99] {
                let seconds = |_| Some(vec![(Layout::Rows, ROWS), (Layout::Exact12, exact)]);
                let choice = choose(&model(), seconds, step_tokens, room);
                assert_eq!((choice.layouts["small"], choice.n_slower), expected, "{exact:?} {step_tokens}");
            }
        };
        let smallest = Layout::ALL.into_iter().min_by_key(|of| of.likely_bytes(SMALL)).unwrap();
        check([0.7, 0.9, 1.5, 1.5, 1.5], u64::MAX, (Layout::Rows, 0));
        check([0.7, 0.9, 1.01, 2.0, 1.5], u64::MAX, (Layout::Exact12, 0)); // noise
        check([0.7, 0.9, 1.0, 2.0, 2.1], u64::MAX, (Layout::Rows, 0));
        check([0.7, 0.9, 1.0, 2.0, 2.1], 0, (smallest, 3));
        let seconds = |_| {
            let (exact12, exact11) = ([0.6, 0.9, 0.9, 1.9, 1.9], [0.7, 0.7, 0.7, 1.0, 1.0]);
            Some(vec![(Layout::Rows, ROWS), (Layout::Exact12, exact12), (Layout::Exact11, exact11)])
        };
        for (step_tokens, expected) in [(1, Layout::Exact12), (8, Layout::Exact11), (64, Layout::Exact11)] {
            assert_eq!(choose(&model(), seconds, step_tokens, u64::MAX).layouts["small"], expected, "{step_tokens}");
        }
    }

    /// A step that a later one makes needless is taken back.
    #[test]
    fn what_shrank_for_nothing_does_not_stay() {
        // The small one loses the least time for each byte, and is not enough; the large ones then are, by themselves.
        let seconds = |shape: Shape| {
            let exact = if shape == LARGE { 3.0 } else { 1.01 };
            Some(vec![(Layout::Rows, [1.0; 5]), (Layout::Exact12, [exact; 5])])
        };
        let bytes = |layout: Layout, shape: Shape| layout.likely_bytes(shape) as u64;
        let table = Layout::ALL.into_iter().map(|layout| bytes(layout, LARGE)).min().unwrap();
        let room = table + 2 * bytes(Layout::Exact12, LARGE) + bytes(Layout::Rows, SMALL);
        let choice = choose(&model(), seconds, 1, room);
        assert_eq!(
            (choice.layouts["one"], choice.layouts["small"], choice.n_slower),
            (Layout::Exact12, Layout::Rows, 2)
        );
    }

    /// Without room at all, everything is as small as can be.
    #[test]
    fn what_streams_is_small() {
        let seconds = |_| Some(vec![(Layout::Rows, [1.0; 5]), (Layout::Exact12, [2.0; 5])]);
        let choice = choose(&model(), seconds, 1, 0);
        let smallest = |shape| Layout::ALL.into_iter().map(|layout| layout.likely_bytes(shape)).min().unwrap();
        for group in model() {
            let layout = choice.layouts[&group.names[0]];
            assert_eq!(layout.likely_bytes(group.shape), smallest(group.shape));
        }
        assert_eq!(choice.n_slower, 3);
    }

    #[test]
    fn groups_are_what_one_launch_takes() {
        let config = r#"{"architectures": ["LlamaForCausalLM"], "vocab_size": 10, "hidden_size": 8,
            "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_theta": 10000.0, "tie_word_embeddings": TIED}"#;
        let check = |tied: &str, n_groups: usize, expected: &[(usize, usize, usize)]| {
            let groups = groups(&Spec::from_config(&config.replace("TIED", tied)).unwrap());
            let found: Vec<_> = shapes(&groups).iter().map(|(shape, n)| (shape.rows, shape.cols, *n)).collect();
            assert_eq!((groups.len(), found.as_slice()), (n_groups, expected));
        };
        check("true", 1 + 2 * 4, &[(16, 8, 2), (12, 8, 2), (8, 8, 2), (8, 6, 2), (10, 8, 1)]);
        check("false", 2 + 2 * 4, &[(16, 8, 2), (12, 8, 2), (8, 8, 2), (8, 6, 2), (10, 8, 1)]);
    }
}
