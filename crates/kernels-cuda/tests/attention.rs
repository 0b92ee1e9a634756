//! Attention against its twin, and its twin against softmax in f64.

mod common;

use netweight_kernels_cuda::launch::{self, Attend, AttendScratch, Places, SPAN_POSITIONS};
use netweight_kernels_cuda::twin::attention as twin;
use netweight_kernels_cuda::{Device, Error, KvType, PagedCache, PagedShape};
use rand::Rng;

#[derive(Clone, Copy, Debug)]
struct Case {
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    /// Positions of the sequence in each slot.
    lens: [usize; 2],
    window: Option<usize>,
    softcap: Option<f32>,
    kv_type: KvType,
    /// Whether some numbers of queries and keys are huge, infinite or not numbers.
    is_odd: bool,
}

const CASE: Case = Case {
    n_heads: 4,
    n_kv_heads: 2,
    head_dim: 64,
    lens: [70, 33],
    window: None,
    softcap: None,
    kv_type: KvType::F16,
    is_odd: false,
};

impl Case {
    fn attend(&self) -> Attend {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        Attend { layer: 1, n_heads: self.n_heads, scale, softcap: self.softcap, window: self.window }
    }

    fn shape(&self) -> PagedShape {
        PagedShape {
            n_layers: 2,
            n_kv_heads: self.n_kv_heads,
            head_dim: self.head_dim,
            n_slots: 3,
            max_positions: 1000,
            n_pages: 20,
            kv_type: self.kv_type,
        }
    }

    fn width(&self) -> usize {
        (self.n_heads + 2 * self.n_kv_heads) * self.head_dim + 1
    }

    /// Columns of a head, of each row.
    fn head(&self, rows: &[f32], head: usize) -> Vec<Vec<f32>> {
        rows.chunks(self.width()).map(|row| row[head * self.head_dim..][..self.head_dim].to_vec()).collect()
    }
}

/// Rows of both sequences, and what they attend to.
struct Sequences {
    rows: [Vec<f32>; 2],
    expected: [Vec<Vec<f32>>; 2], // (position), each (n_heads * head_dim)
}

fn sequences(case: &Case, positions: impl Fn(usize, usize) -> bool) -> Sequences {
    let mut random = common::random();
    let mut rows = case.lens.map(|len| common::normal(&mut random, len * case.width(), 2.0));
    if case.is_odd {
        for row in rows.iter_mut().flat_map(|rows| rows.chunks_mut(case.width())) {
            for x in &mut row[..(case.n_heads + case.n_kv_heads) * case.head_dim] {
                let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, -7e4, 6e4, 3e4];
                *x = odd.get(random.random_range(0..300)).copied().unwrap_or(*x);
            }
        }
    }
    let expected = std::array::from_fn(|slot| {
        let mut out = vec![vec![f32::NAN; case.n_heads * case.head_dim]; case.lens[slot]];
        for kv_head in 0..case.n_kv_heads {
            let keys = case.head(&rows[slot], case.n_heads + kv_head);
            let head_values = case.head(&rows[slot], case.n_heads + case.n_kv_heads + kv_head);
            let group = case.n_heads / case.n_kv_heads;
            for head in kv_head * group..(kv_head + 1) * group {
                let queries = case.head(&rows[slot], head);
                for (position, values) in queries.iter().enumerate().filter(|(idx, _)| positions(slot, *idx)) {
                    let query = twin::Query { values, position, keys: &keys, head_values: &head_values };
                    let mean = twin::attend(&query, &case.attend(), case.kv_type);
                    out[position][head * case.head_dim..][..case.head_dim].copy_from_slice(&mean);
                }
            }
        }
        out
    });
    Sequences { rows, expected }
}

struct OnDevice {
    device: Device,
    cache: PagedCache,
    scratch: AttendScratch,
}

impl OnDevice {
    fn new(device: Device, case: &Case) -> OnDevice {
        let mut cache = PagedCache::new(&device, case.shape()).expect("a cache");
        // What another sequence left behind, far from any number: no slot may see it.
        cache.reserve(2, 20 * 64).unwrap_err();
        cache.reserve(2, 1000).expect("pages");
        let poison = common::buffer(&device, case.width(), &vec![f32::INFINITY; 64 * case.width()]);
        for first in (0..1000).step_by(64) {
            let positions: Vec<u32> = (first..first + 64).collect();
            let (slots, positions) =
                (device.upload(&[2; 64]).expect("memory"), device.upload(&positions).expect("memory"));
            let places = Places { slots: &slots, positions: &positions };
            launch::append(&poison, 64, &case.attend(), places, &mut cache).expect("a launch");
        }
        cache.release(2).expect("a copy");
        let scratch = AttendScratch::new(&device, 9, case.n_heads, case.head_dim).expect("memory");
        OnDevice { device, cache, scratch }
    }

