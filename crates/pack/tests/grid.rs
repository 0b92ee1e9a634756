//! Archives with grids: they restore to the checkpoint of the grids' values, indices and steps come out as they went in,
//! and they take about the bits that the indices' entropy says.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{Random, Tensor, bf16, problems, read_folder, safetensors, tensor, try_restore, weights, write_folder};
use netweight_container::ErrorKind;
use netweight_pack::{Archive, ArchiveShard, CompressOptions, InspectOptions, Layout, Silent, compress_grids, inspect};
use netweight_tensor::Grid;

/// Normal weights times `spread(row)`, on a grid whose steps are `step` of a weight's deviation on the average.
fn grid(rows: usize, cols: usize, step: f32, spread: impl Fn(usize) -> f32, seed: u64) -> Grid {
    let mut random = Random(seed);
    let weights: Vec<f32> = (0..rows * cols).map(|idx| random.normal() * 0.02 * spread(idx / cols)).collect();
    let row_steps = (0..rows).map(|_| bf16(0.02 * step)).collect();
    let col_steps = (0..cols).map(|col| bf16(1.0 + (col % 7) as f32 / 50.0)).collect();
    Grid::nearest(&weights, row_steps, col_steps)
}

fn values(grid: &Grid) -> Vec<u8> {
    grid.dequantize().into_iter().flat_map(u16::to_le_bytes).collect()
}

type GridMap = BTreeMap<String, Arc<Grid>>;

/// A model, its grids, and the tensors that their archive restores to.
fn model() -> (Vec<Tensor>, GridMap, Vec<Tensor>) {
    let grids: GridMap = [
        ("large", grid(1100, 1001, 0.3, |row| 1.0 + (row % 5) as f32, 1)),
        ("single", grid(40, 70, 0.05, |_| 1.0, 2)),
        ("half", grid(33, 64, 0.5, |_| 1.0, 3)),
        ("column", grid(50, 1, 0.5, |_| 1.0, 4)),
    ]
    .map(|(name, grid)| (name.to_owned(), Arc::new(grid)))
    .into();
    let tied = weights(2 * 40 * 70, 9);
    let exact = |name: &str| match name {
        "norm" => tensor("norm", "F32", &[31], weights(124, 5)),
        "tied" => tensor("tied", "BF16", &[40, 70], tied.clone()),
        _ => tensor(name, "BF16", &[70, 40], tied.clone()),
    };
    let before = |name: &str, dtype, rows: u64, cols: u64, width: usize| {
        tensor(name, dtype, &[rows, cols], weights((rows * cols) as usize * width, 6))
    };
    let source = vec![
        exact("norm"),
        before("large", "BF16", 1100, 1001, 2),
        before("single", "F32", 40, 70, 4),
        exact("tied"),
        before("half", "F16", 33, 64, 2),
        exact("tied again"),
        before("column", "BF16", 50, 1, 2),
    ];
    let restored = source.iter().map(|tensor| match grids.get(&tensor.name) {
        Some(grid) => common::tensor(&tensor.name, "BF16", &tensor.shape, values(grid)),
        None => exact(&tensor.name),
    });
    let restored = restored.collect();
    (source, grids, restored)
}

fn options() -> CompressOptions {
    CompressOptions { threads: 2, ..CompressOptions::default() }
}

/// What the safetensors library reads: dtype, shape and bytes by name.
fn tensors_of(file: &[u8]) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let read = safetensors::SafeTensors::deserialize(file).unwrap();
    let about = |view: &safetensors::tensor::TensorView<'_>| {
        (format!("{:?}", view.dtype()), view.shape().to_vec(), view.data().to_vec())
    };
    read.tensors().iter().map(|(name, view)| (name.clone(), about(view))).collect()
}

