//! The sampler: which tokens can come, how often, and that the same come everywhere.

use netweight_engine::decoder::Choice;
use netweight_engine::{Error, Sampler, Sampling};
use netweight_kernels_cuda::twin;
use proptest::prelude::*;

fn sampling(change: impl Fn(&mut Sampling)) -> Sampling {
    let mut sampling = Sampling { temperature: 1.0, ..Sampling::default() };
    change(&mut sampling);
    sampling
}

/// Probabilities by definition, in plain loops: temperature, top_k, top_p, min_p. Who is as likely as the last stays.
fn expected(sampling: &Sampling, logits: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
    if (1..order.len()).contains(&sampling.top_k) {
        let least = logits[order[sampling.top_k - 1]];
        order.retain(|idx| logits[*idx] >= least);
    }
    let scaled = |idx: usize| (f64::from(logits[idx]) / f64::from(sampling.temperature)).exp();
    let sum: f64 = order.iter().map(|idx| scaled(*idx)).sum();
    let mut before = 0.0;
    let mut least = f32::NEG_INFINITY;
    for idx in &order {
        if before < f64::from(sampling.top_p) * sum {
            least = logits[*idx];
        }
        before += scaled(*idx);
    }
    order.retain(|idx| logits[*idx] >= least);
    let largest = scaled(order[0]);
    order.retain(|idx| scaled(*idx) >= f64::from(sampling.min_p) * largest);
    let sum: f64 = order.iter().map(|idx| scaled(*idx)).sum();
    let mut probabilities = vec![0.0; logits.len()];
    order.iter().for_each(|idx| probabilities[*idx] = scaled(*idx) / sum);
    probabilities
}

/// 100 000 tokens: impossible ones never come, the others as often as they should (chi-square at 1e-6).
#[test]
fn frequencies_are_the_probabilities() {
    const N_TOKENS: usize = 100_000;
    let logits = [0.5, 2.0, -1.0, 0.0, 1.0, f32::NEG_INFINITY, 1.0, -3.0, 2.5, 0.25, -0.5, 1.75];
    let check = |change: fn(&mut Sampling)| {
        for seed in [0, 1, u64::MAX] {
            let sampling = Sampling { seed, ..sampling(change) };
            let mut sampler = Sampler::new(&sampling, logits.len()).unwrap();
            let mut counts = vec![0usize; logits.len()];
            (0..N_TOKENS).for_each(|_| counts[sampler.sample(&logits).unwrap() as usize] += 1);
            let (mut chi_square, mut freedom) = (0.0, -1.0);
            for (count, probability) in counts.iter().zip(expected(&sampling, &logits)) {
                if probability == 0.0 {
                    assert_eq!(*count, 0, "{sampling:?} {counts:?}");
                } else {
                    let mean = probability * N_TOKENS as f64;
                    chi_square += (*count as f64 - mean).powi(2) / mean;
                    freedom += 1.0;
                }
            }
            // Wilson and Hilferty's approximation of the quantile, 4.75 standard deviations out.
            let spread: f64 = 2.0 / (9.0 * f64::max(freedom, 1.0));
            let limit = f64::max(freedom, 1.0) * (1.0 - spread + 4.75 * spread.sqrt()).powi(3);
            assert!(chi_square < limit, "{sampling:?} {chi_square} {limit} {counts:?}");
        }
    };
    check(|_| ());
    check(|s| s.temperature = 0.3);
    check(|s| s.temperature = 4.0);
    check(|s| s.top_k = 1);
    check(|s| s.top_k = 5);
    check(|s| s.top_k = 100);
    check(|s| s.top_p = 0.5);
    check(|s| s.top_p = 0.9);
    check(|s| s.top_p = 1e-6);
    check(|s| s.min_p = 0.2);
    check(|s| s.min_p = 1.0);
    check(|s| (s.temperature, s.top_k, s.top_p, s.min_p) = (0.7, 8, 0.9, 0.05));
    check(|s| (s.temperature, s.top_p, s.min_p) = (2.0, 0.95, 0.3));
}

