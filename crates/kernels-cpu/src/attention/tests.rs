//! Attention against its definition, written plainly, bit for bit: for every row of the table, however the tokens are
//! cut into calls and threads share them. And the definition against softmax in f64.

use super::*;
use crate::kv_cache::KvShape;
use crate::lanes::{Lanes, Scalar, math};

/// Numbers around 0 from a counter.
fn noise(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 / (1 << 24) as f32 - 0.5) * scale
    };
    (0..n).map(|_| next()).collect()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    shape: AttentionShape,
    attend: Attend,
    kv_type: KvType,
    n_positions: usize,
}

/// Queries, keys and values of one sequence.
struct Data {
    q: Vec<f32>, // (n_positions, n_heads * head_dim)
    k: Vec<f32>, // (n_positions, n_kv_heads * head_dim)
    v: Vec<f32>, // (n_positions, n_kv_heads * head_dim)
}

/// The result of one query: `(case, query, keys, values, position)`, keys and values one row for each position.
type One = fn(&Case, &[f32], &[Vec<f32>], &[Vec<f32>], usize) -> Vec<f32>;

impl Case {
    fn data(&self) -> Data {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let n = self.n_positions * head_dim;
        Data { q: noise(n * n_heads, 1, 6.0), k: noise(n * n_kv_heads, 2, 4.0), v: noise(n * n_kv_heads, 3, 2.0) }
    }

    fn rounded(&self, x: f32) -> f32 {
        match self.kv_type {
            KvType::F32 => x,
            KvType::F16 => half::f16::from_f32(x).to_f32(),
            KvType::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    /// Keys or values of a head, one row for each position.
    fn head(&self, x: &[f32], kv_head: usize) -> Vec<Vec<f32>> {
        let rows = x.chunks(self.shape.n_kv_heads * self.shape.head_dim);
        let row = |row: &[f32]| row.chunks(self.shape.head_dim).nth(kv_head).unwrap().to_vec();
        rows.map(|x| row(x).into_iter().map(|x| self.rounded(x)).collect()).collect()
    }

    /// Positions that the one at `position` sees.
    fn seen(&self, position: usize) -> Range<usize> {
        (position + 1).saturating_sub(self.attend.window.unwrap_or(usize::MAX))..position + 1
    }

    /// The result for all positions.
    fn expected(&self, data: &Data, one: One) -> Vec<f32> {
        let AttentionShape { n_heads, n_kv_heads, head_dim } = self.shape;
        let mut out = vec![0.0; data.q.len()];
        for kv_head in 0..n_kv_heads {
            let (keys, values) = (self.head(&data.k, kv_head), self.head(&data.v, kv_head));
            for (position, (q, out)) in
                data.q.chunks(n_heads * head_dim).zip(out.chunks_mut(n_heads * head_dim)).enumerate()
            {
                let heads = q.chunks(head_dim).zip(out.chunks_mut(head_dim));
                for (query, out) in heads.skip(kv_head * (n_heads / n_kv_heads)).take(n_heads / n_kv_heads) {
                    out.copy_from_slice(&one(self, query, &keys, &values, position));
                }
            }
        }
        out
    }
}

/// The definition at the head of attention.rs, for one query.
fn definition(case: &Case, query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], position: usize) -> Vec<f32> {
    let seen = case.seen(position);
    let exp = |x: f32| math::softmax_exp(Scalar, Scalar.splat(x))[0];
    let mut total: Option<(f32, f32, Vec<f32>)> = None;
    for span in seen.start / SPAN..seen.end.div_ceil(SPAN) {
        let seen = seen.start.max(span * SPAN)..seen.end.min((span + 1) * SPAN);
        let scores: Vec<f32> = seen.clone().map(|key| score(case, query, &keys[key])).collect();
        let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let (mut lanes, mut mean) = ([0.0f32; N_LANES], vec![0.0f32; query.len()]);
        for (key, score) in seen.zip(&scores) {
            let weight = exp(score - greatest);
            lanes[key % N_LANES] += weight;
            mean.iter_mut().zip(&values[key]).for_each(|(mean, &value)| *mean = weight.mul_add(value, *mean));
        }
        let sum = math::sum(Scalar, lanes);
        total = Some(match total {
            None => (greatest, sum, mean),
            Some((old, old_sum, old_mean)) => {
                let both = old.max(greatest);
                let (factor, next) = (exp(old - both), exp(greatest - both));
                let merged = |old: f32, new: f32| old.mul_add(factor, new * next);
                (both, merged(old_sum, sum), old_mean.iter().zip(&mean).map(|(&old, &new)| merged(old, new)).collect())
            }
        });
    }
    let (_, sum, mean) = total.unwrap();
    mean.iter().map(|mean| mean * (1.0 / sum)).collect()
}

fn score(case: &Case, query: &[f32], key: &[f32]) -> f32 {
    let mut sums = [0.0f32; 2];
    for (dim, (q, &k)) in query.iter().zip(key).enumerate() {
        sums[dim % 2] = q.mul_add(k, sums[dim % 2]);
    }
    let score = case.attend.scale * (sums[0] + sums[1]);
    case.attend.softcap.map_or(score, |cap| cap * math::tanh(Scalar, Scalar.splat(score / cap))[0])
}

/// Softmax in f64.
fn exact(case: &Case, query: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], position: usize) -> Vec<f32> {
    let wide = |x: &f32| f64::from(*x);
    let score = |key: usize| {
        let product: f64 = query.iter().zip(&keys[key]).map(|(q, k)| wide(q) * wide(k)).sum();
        let score = product * f64::from(case.attend.scale);
        case.attend.softcap.map_or(score, |cap| wide(&cap) * (score / wide(&cap)).tanh())
    };
    let scores: Vec<(usize, f64)> = case.seen(position).map(|key| (key, score(key))).collect();
    let greatest = scores.iter().map(|score| score.1).fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<(usize, f64)> = scores.iter().map(|&(key, score)| (key, (score - greatest).exp())).collect();
    let sum: f64 = weights.iter().map(|weight| weight.1).sum();
    let mean = |dim: usize| weights.iter().map(|&(key, weight)| weight * wide(&values[key][dim])).sum::<f64>() / sum;
    (0..query.len()).map(|dim| mean(dim) as f32).collect()
}

