//! The launch before attention against the four that it stands for, by what attention then sees.

mod common;

use netweight_kernels_cuda::launch::{self, Attend, AttendScratch, Buffer, Heads, Norms, Places, Rotation};
use netweight_kernels_cuda::{Device, KvType, PagedCache, PagedShape};
use rand::Rng;

#[derive(Clone, Copy, Debug)]
struct Case {
    n_rows: usize,
    n_heads: usize,
    n_kv_heads: usize,
    head_dim: usize,
    rotary_dim: usize,
    has_norms: bool,
    kv_type: KvType,
}

/// Queries, and what they attend to.
fn check(device: &Device, random: &mut impl Rng, case: Case) {
    let Case { n_rows, n_heads, n_kv_heads, head_dim, rotary_dim, has_norms, kv_type } = case;
    let width = (n_heads + 2 * n_kv_heads) * head_dim + 1;
    let x = common::normal(random, n_rows * width, 2.0);
    let upload = |values: Vec<f32>| device.upload(&values).expect("memory");
    let [q_norm, k_norm] = [0; 2].map(|_| upload(common::normal(random, head_dim, 1.0)));
    let table = upload(common::normal(random, n_rows * rotary_dim, 1.0));
    // One row beyond the table, and one whose position has no page.
    let table_rows: Vec<u32> =
        (0..n_rows as u32).map(|row| if row == 1 { n_rows as u32 } else { n_rows as u32 - 1 - row }).collect();
    let table_rows = device.upload(&table_rows).expect("memory");
    let positions: Vec<u32> = (0..n_rows as u32).map(|row| if row == 2 { 777 } else { row }).collect();
    let (slots, positions) =
        (device.upload(&vec![1u32; n_rows]).expect("memory"), device.upload(&positions).expect("memory"));
    let places = Places { slots: &slots, positions: &positions };
    let attend = Attend { layer: 0, n_heads, scale: 0.3, softcap: None, window: None };
    let run = |is_fused: bool| {
        let shape =
            PagedShape { n_layers: 1, n_kv_heads, head_dim, n_slots: 2, max_positions: 900, n_pages: 3, kv_type };
        let mut cache = PagedCache::new(device, shape).expect("a cache");
        cache.reserve(1, n_rows).expect("pages");
        let mut qkv = common::buffer(device, width, &x);
        if is_fused {
            let norms = has_norms.then_some(Norms { q: &q_norm, k: &k_norm, eps: 1e-6 });
            let rotation = Rotation { rotary_dim, table: &table, table_rows: &table_rows };
            launch::enter_heads(&mut qkv, n_rows, &attend, norms, rotation, places, &mut cache).expect("a launch");
        } else {
            let queries = Heads { col: 0, n_heads, head_dim };
            let keys = Heads { col: n_heads * head_dim, n_heads: n_kv_heads, head_dim };
            if has_norms {
                launch::head_norm(&mut qkv, n_rows, queries, &q_norm, 1e-6).expect("a launch");
                launch::head_norm(&mut qkv, n_rows, keys, &k_norm, 1e-6).expect("a launch");
            }
            let both = Heads { n_heads: n_heads + n_kv_heads, ..queries };
            launch::rope(&mut qkv, n_rows, both, rotary_dim, &table, &table_rows).expect("a launch");
            launch::append(&qkv, n_rows, &attend, places, &mut cache).expect("a launch");
        }
        let mut scratch = AttendScratch::new(device, 2, n_heads, head_dim).expect("memory");
        let mut out = Buffer::new(device, n_rows, n_heads * head_dim).expect("memory");
        launch::attend_steps(&qkv, 0..n_rows.min(2), &attend, places, &cache, 1, &mut scratch, &mut out)
            .expect("a launch");
        launch::attend_steps(&qkv, n_rows - 1..n_rows, &attend, places, &cache, 1, &mut scratch, &mut out)
            .expect("a launch");
        let queries: Vec<f32> =
            common::values(&qkv).chunks(width).flat_map(|row| row[..n_heads * head_dim].to_vec()).collect();
        (common::bits(&queries), common::bits(&common::values(&out)))
    };
    assert_eq!(run(true), run(false), "{case:?}");
}

#[test]
fn enter_heads_is_head_norm_rope_and_append() {
    let mut random = common::random();
    let case = Case {
        n_rows: 5,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
        rotary_dim: 64,
        has_norms: true,
        kv_type: KvType::F16,
    };
    for device in common::devices() {
        for case in [
            case,
            Case { n_rows: 1, has_norms: false, ..case },
            Case { n_rows: 4, head_dim: 80, rotary_dim: 32, ..case },
            Case { n_heads: 3, n_kv_heads: 1, head_dim: 18, rotary_dim: 18, kv_type: KvType::Bf16, ..case },
            Case { n_rows: 1, n_heads: 1, n_kv_heads: 1, head_dim: 512, rotary_dim: 0, ..case },
            Case { n_rows: 1, kv_type: KvType::F32, ..case },
            Case { n_rows: 9, n_heads: 1, n_kv_heads: 1, head_dim: 2, rotary_dim: 2, ..case },
        ] {
            check(&device, &mut random, case);
        }
    }
}