#[test]
fn restores_to_the_values() {
    let folder = tempfile::tempdir().unwrap();
    let (source, grids, restored) = model();
    let config = b"{\"model_type\": \"x\"}".to_vec();
    let files = [("model.safetensors", safetensors(&source)), ("config.json", config.clone())];
    let (from, archive, back) = (folder.path().join("from"), folder.path().join("archive"), folder.path().join("back"));
    write_folder(&from, &files);
    let report = compress_grids(&from, &archive, &grids, &options(), &Silent).unwrap();
    assert_eq!((report.n_tensors, report.n_tied), (7, 1));
    assert_eq!(problems(&archive), Vec::<String>::new());
    try_restore(&archive, &back).unwrap();
    let found = tensors_of(&std::fs::read(back.join("model.safetensors")).unwrap());
    assert!(found == tensors_of(&safetensors(&restored)));
    assert!(std::fs::read(back.join("config.json")).unwrap() == config);
    let about = inspect(&archive, &InspectOptions::default(), &Silent).unwrap();
    assert_eq!(about.format, Some(2));
    let large = about.tensors.iter().find(|tensor| tensor.name == "large").unwrap();
    assert_eq!(large.coder, "grid: rans12");
    let files = read_folder(&archive);
    let text = |name: &str| String::from_utf8(files[Path::new(name)].clone()).unwrap();
    assert!(text("netweight.json").starts_with("{\n  \"format\": 2,") && text("config.json").contains("\"format\": 2"));
    check_reading(&Archive::open(&archive).unwrap(), &grids, &restored);
}

