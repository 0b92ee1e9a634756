//! Data sets: synthetic ones and the user's files, cut to a budget. Next in the flow: ours.rs.

use std::ops::Range;
use std::path::{Path, PathBuf};

use half::bf16;
use netweight_synth::{Kind, TensorRecipe, generate_recipes, recipe};
use netweight_tensor::Dtype;

use crate::options::{Error, Options};
use crate::safetensors;

/// Rows of a synthetic tensor are cut to a multiple of this, the block of the fp8 scales.
const ROW_MULTIPLE: u64 = 128;

/// Tensors back to back.
#[derive(Clone, Debug, Default)]
pub(crate) struct DataSet {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) segments: Vec<Segment>,
}

/// One tensor of a data set; never empty.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) dtype: Dtype,
    pub(crate) range: Range<usize>,
}

impl DataSet {
    pub(crate) fn push(&mut self, dtype: Dtype, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        // What is not a whole number of elements can only be taken as bytes.
        let whole = bytes.len().is_multiple_of(dtype.element_bytes());
        let dtype = if whole { dtype } else { Dtype::BYTES };
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.segments.push(Segment { dtype, range: start..self.bytes.len() });
    }
}

/// One data set to be made; making it late keeps one in memory at a time.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Synthetic(Kind),
    File { path: PathBuf, cast_bf16: bool },
}

/// All data sets that the options name, in order.
pub(crate) fn sources(options: &Options) -> Vec<Source> {
    let synthetic = options.synthetic.iter().map(|&kind| Source::Synthetic(kind));
    let casts: &[bool] = if options.cast_bf16 { &[false, true] } else { &[false] };
    let files = options
        .files
        .iter()
        .flat_map(|path| casts.iter().map(|&cast_bf16| Source::File { path: path.clone(), cast_bf16 }));
    synthetic.chain(files).collect()
}

/// Makes or reads a data set. `None`: a cast was asked for and there is nothing to cast.
///
/// # Errors
/// Those of reading files; [`Error::Empty`].
pub(crate) fn load(source: &Source, options: &Options) -> Result<Option<DataSet>, Error> {
    let data = match source {
        Source::Synthetic(kind) => synthetic(*kind, options),
        Source::File { path, cast_bf16: false } => from_file(path, options.budget_bytes)?,
        Source::File { path, cast_bf16: true } => {
            // The cast halves f32.
            let original = from_file(path, options.budget_bytes.saturating_mul(2))?;
            if original.segments.iter().all(|segment| segment.dtype.name() != "F32") {
                return Ok(None);
            }
            cast(&original)
        }
    };
    if data.bytes.is_empty() { Err(Error::Empty(data.name)) } else { Ok(Some(data)) }
}

fn synthetic(kind: Kind, options: &Options) -> DataSet {
    let recipes = recipe(&options.shapes);
    let weight_bytes = match kind {
        Kind::Fp8 => 1,
        Kind::Bf16 | Kind::F16 => 2,
        Kind::F32 => 4,
    };
    let n_weights: u64 = recipes.iter().map(|recipe| recipe.shape.iter().product::<u64>()).sum();
    let share = options.budget_bytes as f64 / (n_weights * weight_bytes) as f64;
    let cut: Vec<TensorRecipe> = recipes.into_iter().map(|recipe| cut_rows(recipe, share)).collect();
    let mut data = DataSet { name: format!("synthetic {}", kind.name()), ..DataSet::default() };
    for tensor in generate_recipes(kind, &cut, options.seed) {
        data.push(tensor.dtype, &tensor.bytes);
    }
    data
}

fn cut_rows(mut recipe: TensorRecipe, share: f64) -> TensorRecipe {
    if let [rows, _] = &mut recipe.shape[..] {
        let kept = (*rows as f64 * share) as u64 / ROW_MULTIPLE * ROW_MULTIPLE;
        *rows = kept.max(ROW_MULTIPLE).min(*rows);
    }
    recipe
}

fn from_file(path: &Path, budget_bytes: u64) -> Result<DataSet, Error> {
    let name = path.file_name().map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    let mut data = DataSet { name: name.into_owned(), ..DataSet::default() };
    safetensors::read(path, budget_bytes, |dtype, bytes| data.push(dtype, bytes))?;
    Ok(data)
}

fn cast(original: &DataSet) -> DataSet {
    let mut data = DataSet { name: format!("{} as bf16", original.name), ..DataSet::default() };
    for segment in &original.segments {
        let bytes = &original.bytes[segment.range.clone()];
        match segment.dtype.name() {
            "F32" => data.push(Dtype::from_name("BF16"), &f32_to_bf16(bytes)),
            _ => data.push(segment.dtype, bytes),
        }
    }
    data
}

fn f32_to_bf16(bytes: &[u8]) -> Vec<u8> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().flat_map(|&value| bf16::from_f32(f32::from_le_bytes(value)).to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_sets_keep_to_the_budget() {
        let options = Options { budget_bytes: 8 << 20, shapes: netweight_synth::Shapes::SMALL, ..Options::tiny() };
        for kind in Kind::ALL {
            let data = synthetic(kind, &options);
            let share = data.bytes.len() as f64 / options.budget_bytes as f64;
            assert!((0.7..1.01).contains(&share), "{}: {share}", data.name);
            assert!(data.segments.len() >= 11);
        }
    }

    #[test]
    fn casts_f32_only() {
        let mut original = DataSet::default();
        original.push(Dtype::from_name("F32"), &1.5f32.to_le_bytes());
        original.push(Dtype::from_name("U8"), &[7]);
        assert_eq!(cast(&original).bytes, [0xc0, 0x3f, 7]);
    }
}