/// All positions in calls of `chunk_len` tokens, in two sequences at once: the second half of each call is the first
/// half again, for slot 2. The rows have three columns more than needed.
fn run(case: &Case, data: &Data, isa: Isa, pool: &Pool, chunk_len: usize) -> Vec<f32> {
    let AttentionShape { n_heads, n_kv_heads, head_dim } = case.shape;
    let (n_layers, n_slots, max_positions) = (2, 3, case.n_positions);
    let shape = KvShape { n_layers, n_kv_heads, head_dim, n_slots, max_positions, kv_type: case.kv_type };
    let mut cache = KvCache::new(shape).unwrap();
    let mut attention = Attention::new(case.shape, 2 * chunk_len, max_positions, pool.n_threads()).unwrap();
    let (width, kv_width) = (n_heads * head_dim, n_kv_heads * head_dim);
    let mut all = Vec::new();
    for first in (0..case.n_positions).step_by(chunk_len) {
        let positions = first..(first + chunk_len).min(case.n_positions);
        let both = |x: &[f32], width: usize| -> Vec<f32> {
            let rows = [positions.clone(), positions.clone()].into_iter().flatten();
            rows.flat_map(|position| x[position * width..][..width].iter().copied().chain([f32::NAN; 3])).collect()
        };
        let places: Vec<Place> = [0, 2]
            .into_iter()
            .flat_map(|slot| positions.clone().map(move |position| Place { slot, position }))
            .collect();
        let (q, k, v) = (both(&data.q, width), both(&data.k, kv_width), both(&data.v, kv_width));
        let rows = |data, width: usize| Rows { data, stride: width + 3 };
        cache.append(1, &places, rows(&k, kv_width), rows(&v, kv_width));
        let mut out = vec![7.0; places.len() * (width + 3)];
        let out_rows = RowsMut { data: &mut out, stride: width + 3 };
        attention.run(isa, pool, &cache, 1, &case.attend, &places, rows(&q, width), out_rows);
        let (here, again) = out.split_at(positions.len() * (width + 3));
        assert!(here == again, "a sequence depends on its slot");
        assert!(out.chunks(width + 3).all(|row| row[width..] == [7.0; 3]), "columns beyond the heads");
        all.extend(here.chunks(width + 3).flat_map(|row| &row[..width]));
    }
    all
}

#[track_caller]
fn check(case: Case) {
    let data = case.data();
    let expected = case.expected(&data, definition);
    let pools = [Pool::new(1), Pool::new(3)];
    for isa in Isa::available() {
        let chunk_lens = if isa == Isa::scalar() { vec![case.n_positions] } else { vec![1, 7, 64, case.n_positions] };
        for chunk_len in chunk_lens {
            for pool in &pools {
                let got = run(&case, &data, isa, pool, chunk_len);
                let width = case.shape.n_heads * case.shape.head_dim;
                for (position, (got, expected)) in got.chunks(width).zip(expected.chunks(width)).enumerate() {
                    let same = got.iter().zip(expected).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{isa:?} {chunk_len} {} {position}\n{case:?}", pool.n_threads());
                }
            }
        }
    }
}

