//! How many bits a weight takes in the exact layouts: bounds on a trained model and on synthetic weights of the shapes
//! of Llama-3.1-8B, headers, tables and padding counted.

use netweight_container::{Header, InputFile};
use netweight_layout::{Histogram, Layout, Matrix};
use netweight_synth::{Kind, Shapes, generate_recipes, recipe};
use std::path::Path;

/// Most bits of a weight, over all matrices of a set together.
const BOUNDS: [(Layout, f64); 2] = [(Layout::Exact11, 11.2), (Layout::Exact12, 12.1)];
/// Rows that are made of each synthetic matrix; they stand for all of its rows.
const MAX_ROWS: usize = 512;

/// A matrix and how many weights it stands for.
struct Weights {
    name: String,
    rows: usize,
    cols: usize,
    n_weights: f64,
    bytes: Vec<u8>, // (rows, cols) bf16
}

/// Prints bits by tensor, and holds the sum to the bounds.
fn check(set: &str, weights: &[Weights]) {
    for (layout, bound) in BOUNDS {
        let (mut sum_bits, mut sum_weights) = (0.0, 0.0);
        for Weights { name, rows, cols, n_weights, bytes } in weights {
            let matrix = Matrix::encode(layout, *rows, *cols, bytes).unwrap();
            let bits = matrix.len_bytes() as f64 * 8.0 / (rows * cols) as f64;
            let mut histogram = Histogram::default();
            histogram.count(*cols, *rows, bytes);
            let expected = histogram.bits_per_weight(layout);
            println!("{set} {} {name} ({rows}, {cols}): {bits:.4}, by histogram {expected:.4}", layout.name());
            assert!((bits - expected).abs() < 0.1, "what a loader decides by is wrong");
            sum_bits += bits * n_weights;
            sum_weights += n_weights;
        }
        let bits = sum_bits / sum_weights;
        println!("{set} {}: {bits:.4} bits a weight", layout.name());
        assert!(bits <= bound, "{bits} > {bound}");
    }
}

#[test]
fn bundled_model() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm/model.safetensors");
    let file = InputFile::open(&path).unwrap();
    let (header, _) = Header::read(&file).unwrap();
    let matrices = header.tensors.iter().filter(|tensor| tensor.shape.len() == 2).map(|tensor| {
        let (rows, cols) = (tensor.shape[0] as usize, tensor.shape[1] as usize);
        let bytes = file.read_vec(header.header_bytes + tensor.start, tensor.len_bytes()).unwrap();
        Weights { name: tensor.name.clone(), rows, cols, n_weights: (rows * cols) as f64, bytes }
    });
    check("bookworm", &matrices.collect::<Vec<_>>());
}

#[test]
fn llama_8b_shapes() {
    let mut recipes = recipe(&Shapes::LLAMA_8B);
    recipes.retain(|recipe| recipe.shape.len() == 2);
    let n_weights: Vec<f64> = recipes.iter().map(|recipe| recipe.shape.iter().product::<u64>() as f64).collect();
    recipes.iter_mut().for_each(|recipe| recipe.shape[0] = recipe.shape[0].min(MAX_ROWS as u64));
    let tensors = generate_recipes(Kind::Bf16, &recipes, 1);
    let matrices = tensors.into_iter().zip(n_weights).map(|(tensor, n_weights)| {
        let (rows, cols) = (tensor.shape[0] as usize, tensor.shape[1] as usize);
        Weights { name: tensor.name, rows, cols, n_weights, bytes: tensor.bytes }
    });
    check("llama 8b", &matrices.collect::<Vec<_>>());
}