/// Steps, indices and rows, whole and across chunks.
fn check_reading(archive: &Archive, grids: &GridMap, restored: &[Tensor]) {
    let shard = archive.shard("model.safetensors").unwrap();
    for tensor in restored {
        let Some(grid) = grids.get(&tensor.name) else {
            assert!(shard.grid(&tensor.name).is_none() && shard.read_indices(&tensor.name, 0..1, &mut []).is_err());
            continue;
        };
        let steps = shard.grid(&tensor.name).unwrap();
        assert_eq!((steps.row_steps, steps.col_steps), (&grid.row_steps[..], &grid.col_steps[..]));
        let ranges = [0..grid.rows, 0..1, grid.rows - 1..grid.rows, grid.rows / 3..grid.rows / 3 * 2, 5..5];
        for rows in ranges {
            let expected = &grid.indices[rows.start * grid.cols..rows.end * grid.cols];
            let mut found = vec![0xaa; expected.len()];
            shard.read_indices(&tensor.name, rows.clone(), &mut found).unwrap();
            assert!(found.iter().map(|&index| index as i8).eq(expected.iter().copied()), "{} {rows:?}", tensor.name);
            let mut found = vec![0xaa; 2 * expected.len()];
            shard.read_rows(&tensor.name, rows.start as u64..rows.end as u64, &mut found).unwrap();
            assert!(found == tensor.bytes[2 * rows.start * grid.cols..2 * rows.end * grid.cols]);
        }
        let beyond = shard.read_indices(&tensor.name, 0..grid.rows + 1, &mut vec![0; (grid.rows + 1) * grid.cols]);
        assert_eq!(beyond.unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

fn entropy(indices: &[i8]) -> f64 {
    let mut counts = [0usize; 256];
    indices.iter().for_each(|&index| counts[usize::from(index as u8)] += 1);
    let share = |&count: &usize| count as f64 / indices.len() as f64;
    counts.iter().filter(|&&count| count > 0).map(share).map(|share| -share * share.log2()).sum()
}

fn archive_of(folder: &Path, grid: Grid) -> (ArchiveShard, f64) {
    let tensors = [tensor("w", "BF16", &[grid.rows as u64, grid.cols as u64], values(&grid))];
    let (from, to) = (folder.join("from.safetensors"), folder.join("to.safetensors"));
    std::fs::write(&from, safetensors(&tensors)).unwrap();
    let n = grid.indices.len() as f64;
    let grids: GridMap = [("w".to_owned(), Arc::new(grid))].into();
    let force = CompressOptions { force: true, ..options() };
    let report = compress_grids(&from, &to, &grids, &force, &Silent).unwrap();
    (ArchiveShard::open(&to).unwrap(), report.archive_bytes as f64 * 8.0 / n)
}

#[test]
fn takes_about_the_entropy() {
    let folder = tempfile::tempdir().unwrap();
    for (step, expected) in [(0.26, 4.0), (0.52, 3.0), (0.065, 6.0)] {
        let grid = grid(1024, 1024, step, |_| 1.0, 7);
        let entropy = entropy(&grid.indices);
        assert!((entropy - expected).abs() < 0.1, "{entropy}");
        let (_, bits) = archive_of(folder.path(), grid);
        println!("step {step}: entropy {entropy:.3}, file {bits:.3} bits a weight");
        assert!(bits < entropy + 0.06, "{bits} {entropy}");
    }
    // Rows of four kinds, mixed: classes save what one table for all would lose.
    let grid = grid(1024, 1024, 0.26, |row| [0.4, 1.0, 1.6, 3.0][row * 7 % 4], 8);
    let mixed = entropy(&grid.indices);
    let (_, bits) = archive_of(folder.path(), grid);
    println!("rows of four spreads: entropy {mixed:.3}, file {bits:.3} bits a weight");
    assert!(bits < mixed - 0.1);
}

#[test]
fn bytes_do_not_depend_on_threads() {
    let folder = tempfile::tempdir().unwrap();
    let (source, grids, _) = model();
    let from = folder.path().join("from.safetensors");
    std::fs::write(&from, safetensors(&source)).unwrap();
    let bytes = [1, 3].map(|threads| {
        let to = folder.path().join(format!("to{threads}.safetensors"));
        let options = CompressOptions { threads, check: threads == 1, ..options() };
        compress_grids(&from, &to, &grids, &options, &Silent).unwrap();
        std::fs::read(to).unwrap()
    });
    assert!(bytes[0] == bytes[1]);
}

#[test]
fn what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let from = folder.path().join("from.safetensors");
    let tensors = [
        tensor("w", "BF16", &[4, 3], weights(24, 1)),
        tensor("i", "I16", &[4, 3], weights(24, 1)),
        tensor("v", "BF16", &[12], weights(24, 1)),
    ];
    std::fs::write(&from, safetensors(&tensors)).unwrap();
    let good = grid(4, 3, 0.3, |_| 1.0, 1);
    let check = |name: &str, change: fn(&mut Grid), options: CompressOptions, part: &str| {
        let (mut grid, to) = (good.clone(), folder.path().join("to.safetensors"));
        change(&mut grid);
        let grids: GridMap = [(name.to_owned(), Arc::new(grid))].into();
        let error = compress_grids(&from, &to, &grids, &options, &Silent).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains(part), "{name}: {error}");
        assert!(!to.exists());
    };
    check("nobody", |_| (), options(), "not there");
    check("i", |_| (), options(), "not BF16, F16 or F32");
    check("v", |_| (), options(), "another shape");
    check("w", |grid| grid.row_steps[2] = f32::NAN, options(), "the step of row 2");
    check("w", |grid| _ = grid.indices.pop(), options(), "other indices");
    check("w", |grid| *grid = self::grid(3, 4, 0.3, |_| 1.0, 1), options(), "another shape");
    let resident = CompressOptions { resident: Some(Layout::Exact12), ..options() };
    check("w", |_| (), resident, "no resident tensors");
}

/// Zero steps, extreme steps, and every index.
#[test]
fn every_index_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let indices: Vec<i8> = (0..64).flat_map(|row| (-128..=127).map(move |index: i8| index ^ (row & 1) as i8)).collect();
    let row_steps: Vec<f32> =
        (0..64).map(|row| if row == 5 { 0.0 } else { 2f32.powi(row * 3 - 60).min(2f32.powi(60)) }).collect();
    let col_steps: Vec<f32> = (0..256).map(|col| if col == 9 { 0.0 } else { bf16(1.0 + col as f32 / 256.0) }).collect();
    let mut grid = Grid { rows: 64, cols: 256, indices, row_steps, col_steps };
    let (shard, _) = archive_of(folder.path(), grid.clone());
    let mut found = vec![0; 64 * 256];
    shard.read_indices("w", 0..64, &mut found).unwrap();
    // What a step of 0 makes 0 is kept as 0.
    for idx in 0..grid.indices.len() {
        if idx / 256 == 5 || idx % 256 == 9 {
            grid.indices[idx] = 0;
        }
    }
    assert!(found.iter().map(|&index| index as i8).eq(grid.indices.iter().copied()));
    let mut bytes = vec![0; 2 * 64 * 256];
    shard.read_tensor("w", &mut bytes).unwrap();
    assert!(bytes == values(&grid));
}

/// Whatever byte of the file is changed is noticed, or it does not matter for what is read.
#[test]
fn damage_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _) = archive_of(folder.path(), grid(40, 70, 0.4, |row| 1.0 + (row % 3) as f32, 5));
    let place = folder.path().join("to.safetensors");
    let archive = std::fs::read(&place).unwrap();
    let damaged = folder.path().join("damaged.safetensors");
    for at in 0..archive.len() {
        let mut bytes = archive.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&damaged, &bytes).unwrap();
        assert_ne!(problems(&damaged), Vec::<String>::new(), "byte {at} of {}", archive.len());
        std::fs::write(&damaged, &archive[..at]).unwrap();
        assert_ne!(problems(&damaged), Vec::<String>::new(), "{at} bytes of {}", archive.len());
    }
}
