//! Writes the golden archives of format version 2: those with grids, and one with a refinement.
//!
//!     cargo run --release -p netweight-pack --example make_golden_grid
//!
//! Comes out, for each NAME below `tests/golden/v2`: `NAME/archive` and `NAME/archive-max`, and `NAME/original`, what they
//! restore to, left out where it would be large. A golden that is there is never written again; remove it first, before
//! the format version has been released. The data come from a xorshift generator. Read by `tests/golden.rs` and
//! `docs/reference/test_decode.py`.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use netweight_pack::{CompressOptions, Level, RestoreOptions, Silent, compress_grids, restore};
use netweight_tensor::Grid;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/v2");
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let small = [
        ("plain", Some(grid(24, 40, 0.3, &mut random))),
        ("narrow", Some(grid(50, 1, 0.5, &mut random))),
        ("exact", None),
        ("wide", Some(grid(1, 3000, 0.1, &mut random))),
        ("zero", Some(Grid { indices: vec![0; 960], ..grid(24, 40, 0.3, &mut random) })),
        ("every", Some(every_index())),
    ];
    write(&root.join("grid"), &small, true)?;
    // More than one chunk, with classes of rows.
    write(&root.join("grid-chunks"), &[("large", Some(grid(700, 1001, 1.5, &mut random)))], false)?;
    write_refined(&root.join("refined"), &mut random)
}