/// Tokens that every machine must choose, for every filter.
#[test]
fn choices_are_fixed() {
    let logits: Vec<f32> =
        (0..1000u32).map(|id| (id.wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 21) as f32).collect();
    let check = |change: fn(&mut Sampling), expected: [u32; 6]| {
        let sampling = Sampling { seed: 42, ..sampling(change) };
        let mut sampler = Sampler::new(&sampling, logits.len()).unwrap();
        let chosen: [u32; 6] = std::array::from_fn(|_| sampler.sample(&logits).unwrap());
        assert_eq!(chosen, expected, "{sampling:?}");
        sampler.begin(&[]);
        assert_eq!(sampler.sample(&logits).unwrap(), expected[0], "a new answer begins with the seed");
    };
    check(|s| s.temperature = 0.0, [987; 6]);
    check(|_| (), [84, 377, 685, 927, 990, 773]);
    check(|s| s.top_k = 40, [110, 398, 720, 953, 987, 775]);
    check(|s| s.top_p = 0.8, [84, 377, 686, 927, 990, 775]);
    check(|s| s.min_p = 0.1, [84, 377, 686, 927, 990, 773]);
    check(|s| (s.repetition_penalty, s.top_p, s.frequency_penalty) = (1.3, 0.9, 0.5), [84, 380, 686, 927, 990, 770]);
}

#[test]
fn penalties_weaken_what_occurred() {
    let check = |change: fn(&mut Sampling), prompt: &[u32], logits: &[f32], expected: &[u32]| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        let mut sampler = Sampler::new(&sampling, logits.len()).unwrap();
        for _ in 0..2 {
            sampler.begin(prompt);
            let chosen: Vec<u32> = expected.iter().map(|_| sampler.sample(logits).unwrap()).collect();
            assert_eq!(chosen, expected, "{sampling:?} {prompt:?} {logits:?}");
        }
    };
    check(|_| (), &[0], &[2.0, 1.9], &[0, 0]);
    check(|s| s.repetition_penalty = 1.5, &[0], &[2.0, 1.5], &[1, 0]);
    check(|s| s.repetition_penalty = 1.5, &[0], &[-1.0, -1.2], &[1, 0]);
    check(|s| s.repetition_penalty = 0.5, &[1], &[2.0, 1.5], &[1, 1]);
    check(|s| s.presence_penalty = 0.6, &[0, 0], &[2.0, 1.5, 1.0], &[0, 1, 0, 0]);
    check(|s| s.frequency_penalty = 0.4, &[0, 0], &[2.0, 1.5, 1.0], &[0, 0, 1, 0, 1]);
    check(|s| s.repetition_penalty = 1e-38, &[0, 1], &[2.0, 1.5], &[0, 0]);
    check(|s| s.repetition_penalty = 1.5, &[7, u32::MAX], &[2.0, 1.5], &[0, 1]);
}

#[test]
fn ties() {
    let mut greedy = Sampler::new(&Sampling::default(), 5).unwrap();
    assert_eq!(greedy.sample(&[1.0, 3.0, 3.0, 0.0, 3.0]).unwrap(), 1);
    assert_eq!(greedy.sample(&[-0.0, 0.0, 0.0, -0.0, 0.0]).unwrap(), 0);
    for change in [|s: &mut Sampling| s.top_k = 1, |s: &mut Sampling| s.top_p = 1e-9, |s: &mut Sampling| s.min_p = 1.0]
    {
        let mut sampler = Sampler::new(&sampling(change), 5).unwrap();
        let mut ids: Vec<u32> = (0..100).map(|_| sampler.sample(&[-0.0, 0.0, -1.0, -0.0, -2.0]).unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids, [0, 1, 3], "who is as likely stays");
    }
}

