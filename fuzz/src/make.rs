//! Small good files, for inputs to begin with.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use netweight_codec::Level;
use netweight_pack::{CompressOptions, Layout, Silent, compress, compress_grids};
use netweight_tensor::Grid;

use crate::scratch::Scratch;

/// Bytes that look like BF16 weights: few exponents, random mantissas.
pub(crate) fn weights(n_bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(n_bytes + 1);
    while bytes.len() < n_bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let exponent = 120 - (state.trailing_zeros() as u16).min(20);
        let value = (state >> 32) as u16 & 0x807f | exponent << 7;
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    bytes.truncate(n_bytes);
    bytes
}

/// A safetensors file from a header's JSON and the data.
pub(crate) fn file(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes()[..], json.as_bytes(), data].concat()
}

/// JSON of headers that are good for that many bytes of data.
pub(crate) fn headers() -> Vec<(&'static str, usize)> {
    vec![
        ("{}", 0),
        (r#"{"w":{"dtype":"BF16","shape":[300,2],"data_offsets":[0,1200]}}  "#, 1200),
        (r#"{"__metadata__":{"format":"pt"},"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}"#, 4),
        (
            concat!(
                r#"{"b":{"dtype":"F32","shape":[10,25],"data_offsets":[600,1600]},"#,
                r#""z":{"dtype":"I64","shape":[0],"data_offsets":[600,600]},"#,
                r#""a":{"dtype":"BF16","shape":[300],"data_offsets":[0,600]},"__metadata__":{"x":"y"}}"#
            ),
            1600,
        ),
        (
            r#"{"q":{"dtype":"F4","shape":[7,2],"data_offsets":[0,7]},"n":{"dtype":"NEW","shape":[3],"data_offsets":[7,19]}}"#,
            19,
        ),
        (r#"{"netweight.x":{"dtype":"U8","shape":[500],"data_offsets":[0,500]}}"#, 500),
        // Two tensors with the same bytes, which get tied.
        (
            concat!(
                r#"{"e":{"dtype":"BF16","shape":[2048],"data_offsets":[0,4096]},"#,
                r#""o":{"dtype":"BF16","shape":[2048],"data_offsets":[4096,8192]}}"#
            ),
            8192,
        ),
        // Two matrices, one with padding.
        (
            concat!(
                r#"{"m":{"dtype":"BF16","shape":[16,64],"data_offsets":[0,2048]},"#,
                r#""n":{"dtype":"BF16","shape":[31,90],"data_offsets":[2048,7628]}}"#
            ),
            7628,
        ),
    ]
}

/// Good files.
pub(crate) fn files() -> Vec<Vec<u8>> {
    let period = weights(4096, 1);
    headers().into_iter().map(|(json, n)| file(json, &period.repeat(2)[..n])).collect()
}

/// Options with one thread, by a number: both levels, and each resident layout with both.
pub(crate) fn options(number: u8) -> CompressOptions {
    let level = if number.is_multiple_of(2) { Level::Default } else { Level::Max };
    let resident = [None, Some(Layout::Exact11), Some(Layout::Exact12)][usize::from(number / 2 % 3)];
    CompressOptions { level, resident, threads: 1, ..CompressOptions::default() }
}

/// Archives of [`files`], at both levels, in the resident layouts, and with grids.
pub(crate) fn archives() -> Vec<Vec<u8>> {
    let archive = |number: u8, file: &[u8]| {
        let scratch = Scratch::new();
        let (source, target) = (scratch.write("a.safetensors", file), scratch.path("b.safetensors"));
        compress(&source, &target, &options(number), &Silent).expect("a good file");
        std::fs::read(target).expect("an archive")
    };
    let coded = [0, 1].into_iter().flat_map(|number| files().into_iter().map(move |file| archive(number, &file)));
    let matrices = files().pop().expect("a file with matrices");
    coded.chain([2, 4].map(|number| archive(number, &matrices))).chain([with_grids(&matrices)]).collect()
}

fn grid(rows: usize, cols: usize) -> Arc<Grid> {
    let weights: Vec<f32> = (0..rows * cols).map(|idx| (idx * idx % 37) as f32 - 18.0).collect();
    Arc::new(Grid::nearest(&weights, vec![2.0; rows], vec![0.5; cols]))
}

/// The archive of a file with matrices `m` and `n` in which grids stand for both.
fn with_grids(file: &[u8]) -> Vec<u8> {
    let grids = BTreeMap::from([("m".to_owned(), grid(16, 64)), ("n".to_owned(), grid(31, 90))]);
    let scratch = Scratch::new();
    let (source, target) = (scratch.write("a.safetensors", file), scratch.path("b.safetensors"));
    compress_grids(&source, &target, &grids, &options(0), &Silent).expect("a good file");
    std::fs::read(target).expect("an archive")
}

/// What grids lack, below a new `folder`: the shard `a.safetensors` and its refinement; gives the refinement's bytes.
pub(crate) fn refined(folder: &Path) -> Vec<u8> {
    let grids = BTreeMap::from([("m".to_owned(), grid(16, 64))]);
    let scratch = Scratch::new();
    let source = scratch.path("src");
    std::fs::create_dir_all(&source).expect("room");
    std::fs::write(source.join("a.safetensors"), files().pop().expect("a file with matrices")).expect("room");
    let keep = CompressOptions { keep_exact: true, ..options(0) };
    compress_grids(&source, folder, &grids, &keep, &Silent).expect("a good folder");
    std::fs::read(folder.join("a.safetensors.refinement")).expect("a refinement")
}

/// Makes an archive folder with a shard, an index and side files below `folder`; gives its `netweight.json`.
pub(crate) fn archive_folder(folder: &Path) -> Vec<u8> {
    let scratch = Scratch::new();
    let source = scratch.path("src");
    std::fs::create_dir_all(source.join("sub")).expect("room");
    let write = |name: &str, bytes: &[u8]| std::fs::write(source.join(name), bytes).expect("room");
    write("model.safetensors", &files()[1]);
    write(
        "model.safetensors.index.json",
        br#"{"metadata":{"total_size":1200},"weight_map":{"w":"model.safetensors"}}"#,
    );
    write("config.json", b"{}");
    write("sub/notes.txt", b"notes");
    compress(&source, folder, &options(0), &Silent).expect("a good folder");
    std::fs::read(folder.join("netweight.json")).expect("netweight.json")
}