    /// Appends, then attends for the given (slot, position), which are a batch: in tiles, or as steps, with more spans
    /// than needed.
    fn run(&mut self, case: &Case, sequences: &Sequences, batch: &[(usize, usize)], is_tiled: bool) -> Vec<f32> {
        let row = |&(slot, position): &(usize, usize)| &sequences.rows[slot][position * case.width()..][..case.width()];
        let rows: Vec<f32> = batch.iter().flat_map(row).copied().collect();
        for (slot, position) in batch {
            self.cache.reserve(*slot, position + 1).expect("pages");
        }
        let qkv = common::buffer(&self.device, case.width(), &rows);
        let out_width = case.n_heads * case.head_dim + 2;
        let mut out = common::buffer(&self.device, out_width, &vec![f32::NAN; batch.len() * out_width]);
        let of = |f: fn(&(usize, usize)) -> usize| -> Vec<u32> { batch.iter().map(|place| f(place) as u32).collect() };
        let slots = self.device.upload(&of(|place| place.0)).expect("memory");
        let positions = self.device.upload(&of(|place| place.1)).expect("memory");
        let places = Places { slots: &slots, positions: &positions };
        launch::append(&qkv, batch.len(), &case.attend(), places, &mut self.cache).expect("a launch");
        let (attend, cache, n_rows) = (case.attend(), &self.cache, batch.len());
        match launch::tile_rows(&attend, case.shape()).filter(|_| is_tiled) {
            Some(tile_rows) => {
                let tiles = launch::cut_tiles(&of(|place| place.0), &of(|place| place.1), tile_rows);
                let on_device = self.device.upload(&tiles).expect("memory");
                launch::attend_tiles(&qkv, n_rows, &on_device, tiles.len(), &attend, places, cache, &mut out)
            }
            None => {
                let n_spans = batch.iter().map(|place| place.1 / SPAN_POSITIONS + 1).max().unwrap_or(1) + 2;
                launch::attend_steps(&qkv, 0..n_rows, &attend, places, cache, n_spans, &mut self.scratch, &mut out)
            }
        }
        .expect("a launch");
        let out = common::values(&out);
        out.chunks(out_width).flat_map(|row| row[..out_width - 2].to_vec()).collect()
    }
}

/// Prompts of both sequences at once but for their last two positions, in tiles, and some of them as steps again; then
/// the last two as steps of both together.
fn check(case: Case) {
    let chunk = 61;
    let is_checked = |slot: usize, position: usize| {
        position.is_multiple_of(7) || position + 3 > case.lens[slot] || position.is_multiple_of(64)
    };
    let sequences = sequences(&case, is_checked);
    for device in common::devices() {
        let mut on_device = OnDevice::new(device.clone(), &case);
        let compare = |batch: &[(usize, usize)], got: &[f32]| {
            for (&(slot, position), got) in batch.iter().zip(got.chunks(case.n_heads * case.head_dim)) {
                if is_checked(slot, position) {
                    let expected = &sequences.expected[slot][position];
                    // Where scores differ in their last bits, a weight may round to the next bf16.
                    let what = format!("slot {slot}, position {position} of {case:?}");
                    common::assert_close(&device, got, expected, 4e-3, &what);
                }
            }
        };
        let most = case.lens[0].max(case.lens[1]) - 2;
        for first in (0..most).step_by(chunk) {
            let of_slot =
                |slot: usize| (first..(first + chunk).min(case.lens[slot] - 2)).map(move |position| (slot, position));
            let batch: Vec<_> = of_slot(0).chain(of_slot(1)).collect();
            compare(&batch, &on_device.run(&case, &sequences, &batch, true));
            let some = &batch[batch.len() / 2..(batch.len() / 2 + 2).min(batch.len())];
            compare(some, &on_device.run(&case, &sequences, some, false));
        }
        for back in [2, 1] {
            let batch = [(1, case.lens[1] - back), (0, case.lens[0] - back)];
            compare(&batch, &on_device.run(&case, &sequences, &batch, false));
        }
    }
}

#[test]
fn heads_of_all_kinds() {
    for (n_heads, n_kv_heads, head_dim) in [(1, 1, 2), (3, 1, 18), (2, 2, 80), (5, 1, 96), (8, 1, 128)] {
        check(Case { n_heads, n_kv_heads, head_dim, lens: [67, 3], ..CASE });
    }
    for (n_heads, n_kv_heads, head_dim) in [(2, 1, 256), (1, 1, 512), (35, 1, 16), (65, 1, 16)] {
        check(Case { n_heads, n_kv_heads, head_dim, lens: [5, 3], ..CASE });
    }
}