fn case(head_dim: usize, (n_heads, n_kv_heads): (usize, usize), n_positions: usize) -> Case {
    Case {
        shape: AttentionShape { n_heads, n_kv_heads, head_dim },
        attend: Attend { scale: 1.0 / (head_dim as f32).sqrt(), window: None, softcap: None },
        kv_type: KvType::F32,
        n_positions,
    }
}

#[test]
fn every_length_of_head_has_the_bits_of_the_definition() {
    for (head_dim, heads) in [(32, (2, 2)), (64, (3, 1)), (80, (4, 2)), (96, (5, 1)), (128, (4, 1)), (256, (2, 1))] {
        check(case(head_dim, heads, 270));
    }
    for (head_dim, heads) in [(1, (2, 1)), (5, (7, 1)), (18, (2, 2)), (512, (1, 1))] {
        check(case(head_dim, heads, 70));
    }
}

#[test]
fn long_sequences_have_the_bits_of_the_definition() {
    check(case(64, (4, 2), 601));
    check(Case { kv_type: KvType::Bf16, ..case(32, (8, 1), 601) });
}

#[test]
fn every_type_has_the_bits_of_the_definition() {
    for kv_type in [KvType::F16, KvType::Bf16] {
        for heads in [(1, 1), (2, 1), (4, 2), (6, 1)] {
            check(Case { kv_type, ..case(48, heads, 140) });
        }
    }
}

#[test]
fn windows_and_softcaps_have_the_bits_of_the_definition() {
    for (window, softcap) in [(1, None), (2, Some(2.0)), (31, None), (100, Some(30.0)), (256, None), (300, None)] {
        let attend = Attend { scale: 0.3, window: Some(window), softcap };
        check(Case { attend, ..case(32, (4, 2), 560) });
    }
    check(Case { attend: Attend { scale: 0.2, window: None, softcap: Some(5.0) }, ..case(64, (2, 1), 300) });
}

#[test]
fn more_queries_share_a_head_than_are_computed_together() {
    check(case(16, (71, 1), 40));
}

#[test]
fn the_definition_is_softmax() {
    for (scale, softcap) in [(0.125, None), (2.0, None), (0.5, Some(4.0))] {
        let case = Case { attend: Attend { scale, window: Some(400), softcap }, ..case(64, (2, 1), 560) };
        let data = case.data();
        let (got, wanted) = (case.expected(&data, definition), case.expected(&data, exact));
        let worst = got.iter().zip(&wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("scale {scale}: differs from f64 by at most {worst:e}");
        assert!(worst < 2e-5 * scale.max(1.0), "{worst}");
    }
}

#[test]
fn what_a_slot_held_before_takes_no_part() {
    let case = case(32, (2, 1), 40);
    let data = case.data();
    let shape =
        KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 32, n_slots: 1, max_positions: 64, kv_type: KvType::F16 };
    let (pool, place) = (Pool::new(1), [Place { slot: 0, position: 0 }]);
    let mut attention = Attention::new(case.shape, 40, 64, 1).unwrap();
    let mut one = |cache: &KvCache| {
        let mut out = vec![0.0; 64];
        let rows = (Rows { data: &data.q, stride: 64 }, RowsMut { data: &mut out, stride: 64 });
        attention.run(Isa::best(), &pool, cache, 0, &case.attend, &place, rows.0, rows.1);
        out
    };
    let (mut fresh, mut used) = (KvCache::new(shape).unwrap(), KvCache::new(shape).unwrap());
    let places: Vec<Place> = (0..40).map(|position| Place { slot: 0, position }).collect();
    let infinite = vec![f32::INFINITY; 40 * 32];
    used.append(0, &places, Rows { data: &infinite, stride: 32 }, Rows { data: &infinite, stride: 32 });
    for cache in [&mut fresh, &mut used] {
        cache.append(0, &place, Rows { data: &data.k, stride: 32 }, Rows { data: &data.v, stride: 32 });
    }
    assert_eq!(one(&fresh), one(&used));
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    let shape = |n_heads, n_kv_heads, head_dim| AttentionShape { n_heads, n_kv_heads, head_dim };
    for wrong in [shape(3, 2, 64), shape(0, 1, 64), shape(1, 0, 64), shape(1, 1, 0), shape(1, 1, MAX_HEAD_DIM + 1)] {
        assert!(Attention::new(wrong, 1, 1, 1).is_err(), "{wrong:?}");
    }
    let shape = KvShape { n_layers: 1, n_kv_heads: 1, head_dim: 1, n_slots: 1, max_positions: 1, kv_type: KvType::F32 };
    for wrong in [
        KvShape { n_layers: 0, ..shape },
        KvShape { head_dim: MAX_HEAD_DIM + 1, ..shape },
        KvShape { max_positions: usize::MAX, ..shape },
        KvShape { n_slots: usize::MAX / 40, n_layers: 3, ..shape },
    ] {
        assert!(KvCache::new(wrong).is_err(), "{wrong:?}");
    }
}
