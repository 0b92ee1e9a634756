//! Tensors as bytes: rows of f32 weights rounded to the checkpoint's dtype, made in parallel, band by band.
//! Next in the flow: write.rs.

use half::{bf16, f16};
use netweight_tensor::{Dtype, n_bytes};
use rayon::prelude::*;

use crate::e4m3::{E4M3_MAX, e4m3_from_f32};
use crate::recipe::{Shapes, TensorRecipe, recipe};
use crate::row::Rows;

/// Rows and columns of the blocks that share a scale in [`Kind::Fp8`].
const SCALE_BLOCK: usize = 128;
/// Blocks of rows that are in memory at once.
const BLOCKS_PER_BAND: usize = 16;

/// What kind of checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// bf16, rounded to nearest even.
    Bf16,
    /// f16, rounded to nearest even.
    F16,
    /// f32, not rounded.
    F32,
    /// e4m3fn with an f32 scale for each 128 x 128 block that makes the block's largest magnitude 448, computed
    /// from the bf16 weights; norms stay bf16. The scales are a tensor `<name>_scale_inv`.
    Fp8,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 4] = [Kind::Bf16, Kind::F16, Kind::F32, Kind::Fp8];

    /// Name for people: `bf16`, `f16`, `f32`, `fp8`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Bf16 => "bf16",
            Kind::F16 => "f16",
            Kind::F32 => "f32",
            Kind::Fp8 => "fp8",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Name of the dtype, as safetensors spells it, of a tensor with that many dimensions.
    fn dtype_name(self, n_dimensions: usize) -> &'static str {
        match self {
            Kind::Fp8 if n_dimensions == 2 => "F8_E4M3",
            Kind::Bf16 | Kind::Fp8 => "BF16",
            Kind::F16 => "F16",
            Kind::F32 => "F32",
        }
    }
}

/// A tensor in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Name in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, rows first.
    pub shape: Vec<u64>,
    /// Little-endian elements in row order.
    pub bytes: Vec<u8>,
}

/// Name, dtype and shape of a tensor that is to be made.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<u64>,
    pub(crate) len_bytes: u64,
}

/// A checkpoint of that kind in memory, in file order.
pub fn generate(kind: Kind, shapes: &Shapes, seed: u64) -> Vec<Tensor> {
    generate_recipes(kind, &recipe(shapes), seed)
}

/// The tensors of `recipes` in memory, in that order; for sets that no [`Shapes`] describes.
pub fn generate_recipes(kind: Kind, recipes: &[TensorRecipe], seed: u64) -> Vec<Tensor> {
    recipes.iter().flat_map(|recipe| tensors_of(kind, recipe, seed)).collect()
}

fn tensors_of(kind: Kind, recipe: &TensorRecipe, seed: u64) -> Vec<Tensor> {
    let entries = entries(kind, recipe);
    let mut weights = Vec::with_capacity(entries[0].len_bytes as usize);
    let scales = stream(kind, recipe, seed, |band| {
        weights.extend_from_slice(band);
        Ok::<(), std::convert::Infallible>(())
    });
    let Ok(scales) = scales;
    let tensor = |(entry, bytes): (Entry, Vec<u8>)| {
        let Entry { name, dtype, shape, .. } = entry;
        Tensor { name, dtype, shape, bytes }
    };
    entries.into_iter().zip([weights, scales]).map(tensor).collect()
}

/// The tensors that a recipe becomes: the weights and, in FP8, their scales.
pub(crate) fn entries(kind: Kind, recipe: &TensorRecipe) -> Vec<Entry> {
    let entry = |name: String, dtype_name: &str, shape: Vec<u64>| {
        let dtype = Dtype::from_name(dtype_name);
        let len_bytes = n_bytes(dtype, &shape).expect("recipes are small");
        Entry { name, dtype, shape, len_bytes }
    };
    let weights = entry(recipe.name.clone(), kind.dtype_name(recipe.shape.len()), recipe.shape.clone());
    let mut entries = vec![weights];
    if kind == Kind::Fp8 && recipe.shape.len() == 2 {
        let shape = recipe.shape.iter().map(|dim| dim.div_ceil(SCALE_BLOCK as u64)).collect();
        entries.push(entry(format!("{}_scale_inv", recipe.name), "F32", shape));
    }
    entries
}