#[test]
fn long_sequences() {
    check(Case { n_heads: 2, n_kv_heads: 1, head_dim: 32, lens: [530, 300], ..CASE });
    check(Case { n_heads: 2, n_kv_heads: 1, head_dim: 32, lens: [270, 4], kv_type: KvType::Bf16, ..CASE });
}

#[test]
fn windows_and_softcaps() {
    for (window, softcap) in [(Some(1), None), (Some(50), Some(2.0)), (None, Some(30.0)), (Some(200), None)] {
        check(Case { n_heads: 2, n_kv_heads: 1, head_dim: 16, lens: [330, 120], window, softcap, ..CASE });
    }
}

#[test]
fn numbers_as_computed() {
    let case = Case { n_heads: 2, n_kv_heads: 1, kv_type: KvType::F32, ..CASE };
    check(Case { head_dim: 18, lens: [9, 3], softcap: Some(3.0), ..case });
    check(Case { head_dim: 2, lens: [20, 3], window: Some(5), ..case });
}

#[test]
fn scores_that_are_not_finite() {
    let case = Case { n_heads: 2, n_kv_heads: 1, head_dim: 4, lens: [150, 40], is_odd: true, ..CASE };
    for window in [Some(3), Some(70), None] {
        check(Case { window, ..case });
        check(Case { window, softcap: Some(5.0), kv_type: KvType::Bf16, ..case });
    }
}

#[test]
fn tiles_are_of_one_slot_in_order() {
    let slots = [4, 4, 4, 4, 1, 1, 1, 4];
    let positions = [7, 8, 9, 10, 11, 0, 1, 2];
    let tiles = launch::cut_tiles(&slots, &positions, 3);
    assert_eq!(tiles, [[0, 3], [3, 1], [4, 1], [5, 2], [7, 1]]);
    assert!(launch::cut_tiles(&[], &[], 3).is_empty());
}

#[test]
fn the_twin_is_softmax() {
    let case = Case { n_heads: 2, n_kv_heads: 1, lens: [600, 3], window: Some(500), softcap: Some(20.0), ..CASE };
    let sequences = sequences(&case, |_, position| position % 50 == 49);
    let [queries, keys, values] = [0, 2, 3].map(|head| case.head(&sequences.rows[0], head));
    let rounded = |x: f32| f64::from(twin::rounded(case.kv_type, x));
    for position in (49..600).step_by(50) {
        let score = |key: usize| {
            let product: f64 = queries[position].iter().zip(&keys[key]).map(|(a, b)| rounded(*a) * rounded(*b)).sum();
            20.0 * (product / 8.0 / 20.0).tanh()
        };
        let weights: Vec<(usize, f64)> =
            (position.saturating_sub(499)..=position).map(|key| (key, score(key).exp())).collect();
        let sum: f64 = weights.iter().map(|weight| weight.1).sum();
        for (dim, got) in sequences.expected[0][position][..case.head_dim].iter().enumerate() {
            let wanted = weights.iter().map(|(key, weight)| weight * rounded(values[*key][dim])).sum::<f64>() / sum;
            let got = f64::from(*got);
            assert!((got - wanted).abs() < 1e-3, "{position} {dim}: {got}, not {wanted}");
        }
    }
}

#[test]
fn pages_are_handed_out_and_taken_back() {
    let device = common::devices().remove(0);
    let shape = PagedShape { n_pages: 5, max_positions: 256, ..CASE.shape() };
    let mut cache = PagedCache::new(&device, shape).expect("a cache");
    let mut random = common::random();
    for _ in 0..200 {
        let (slot, n_positions) = (random.random_range(0..3), random.random_range(0..300));
        let before: Vec<usize> = (0..3).map(|slot| cache.reserved(slot)).collect();
        let n_free = 5 - before.iter().map(|n| n / 64).sum::<usize>();
        assert_eq!(cache.fitting(slot), (before[slot] + n_free * 64).min(256));
        match cache.reserve(slot, n_positions) {
            Ok(()) => assert_eq!(cache.reserved(slot), before[slot].max(n_positions.next_multiple_of(64))),
            Err(Error::CacheFull { n_positions: asked, n_fitting }) => {
                assert_eq!((asked, n_fitting), (n_positions, cache.fitting(slot)));
                assert!(n_positions > n_fitting);
                assert_eq!((0..3).map(|slot| cache.reserved(slot)).collect::<Vec<_>>(), before);
            }
            Err(error) => panic!("{error}"),
        }
        if random.random_range(0..4) == 0 {
            cache.release(slot).expect("a copy");
            assert_eq!(cache.reserved(slot), 0);
        }
    }
    for wrong in
        [PagedShape { head_dim: 3, ..shape }, PagedShape { head_dim: 514, ..shape }, PagedShape { n_pages: 0, ..shape }]
    {
        assert!(matches!(PagedCache::new(&device, wrong), Err(Error::InvalidArgument(_))), "{wrong:?}");
    }
}
