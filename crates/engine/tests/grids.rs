//! Archives with grids on the CPU: every instruction set, index layout, number of threads and size of step gives the same
//! bits, which are nearly those of the values that the archive restores to.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{CONTEXT_LEN, bits, bookworm, fixtures, load, oracle, run, worst_difference};
use netweight_engine::{CpuDecoder, Interrupt, Isa, KvType, LoadOptions, Precision, Store};
use netweight_layout::Layout;
use netweight_pack::{CompressOptions, Silent, compress_grids};
use netweight_tensor::Grid;
use safetensors::SafeTensors;

fn options() -> LoadOptions {
    LoadOptions {
        kv_type: KvType::F32,
        max_positions: Some(CONTEXT_LEN),
        n_slots: 3,
        n_threads: 2,
        ..LoadOptions::default()
    }
}

fn bf16(value: f32) -> f32 {
    half::bf16::from_f32(value).to_f32()
}

/// Every matrix on a grid of its own, rounded to the nearest: rows of up to `n_steps`, columns whose steps differ
/// where the name's length is even.
fn archive(folder: &Path, n_steps: f32, into: &Path) {
    let mut grids = BTreeMap::new();
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("weights");
    for (name, view) in SafeTensors::deserialize(&bytes).expect("a safetensors file").iter() {
        let &[_, cols] = view.shape() else { continue };
        let weights: Vec<f32> = match view.data().len() / view.shape().iter().product::<usize>() {
            4 => view.data().as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
            _ => {
                view.data().as_chunks::<2>().0.iter().map(|&bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect()
            }
        };
        let largest = |row: &[f32]| row.iter().fold(0f32, |largest, weight| largest.max(weight.abs()));
        let row_steps = weights.chunks(cols).map(|row| bf16(largest(row).max(1e-9) / n_steps)).collect();
        let is_scaled = name.len() % 2 == 0;
        let col_steps =
            (0..cols).map(|col| if is_scaled { bf16(0.8 + (col % 5) as f32 / 10.0) } else { 1.0 }).collect();
        grids.insert(name.to_owned(), Arc::new(Grid::nearest(&weights, row_steps, col_steps)));
    }
    let source = tempfile::tempdir().expect("a folder");
    for file in ["model.safetensors", "config.json"] {
        std::fs::copy(folder.join(file), source.path().join(file)).expect("a copy");
    }
    compress_grids(source.path(), into, &grids, &CompressOptions::default(), &Silent).expect("an archive");
}

#[test]
fn every_way_gives_the_same_bits() {
    for folder in fixtures() {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (prompt, _) = oracle(&folder, "prompt", "prompt_logits");
        let scratch = tempfile::tempdir().expect("a folder");
        let place = scratch.path().join("archive");
        archive(&folder, 100.0, &place);
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let how = |isa, layout| LoadOptions { isa, layout, precision: Some(precision), ..options() };
            let of_values = if precision == Precision::Int8 { Precision::F32 } else { precision };
            let of_values = LoadOptions { precision: Some(of_values), ..how(None, Some(Layout::F32)) };
            let values = run(&mut load(&place, &of_values), 0, &prompt, 99);
            let expected = run(&mut load(&place, &how(Some(Isa::scalar()), Some(Layout::Index8))), 0, &prompt, 99);
            let difference = worst_difference(&expected, &values);
            let most = match precision {
                Precision::F32 => 0.2,
                Precision::Bf16 => 0.5,
                Precision::Int8 => 1.0,
            };
            assert!(difference > 0.0 && difference < most, "{name}: {difference} {precision:?}");
            for isa in Isa::available() {
                for layout in [Some(Layout::Index8), Some(Layout::Index4), Some(Layout::Index3), None] {
                    let mut model = load(&place, &how(Some(isa), layout));
                    for (slot, step) in [(0, 99), (1, 1), (2, 7)] {
                        let found = run(&mut model, slot, &prompt, step);
                        let way = format!("{name}, {isa:?}, {layout:?}, {step} at a time, {precision:?}");
                        assert!(bits(&found) == bits(&expected), "{way}");
                    }
                }
            }
        }
    }
}

/// Int8 activations need indices.
#[test]
fn int8_activations_of_no_indices() {
    let scratch = tempfile::tempdir().expect("a folder");
    let place = scratch.path().join("archive");
    archive(&bookworm(), 16.0, &place);
    let how = |layout| LoadOptions { layout, precision: Some(Precision::Int8), ..options() };
    for (folder, layout) in [(&bookworm(), None), (&place, Some(Layout::Exact12))] {
        let store = Store::open(folder).expect("a store");
        let loaded = CpuDecoder::load(&store, &how(layout), &Interrupt::new(), &|_| {});
        let message = loaded.err().expect("an error").to_string();
        assert!(message.contains("int8 activations are for tuned models"), "{message}");
    }
}

/// What somebody asks for is what is loaded: indices, or values in a layout for weights.
#[test]
fn layouts_that_are_asked_for() {
    let scratch = tempfile::tempdir().expect("a folder");
    let check = |n_steps: f32, layout: Option<Layout>, expected: Layout, most_bits: f64| {
        let place = scratch.path().join(n_steps.to_string());
        if !place.exists() {
            archive(&bookworm(), n_steps, &place);
        }
        let model = load(&place, &LoadOptions { layout, ..LoadOptions::default() });
        let report = model.report();
        let most = report.layouts.iter().max_by_key(|row| row.1).expect("a layout").0;
        assert_eq!(most, expected);
        let found = report.bits_per_weight();
        assert!(found < most_bits, "{expected:?}: {found} bits");
    };
    check(16.0, Some(Layout::Index8), Layout::Index8, 8.3);
    check(16.0, Some(Layout::Index4), Layout::Index4, 5.5);
    check(16.0, Some(Layout::Index3), Layout::Index3, 7.0);
    check(16.0, Some(Layout::Bf16), Layout::Bf16, 16.3);
    check(16.0, Some(Layout::Exact12), Layout::Exact12, 13.0);
    check(16.0, None, Layout::Index4, 5.5);
    check(5.0, None, Layout::Index3, 4.5);
    // Too many escapes: more bytes than indices as they are.
    check(120.0, Some(Layout::Index3), Layout::Index8, 8.3);
    check(120.0, None, Layout::Index8, 8.3);
    // Fixed at 4 bits where all indices fit; where they do not, the smallest of the others.
    check(7.0, Some(Layout::Int4), Layout::Int4, 4.3);
    check(16.0, Some(Layout::Int4), Layout::Index4, 5.5);
}