/// Gives the bytes of the weights to `sink`, band by band, and returns the bytes of the scales (none but in
/// FP8). Memory: 16 blocks of 128 rows as bytes, and one as f32 for each thread.
pub(crate) fn stream<E>(
    kind: Kind,
    recipe: &TensorRecipe,
    seed: u64,
    mut sink: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Vec<u8>, E> {
    let (n_rows, _) = recipe.rows_and_columns();
    let rows = Rows::new(recipe, seed);
    let block_starts: Vec<usize> = (0..n_rows).step_by(SCALE_BLOCK).collect();
    let mut scales = Vec::new();
    for band in block_starts.chunks(BLOCKS_PER_BAND) {
        let blocks: Vec<(Vec<u8>, Vec<u8>)> =
            band.par_iter().map(|&start| block(kind, recipe, &rows, start..n_rows.min(start + SCALE_BLOCK))).collect();
        for (weights, block_scales) in &blocks {
            sink(weights)?;
            scales.extend_from_slice(block_scales);
        }
    }
    Ok(scales)
}

/// The bytes of the weights of at most 128 rows, and of their scales.
fn block(kind: Kind, recipe: &TensorRecipe, rows: &Rows, range: std::ops::Range<usize>) -> (Vec<u8>, Vec<u8>) {
    let (_, n_columns) = recipe.rows_and_columns();
    let mut weights = vec![0.0f32; range.len() * n_columns]; // (n_rows of the block, n_columns)
    for (row_idx, row) in range.zip(weights.chunks_exact_mut(n_columns)) {
        rows.fill(row_idx as u64, row);
    }
    let bytes = match kind {
        Kind::Fp8 if recipe.shape.len() == 2 => return quantise_e4m3(&weights, n_columns),
        Kind::Bf16 | Kind::Fp8 => weights.iter().flat_map(|&w| bf16::from_f32(w).to_le_bytes()).collect(),
        Kind::F16 => weights.iter().flat_map(|&w| f16::from_f32(w).to_le_bytes()).collect(),
        Kind::F32 => weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
    };
    (bytes, Vec::new())
}

/// e4m3fn codes, (n_rows, n_columns), and f32 scales, (1, n_columns / 128 rounded up), of a block of rows.
fn quantise_e4m3(weights: &[f32], n_columns: usize) -> (Vec<u8>, Vec<u8>) {
    let weights: Vec<f32> = weights.iter().map(|&w| bf16::from_f32(w).to_f32()).collect();
    let mut scales = vec![0.0f32; n_columns.div_ceil(SCALE_BLOCK)];
    for row in weights.chunks_exact(n_columns) {
        for (scale, group) in scales.iter_mut().zip(row.chunks(SCALE_BLOCK)) {
            *scale = group.iter().fold(*scale, |largest, w| largest.max(w.abs()));
        }
    }
    scales.iter_mut().for_each(|scale| *scale = if *scale > 0.0 { *scale / E4M3_MAX } else { 1.0 });
    let mut codes = Vec::with_capacity(weights.len());
    for row in weights.chunks_exact(n_columns) {
        for (scale, group) in scales.iter().zip(row.chunks(SCALE_BLOCK)) {
            // The quotient of the largest weight can be rounded to just above 448; it still becomes 448.
            codes.extend(group.iter().map(|w| e4m3_from_f32(w / scale)));
        }
    }
    (codes, scales.iter().flat_map(|scale| scale.to_le_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::e4m3::e4m3_to_f32;

    fn bf16_of(bytes: &[u8]) -> Vec<f32> {
        bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
    }

    fn exponent_entropy_bits(tensors: &[Tensor]) -> f64 {
        let (mut bits, mut n) = (0.0, 0.0);
        for tensor in tensors {
            let mut counts = [0u32; 256];
            tensor.bytes.chunks_exact(2).for_each(|b| counts[usize::from(b[1] << 1 | b[0] >> 7)] += 1);
            let total = f64::from(counts.iter().sum::<u32>());
            bits -=
                counts.iter().filter(|&&c| c > 0).map(|&c| f64::from(c) * (f64::from(c) / total).log2()).sum::<f64>();
            n += total;
        }
        bits / n
    }

    #[test]
    fn bf16_exponents_have_the_entropy_of_trained_weights() {
        let entropy = exponent_entropy_bits(&generate(Kind::Bf16, &Shapes::SMALL, 1));
        println!("exponent entropy {entropy:.4} bits");
        assert!((2.55..2.75).contains(&entropy), "{entropy}");
    }

    #[test]
    fn kinds_are_roundings_of_one_set_of_weights() {
        let f32_set = generate(Kind::F32, &Shapes::TINY, 3);
        let bf16_set = generate(Kind::Bf16, &Shapes::TINY, 3);
        for (exact, rounded) in f32_set.iter().zip(&bf16_set) {
            let expected: Vec<u8> = (exact.bytes.chunks_exact(4))
                .flat_map(|b| bf16::from_f32(f32::from_le_bytes([b[0], b[1], b[2], b[3]])).to_le_bytes())
                .collect();
            assert_eq!(rounded.bytes, expected, "{}", exact.name);
        }
        assert_ne!(bf16_set, generate(Kind::Bf16, &Shapes::TINY, 4));
    }

    #[test]
    fn fp8_is_near_the_bf16_weights() {
        let fp8 = generate(Kind::Fp8, &Shapes::TINY, 3);
        let bf16_set = generate(Kind::Bf16, &Shapes::TINY, 3);
        let get = |name: &str| fp8.iter().find(|tensor| tensor.name == name).unwrap();
        let (name, n_columns) = ("model.layers.0.mlp.down_proj.weight", 512);
        let (codes, scales) = (get(name), get(&format!("{name}_scale_inv")));
        assert_eq!((codes.dtype.name(), scales.shape.as_slice()), ("F8_E4M3", &[1, 4][..]));
        assert!(
            codes.bytes.iter().any(|code| code & 0x7f == 0x7e) && codes.bytes.iter().all(|code| code & 0x7f != 0x7f)
        );
        let weights = bf16_of(&bf16_set.iter().find(|tensor| tensor.name == name).unwrap().bytes);
        for (idx, (&code, weight)) in codes.bytes.iter().zip(weights).enumerate() {
            let at = idx % n_columns / 128 * 4;
            let scale = f32::from_le_bytes(scales.bytes[at..at + 4].try_into().unwrap());
            let error = (e4m3_to_f32(code) * scale - weight).abs();
            assert!(error <= weight.abs() / 16.0 + scale / 1024.0, "{idx}: {error} of {weight}");
        }
    }

    #[test]
    fn fewer_rows_are_a_prefix() {
        let all = generate(Kind::Bf16, &Shapes::TINY, 1);
        let cut = generate(Kind::Bf16, &Shapes { vocabulary: 300, ..Shapes::TINY }, 1);
        assert_eq!(cut[0].bytes, all[0].bytes[..cut[0].bytes.len()]);
    }
}