/// Who chooses as a sampler says, token by token, comes to the same tokens.
#[test]
fn what_a_decoder_is_told() {
    let logits: Vec<f32> = (0..500u32).map(|id| (id * 7919 % 491) as f32 / 40.0).collect();
    let check = |change: fn(&mut Sampling)| {
        let sampling = Sampling { seed: 3, ..sampling(change) };
        let (mut asked, mut sampler) = (Sampler::new(&sampling, 500).unwrap(), Sampler::new(&sampling, 500).unwrap());
        for step in 0..40 {
            let expected = sampler.sample(&logits).unwrap();
            let chosen = match asked.choice().expect("no penalties") {
                Choice::Likeliest => twin::likeliest(&logits),
                Choice::Drawn(how) => twin::draw(&logits, &how),
            };
            assert_eq!(chosen, Some(expected), "{sampling:?}");
            match step % 3 {
                0 => assert_eq!(asked.sample(&logits).unwrap(), expected),
                _ => asked.skip(),
            }
        }
    };
    check(|s| s.temperature = 0.0);
    check(|_| ());
    check(|s| (s.temperature, s.top_k) = (0.6, 20));
    check(|s| (s.temperature, s.top_p, s.min_p) = (1.7, 0.9, 0.01));
    let with_penalty = Sampler::new(&sampling(|s| s.presence_penalty = 0.1), 500).unwrap();
    assert_eq!(with_penalty.choice(), None);
}

#[test]
fn unusable_logits_are_refused() {
    let check = |logits: &[f32], is_usable: bool| {
        for sampling in [Sampling::default(), sampling(|_| ()), sampling(|s| s.top_k = 2)] {
            let result = Sampler::new(&sampling, 3).unwrap().sample(logits);
            assert_eq!(result.is_ok(), is_usable, "{logits:?}");
            assert!(matches!(result, Ok(_) | Err(Error::Logits(_) | Error::InvalidArgument(_))));
        }
    };
    let infinite = f32::INFINITY;
    check(&[0.0, 1.0, f32::NAN], false);
    check(&[0.0, infinite, 1.0], false);
    check(&[-infinite; 3], false);
    check(&[-infinite, 0.0, -infinite], true);
    check(&[f32::MIN, f32::MAX, 0.0], true);
    check(&[0.0, 1.0], false);
    check(&[], false);
    assert!(Sampler::new(&Sampling::default(), 0).is_err());
    assert!(Sampler::new(&Sampling::default(), 1 << 24).is_err());
    assert!(Sampler::new(&sampling(|s| s.top_p = 2.0), 3).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Only what the definition leaves can be chosen, whatever the settings.
    #[test]
    fn only_possible_tokens_are_chosen(
        logits in prop::collection::vec(-20.0f32..20.0, 1..200),
        temperature in prop_oneof![Just(1e-30f32), 0.1f32..3.0],
        top_k in 0usize..210,
        top_p in prop_oneof![Just(1.0f32), 0.01f32..1.0],
        min_p in prop_oneof![Just(0.0f32), 0.0f32..1.0],
        seed in any::<u64>(),
    ) {
        let sampling = Sampling { temperature, top_k, top_p, min_p, seed, ..Sampling::default() };
        let mut sampler = Sampler::new(&sampling, logits.len()).unwrap();
        if temperature < 0.1 {
            let largest = logits.iter().fold(f32::MIN, |a, b| a.max(*b));
            let id = sampler.sample(&logits).unwrap();
            prop_assert_eq!(logits[id as usize], largest, "as cold as greedy");
        } else {
            let probabilities = expected(&sampling, &logits);
            for _ in 0..20 {
                let id = sampler.sample(&logits).unwrap() as usize;
                // The definition here rounds otherwise, so a token at the border may be in or out.
                let smallest = probabilities.iter().copied().filter(|p| *p > 0.0).fold(1.0, f64::min);
                let weight = (f64::from(logits[id]) / f64::from(temperature)).exp();
                let is_border = logits.iter().enumerate().any(|(other, logit)| {
                    let other_weight = (f64::from(*logit) / f64::from(temperature)).exp();
                    probabilities[other] == smallest && (weight / other_weight - 1.0).abs() < 1e-3
                });
                prop_assert!(probabilities[id] > 0.0 || is_border, "{} {:?}", id, probabilities);
            }
        }
    }
}