/// Two shards and what their grids lack: matrices of bf16, with several classes of weights and with weights that are no
/// numbers, of f32, and tensors without grids.
fn write_refined(golden: &Path, random: &mut Random) -> Result<()> {
    if golden.exists() {
        println!("{}: kept", golden.display());
        return Ok(());
    }
    let every = every_index();
    let several = Grid { row_steps: vec![0.015625; 120], ..grid(120, 160, 0.4, random) };
    let single = grid(30, 20, 0.3, random);
    let near = |grid: &Grid, random: &mut Random| -> Vec<f32> {
        let value = |idx: usize| f32::from_bits(u32::from(grid.value(idx / grid.cols, idx % grid.cols)) << 16);
        let step = |idx: usize| grid.row_steps[idx / grid.cols] * grid.col_steps[idx % grid.cols];
        (0..grid.indices.len()).map(|idx| value(idx) + step(idx) * random.normal() / 3.0).collect()
    };
    let bf16 = |weights: Vec<f32>| weights.iter().flat_map(|w| ((w.to_bits() >> 16) as u16).to_le_bytes()).collect();
    let every_weight: Vec<u8> = (0..every.indices.len()).flat_map(|idx| (idx as u16 * 8 + 3).to_le_bytes()).collect();
    let first = [
        ("several", "BF16", several.rows, several.cols, bf16(near(&several, random))),
        ("exact", "BF16", 20, 30, every_weight[..1200].to_vec()),
        ("every", "BF16", every.rows, every.cols, every_weight),
    ];
    let singles = near(&single, random).iter().flat_map(|weight| weight.to_le_bytes()).collect();
    let second = [("single", "F32", single.rows, single.cols, singles), ("tied", "BF16", 30, 20, first[1].4.clone())];
    let original = golden.join("original");
    fs::create_dir_all(&original)?;
    fs::write(original.join("config.json"), "{\n  \"model_type\": \"golden\"\n}\n")?;
    for (name, tensors) in [("model-1.safetensors", &first[..]), ("model-2.safetensors", &second[..])] {
        let (mut rows, mut data) = (Vec::new(), Vec::new());
        for (name, dtype, n_rows, n_cols, bytes) in tensors {
            let (start, end) = (data.len(), data.len() + bytes.len());
            data.extend(bytes);
            rows.push(format!(
                r#""{name}":{{"dtype":"{dtype}","shape":[{n_rows},{n_cols}],"data_offsets":[{start},{end}]}}"#
            ));
        }
        let json = format!("{{{}}}", rows.join(","));
        fs::write(original.join(name), [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat())?;
    }
    let grids = [("several", several), ("every", every), ("single", single)];
    let grids: BTreeMap<String, Arc<Grid>> = grids.map(|(name, grid)| (name.to_owned(), Arc::new(grid))).into();
    for (archive, level) in [("archive", Level::Default), ("archive-max", Level::Max)] {
        let options = CompressOptions { level, keep_exact: true, ..CompressOptions::default() };
        compress_grids(&original, &golden.join(archive), &grids, &options, &Silent)?;
    }
    println!("{}: written", golden.display());
    Ok(())
}

fn write(golden: &Path, tensors: &[(&str, Option<Grid>)], keep_original: bool) -> Result<()> {
    if golden.exists() {
        println!("{}: kept", golden.display());
        return Ok(());
    }
    let source = golden.join("source");
    fs::create_dir_all(&source)?;
    let (mut rows, mut data) = (Vec::new(), Vec::new());
    let mut grids = BTreeMap::new();
    for (name, grid) in tensors {
        let (shape, n) = grid.as_ref().map_or(([20, 30], 600), |grid| ([grid.rows, grid.cols], grid.indices.len()));
        let start = data.len();
        data.extend((0..n).flat_map(|idx| (0x3c00 + (idx * idx % 977) as u16).to_le_bytes()));
        let end = data.len();
        rows.push(format!(r#""{name}":{{"dtype":"BF16","shape":{shape:?},"data_offsets":[{start},{end}]}}"#));
        grids.extend(grid.clone().map(|grid| ((*name).to_owned(), Arc::new(grid))));
    }
    let json = format!(r#"{{"__metadata__":{{"format":"pt"}},{}}}"#, rows.join(","));
    let file = [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), &data].concat();
    fs::write(source.join("model.safetensors"), file)?;
    fs::write(source.join("config.json"), "{\n  \"model_type\": \"golden\"\n}\n")?;
    for (archive, level) in [("archive", Level::Default), ("archive-max", Level::Max)] {
        let options = CompressOptions { level, ..CompressOptions::default() };
        compress_grids(&source, &golden.join(archive), &grids, &options, &Silent)?;
    }
    fs::remove_dir_all(&source)?;
    if keep_original {
        restore(&golden.join("archive"), &golden.join("original"), &RestoreOptions::default(), &Silent)?;
    }
    println!("{}: written", golden.display());
    Ok(())
}

/// Rows of four spreads; `step` is that of a row of spread 1 in deviations of its weights.
fn grid(rows: usize, cols: usize, step: f32, random: &mut Random) -> Grid {
    let bf16 = |value: f32| f32::from_bits(value.to_bits() & 0xffff_0000);
    let spread = |idx: usize| [0.5, 1.0, 2.0, 3.0][idx / cols * 7 % 4];
    let weights: Vec<f32> = (0..rows * cols).map(|idx| random.normal() * 0.02 * spread(idx)).collect();
    let row_steps = (0..rows).map(|row| bf16(0.02 * step * (1.0 + row as f32 / rows as f32 / 8.0))).collect();
    let col_steps = (0..cols).map(|col| bf16(1.0 + (col % 9) as f32 / 40.0)).collect();
    Grid::nearest(&weights, row_steps, col_steps)
}

/// Every index that may be read, steps from the least to the largest, and steps of 0.
fn every_index() -> Grid {
    let indices = (0..32).flat_map(|row| (-128..=127i8).map(move |index| index ^ (row % 2) as i8)).collect();
    let row_steps = (0..32).map(|row| if row == 7 { 0.0 } else { 2f32.powi((row * 4 - 60).min(60)) }).collect();
    let col_step = |col: i32| if col == 9 { 0.0 } else { 2f32.powi((col - 128) * 60 / 128) };
    Grid { rows: 32, cols: 256, indices, row_steps, col_steps: (0..256).map(col_step).collect() }
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.next() >> 40) as f32 / 16_777_216.0).sum::<f32>() - 6.0
    }
}
