//! Writes the golden archives of the format version that this program writes.
//!
//!     cargo run --release -p netweight-pack --example make_golden
//!
//! Comes out, for each NAME below `tests/golden/v1`: `NAME/original` (left out where it would be large), and its
//! archives: at the two levels, `NAME/archive` and `NAME/archive-max`, or, where NAME begins with `resident`, in the two
//! resident layouts, `NAME/archive-exact11` and `NAME/archive-exact12`. A golden that is there is never written again;
//! `-- --replace` does so nevertheless, before a format version has been released. The data come from a xorshift
//! generator, so a second run gives the same originals. Read by `tests/golden.rs` and `docs/reference/test_decode.py`.
#![forbid(unsafe_code)]

use std::error::Error;
use std::fs;
use std::path::Path;

use netweight_pack::{CompressOptions, Layout, Level, Silent, compress};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    let replace = match std::env::args().nth(1).as_deref() {
        None => false,
        Some("--replace") => true,
        Some(other) => return Err(format!("unknown argument {other}").into()),
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/v1");
    for golden in goldens() {
        let folder = root.join(golden.name);
        if folder.exists() {
            if !replace {
                println!("{}: kept", golden.name);
                continue;
            }
            fs::remove_dir_all(&folder)?;
        }
        golden.write(&folder)?;
        println!("{}: written", golden.name);
    }
    Ok(())
}

/// One golden: the files of an original, which is a folder, or a file if there is one named `model.safetensors`.
struct Golden {
    name: &'static str,
    files: Vec<(&'static str, Vec<u8>)>, // relative path, bytes
    keep_original: bool,
    archives: &'static [Archive],
}

/// (folder within a golden, level, resident layout)
type Archive = (&'static str, Level, Option<Layout>);

const CODED: [Archive; 2] = [("archive", Level::Default, None), ("archive-max", Level::Max, None)];
const RESIDENT: [Archive; 2] = [
    ("archive-exact11", Level::Default, Some(Layout::Exact11)),
    ("archive-exact12", Level::Default, Some(Layout::Exact12)),
];

impl Golden {
    fn write(&self, folder: &Path) -> Result<()> {
        let original = folder.join("original");
        for (relative, bytes) in &self.files {
            let path = original.join(relative);
            fs::create_dir_all(path.parent().ok_or("a file has a parent")?)?;
            fs::write(path, bytes)?;
        }
        for &(archive, level, resident) in self.archives {
            let (mut source, mut destination) = (original.clone(), folder.join(archive));
            if self.files.len() == 1 {
                fs::create_dir_all(&destination)?;
                source.push(self.files[0].0);
                destination.push(self.files[0].0);
            }
            let options = CompressOptions { level, resident, ..CompressOptions::default() };
            compress(&source, &destination, &options, &Silent)?;
        }
        if !self.keep_original {
            fs::remove_dir_all(&original)?;
        }
        Ok(())
    }
}

fn goldens() -> Vec<Golden> {
    let coded = |name, files| Golden { name, files, keep_original: true, archives: &CODED };
    let file = |name, bytes| coded(name, vec![("model.safetensors", bytes)]);
    let resident = |name, bytes| Golden { archives: &RESIDENT, ..file(name, bytes) };
    vec![
        file("dtypes", safetensors(dtypes())),
        file("patterns", safetensors(patterns())),
        file("weights", safetensors(trained())),
        file("escapes", safetensors(escapes())),
        file("f32-holding-bf16", safetensors(vec![tensor("w", "F32", &[16_000], widened(&weights(32_000, 5)))])),
        file(
            "zeros",
            safetensors(vec![tensor("w", "BF16", &[100, 129], vec![0; 25_800]), tensor("x", "F64", &[3], vec![0; 24])]),
        ),
        file(
            "noise",
            safetensors(vec![
                tensor("w", "BF16", &[15_001], noise(30_002, 6)),
                tensor("x", "U8", &[999], noise(999, 7)),
            ]),
        ),
        file("lengths", safetensors(lengths())),
        file("ties", safetensors(ties())),
        file("header-order", raw_file(HEADER_ORDER, &weights(16, 8))),
        file("header-names", raw_file(HEADER_NAMES, b"abcde")),
        file("header-none", raw_file("{}", b"")),
        file(
            "opaque-scalars",
            safetensors((0..200).map(|i| tensor(&format!("scale.{i}"), "F32", &[], weights(4, i))).collect()),
        ),
        file("opaque-name", safetensors(vec![tensor("netweight.w", "BF16", &[3000], weights(6000, 9))])),
        Golden { keep_original: false, ..file("chunks", safetensors(chunks())) },
        coded("folder", folder()),
        resident("resident", safetensors(matrices())),
        Golden { archives: &RESIDENT[..1], keep_original: false, ..resident("resident-groups", safetensors(groups())) },
        Golden { archives: &RESIDENT, ..coded("resident-folder", resident_folder()) },
    ]
}

/// Not in offset order, spaces inside and at the end, no `__metadata__`, misaligned, scalar and zero-size tensors
/// that share an offset, an unknown dtype and unknown keys.
const HEADER_ORDER: &str = r#"{ "late":{"dtype":"F32","shape":[],"data_offsets":[12,16]},
"z":{"dtype":"F32","shape":[0,7],"data_offsets":[3,3]}, "first":{"dtype":"F7_NEW","shape":[9],"data_offsets":[0,3],"note":[{}]},
"y":{"shape":[0],"dtype":"BF16","data_offsets":[3,3]},	"middle":{"dtype":"F64","shape":[1],"data_offsets":[3,11]},
"b":{"dtype":"BOOL","shape":[1,1,1],"data_offsets":[11,12]}}       "#;

/// Names that need escapes, an empty name, metadata beside `format`.
const HEADER_NAMES: &str = r#"{"__metadata__":{"format":"pt","x":"\u00fc\ud83d\ude00"},"\u00e4\"\\\/\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"":{"dtype":"I16","shape":[1],"data_offsets":[1,3]},"</script>":{"dtype":"F8_E5M2","shape":[2],"data_offsets":[3,5]}}"#;

/// Every dtype that safetensors names, 1,024 elements each.
fn dtypes() -> Vec<Tensor> {
    let sizes = [
        ("BF16", 16),
        ("F16", 16),
        ("F32", 32),
        ("F64", 64),
        ("F8_E4M3", 8),
        ("F8_E5M2", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("F8_E5M2FNUZ", 8),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("F4", 4),
        ("I8", 8),
        ("U8", 8),
        ("BOOL", 8),
        ("I16", 16),
        ("U16", 16),
        ("I32", 32),
        ("U32", 32),
        ("I64", 64),
        ("U64", 64),
        ("C64", 64),
    ];
    sizes
        .into_iter()
        .map(|(dtype, bits)| {
            let bytes = weights(1024 * bits / 8, bits as u64);
            tensor(&format!("tensor.{dtype}"), dtype, &[32, 32], bytes)
        })
        .collect()
}

/// All 65,536 patterns of both 16-bit floats, in an order of their own, and all bytes of the 8-bit ones.
fn patterns() -> Vec<Tensor> {
    let halves: Vec<u8> = (0..=u16::MAX).flat_map(|i| i.wrapping_mul(40_503).to_le_bytes()).collect();
    let bytes: Vec<u8> = (0..=255).collect();
    let mut tensors =
        vec![tensor("bf16", "BF16", &[256, 256], halves.clone()), tensor("f16", "F16", &[65_536], halves)];
    for dtype in ["F8_E4M3", "F8_E5M2", "F8_E8M0"] {
        tensors.push(tensor(&format!("model.{dtype}"), dtype, &[256], bytes.clone()));
    }
    tensors
}

/// What most checkpoints hold: a few exponents, random signs and mantissas, of 2, 4 and 1 bytes.
fn trained() -> Vec<Tensor> {
    let small: Vec<u8> = weights(48_000, 2).chunks_exact(2).map(|half| half[1]).collect();
    vec![
        tensor("model.layers.0.q_proj.weight", "BF16", &[150, 200], weights(60_000, 1)),
        tensor("model.layers.0.k_proj.weight", "F8_E5M2", &[24_000], small),
        tensor("model.norm.weight", "F32", &[5_000], with_noise_below(&weights(10_000, 3), 4)),
    ]
}

/// Outliers: exponents far from the others, rare and often, a few values of them and many.
fn escapes() -> Vec<Tensor> {
    let outliers = |every: usize, n_kinds: u64, seed: u64| {
        let mut bytes = weights(24_002, seed);
        for (idx, kind) in XorShift::new(seed).take(12_001).enumerate().step_by(every) {
            let value = ((kind % n_kinds) as u16).wrapping_mul(2741).wrapping_add(0x7000);
            bytes[2 * idx..2 * idx + 2].copy_from_slice(&value.to_le_bytes());
        }
        bytes
    };
    vec![
        tensor("rare", "BF16", &[12_001], outliers(997, 3, 11)),
        tensor("few", "BF16", &[12_001], outliers(31, 7, 12)),
        tensor("many", "F16", &[12_001], outliers(9, 1000, 13)),
    ]
}

/// Element counts around the numbers of lanes, for full and empty tails.
fn lengths() -> Vec<Tensor> {
    [1, 2, 63, 64, 65, 127, 128, 129, 1023, 4096, 4097]
        .into_iter()
        .map(|n: u64| tensor(&format!("w{n}"), "BF16", &[n], weights(2 * n as usize, n)))
        .collect()
}

/// Tied weights within a file.
fn ties() -> Vec<Tensor> {
    let names = ["lm_head.weight", "model.embed_tokens.weight", "other"];
    names
        .into_iter()
        .map(|name| tensor(name, "BF16", &[6, 1000], weights(12_000, 20 + u64::from(name == "other"))))
        .collect()
}

/// More than one chunk at either level; the original is not kept.
fn chunks() -> Vec<Tensor> {
    let mut bytes = vec![0; (2 << 20) + 3002];
    let (first, last) = ((1 << 20) - 2000, (2 << 20) - 1000);
    bytes[first..first + 6000].copy_from_slice(&weights(6000, 30));
    bytes[last..].copy_from_slice(&weights(4002, 31));
    vec![tensor("w", "BF16", &[bytes.len() as u64 / 2], bytes)]
}

/// Two shards in a subfolder, a tie across them, an index, side files.
fn folder() -> Vec<(&'static str, Vec<u8>)> {
    let shard = |names: [&str; 2], seed| {
        safetensors(
            names
                .into_iter()
                .zip(seed..)
                .map(|(name, seed)| tensor(name, "BF16", &[40, 100], weights(8000, seed)))
                .collect(),
        )
    };
    let index = br#"{
  "metadata": {"total_size": 32000, "note": "kept"},
  "weight_map": {
    "lm_head.weight": "model-00001-of-00002.safetensors",
    "a": "model-00001-of-00002.safetensors",
    "b": "model-00002-of-00002.safetensors",
    "model.embed_tokens.weight": "model-00002-of-00002.safetensors"
  }
}
"#;
    vec![
        ("config.json", b"{\"model_type\": \"llama\"}\n".to_vec()),
        ("empty.txt", Vec::new()),
        ("model-00001-of-00002.safetensors", shard(["a", "lm_head.weight"], 40)),
        ("model-00002-of-00002.safetensors", shard(["model.embed_tokens.weight", "b"], 41)),
        ("model.safetensors.index.json", index.to_vec()),
        ("extra/adapter.safetensors", shard(["x", "y"], 50)),
        ("extra/deeper/notes.bin", noise(1000, 60)),
    ]
}

/// What lies in tiles and what does not: padded rows and columns, every kind of escape, weights that are wide, ties; and
/// tensors that are too small, of another dtype, not a matrix, or not made smaller.
fn matrices() -> Vec<Tensor> {
    let mut wide = weights(2 * 33 * 200, 70);
    for (idx, special) in [0x7f80u16, 0xff80, 0x7fc1, 0x8001, 0x8000, 0, 0x207f].into_iter().enumerate() {
        wide[1000 * idx..1000 * idx + 2].copy_from_slice(&special.to_le_bytes());
    }
    let mut escapes = weights(2 * 64 * 96, 71);
    for (idx, bits) in XorShift::new(72).take(64 * 96).enumerate().step_by(5) {
        escapes[2 * idx + 1] = (bits >> 40) as u8 | 0x40;
    }
    vec![
        tensor("trained", "BF16", &[150, 200], weights(60_000, 73)),
        tensor("one.tile", "BF16", &[16, 64], weights(2048, 74)),
        tensor("wide", "BF16", &[48, 137], wide[..48 * 137 * 2].to_vec()),
        tensor("escapes", "BF16", &[64, 96], escapes),
        tensor("zeros", "BF16", &[32, 64], vec![0; 4096]),
        tensor("zeros.tied", "BF16", &[32, 64], vec![0; 4096]),
        tensor("zeros.turned", "BF16", &[64, 32], vec![0; 4096]),
        tensor("norm", "BF16", &[200], weights(400, 75)),
        tensor("low", "BF16", &[15, 300], weights(9000, 76)),
        tensor("cube", "BF16", &[2, 32, 64], weights(8192, 77)),
        tensor("noise", "BF16", &[48, 64], noise(6144, 78)),
        tensor("other", "F16", &[40, 64], weights(5120, 79)),
    ]
}

/// Ties across shards, to a matrix of the same shape and to one of another.
fn resident_folder() -> Vec<(&'static str, Vec<u8>)> {
    let matrix = |name, shape: [u64; 2], seed| tensor(name, "BF16", &shape, weights(9216, seed));
    vec![
        ("model-00001.safetensors", safetensors(vec![matrix("embed", [48, 96], 84), matrix("a", [96, 48], 85)])),
        ("model-00002.safetensors", safetensors(vec![matrix("b", [72, 64], 86), matrix("head", [48, 96], 84)])),
        ("model-00003.safetensors", safetensors(vec![matrix("turned", [96, 48], 84)])),
        ("config.json", b"{}\n".to_vec()),
    ]
}

/// Two groups of one tile each, the second filled up; the original is not kept.
fn groups() -> Vec<Tensor> {
    let (rows, cols) = (24, 16_416);
    let mut bytes = vec![0; 2 * rows * cols];
    for (row, seed) in [(0, 80), (15, 81), (16, 82), (23, 83)] {
        let end = 2 * (row + 1) * cols;
        bytes[end - 3000..end].copy_from_slice(&weights(3000, seed));
    }
    vec![tensor("w", "BF16", &[rows as u64, cols as u64], bytes)]
}

struct Tensor {
    name: String,
    dtype: &'static str,
    shape: Vec<u64>,
    bytes: Vec<u8>,
}

fn tensor(name: &str, dtype: &'static str, shape: &[u64], bytes: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dtype, shape: shape.to_vec(), bytes }
}

/// A file that holds the tensors in this order.
fn safetensors(tensors: Vec<Tensor>) -> Vec<u8> {
    let (mut rows, mut data) = (vec![r#""__metadata__":{"format":"pt"}"#.to_owned()], Vec::new());
    for Tensor { name, dtype, shape, bytes } in tensors {
        let start = data.len();
        data.extend(bytes);
        rows.push(format!(
            r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        ));
    }
    raw_file(&format!("{{{}}}", rows.join(",")), &data)
}

/// A file of this header and data.
fn raw_file(json: &str, data: &[u8]) -> Vec<u8> {
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), data].concat()
}

/// Marsaglia's xorshift64.
struct XorShift(u64);

impl XorShift {
    fn new(seed: u64) -> XorShift {
        XorShift(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
}

impl Iterator for XorShift {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Some(self.0)
    }
}

/// BF16 values with geometrically distributed exponents and a random sign and mantissa, cut to `n_bytes`.
fn weights(n_bytes: usize, seed: u64) -> Vec<u8> {
    let value = |bits: u64| (bits >> 32) as u16 & 0x807f | (122 - (bits.trailing_zeros() as u16).min(20)) << 7;
    XorShift::new(seed).flat_map(|bits| value(bits).to_le_bytes()).take(n_bytes).collect()
}

fn noise(n_bytes: usize, seed: u64) -> Vec<u8> {
    XorShift::new(seed).flat_map(u64::to_be_bytes).take(n_bytes).collect()
}

/// F32 values that hold these BF16 ones exactly.
fn widened(halves: &[u8]) -> Vec<u8> {
    halves.chunks_exact(2).flat_map(|half| [0, 0, half[0], half[1]]).collect()
}

/// F32 values whose top halves are these and whose lower halves are noise.
fn with_noise_below(halves: &[u8], seed: u64) -> Vec<u8> {
    let low = noise(halves.len(), seed);
    halves.chunks_exact(2).zip(low.chunks_exact(2)).flat_map(|(top, low)| [low[0], low[1], top[0], top[1]]).collect()
}
