//! Which tensors a checkpoint has and how their weights are distributed. Next in the flow: row.rs.

/// How the weights of a tensor are distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// `0.45 + 0.08 * normal`: what the scales of a norm look like.
    Norm,
    /// `sigma * exp(row_spread * normal) * exp(column_spread * normal) * t`, with `t` a Student-t variable of
    /// `nu` degrees of freedom (more than 2) scaled to variance 1.
    Linear {
        /// Standard deviation before the scales.
        sigma: f32,
        /// Standard deviation of the logarithm of the row scales.
        row_spread: f32,
        /// Standard deviation of the logarithm of the column scales.
        column_spread: f32,
        /// Degrees of freedom.
        nu: f32,
    },
}

/// One tensor to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorRecipe {
    /// Name in the checkpoint; the weights depend on it.
    pub name: String,
    /// One or two dimensions, rows first.
    pub shape: Vec<u64>,
    /// Distribution of the weights.
    pub distribution: Distribution,
}

impl TensorRecipe {
    /// (n_rows, n_columns); a tensor of one dimension is one row.
    pub fn rows_and_columns(&self) -> (usize, usize) {
        match self.shape[..] {
            [columns] => (1, columns as usize),
            [rows, columns] => (rows as usize, columns as usize),
            _ => panic!("recipes have one or two dimensions"),
        }
    }
}

/// Dimensions of a Llama-like decoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shapes {
    /// Hidden size.
    pub hidden: u64,
    /// Size of the feed-forward layer.
    pub feed_forward: u64,
    /// Rows of the key and value projections.
    pub key_value: u64,
    /// Rows of the embedding.
    pub vocabulary: u64,
    /// How often the layer is repeated; each repetition has its own weights.
    pub layers: u64,
}

impl Shapes {
    /// One layer of Llama-3.1-8B and a cut embedding: 252 M weights.
    pub const LLAMA_8B: Shapes =
        Shapes { hidden: 4096, feed_forward: 14336, key_value: 1024, vocabulary: 8192, layers: 1 };
    /// A quarter of that in each dimension: 16 M weights.
    pub const SMALL: Shapes = Shapes { hidden: 1024, feed_forward: 3584, key_value: 256, vocabulary: 2048, layers: 1 };
    /// For tests: 0.4 M weights.
    pub const TINY: Shapes = Shapes { hidden: 128, feed_forward: 512, key_value: 128, vocabulary: 1024, layers: 1 };

    /// The same with another number of layers.
    pub const fn with_layers(self, layers: u64) -> Shapes {
        Shapes { layers, ..self }
    }
}

fn linear(name: String, rows: u64, columns: u64, sigma: f32, spreads: (f32, f32), nu: f32) -> TensorRecipe {
    let (row_spread, column_spread) = spreads;
    let distribution = Distribution::Linear { sigma, row_spread, column_spread, nu };
    TensorRecipe { name, shape: vec![rows, columns], distribution }
}

fn norm(name: String, hidden: u64) -> TensorRecipe {
    TensorRecipe { name, shape: vec![hidden], distribution: Distribution::Norm }
}

/// The tensors of a checkpoint of those shapes, in file order.
pub fn recipe(shapes: &Shapes) -> Vec<TensorRecipe> {
    let Shapes { hidden: h, feed_forward: f, key_value: kv, vocabulary: v, layers } = *shapes;
    let mut tensors = vec![linear("model.embed_tokens.weight".into(), v, h, 0.0110, (0.20, 0.15), 30.0)];
    for layer_idx in 0..layers {
        let name = |part: &str| format!("model.layers.{layer_idx}.{part}.weight");
        tensors.extend([
            norm(name("input_layernorm"), h),
            linear(name("mlp.down_proj"), h, f, 0.0100, (0.10, 0.18), 20.0),
            linear(name("mlp.gate_proj"), f, h, 0.0140, (0.20, 0.15), 15.0),
            linear(name("mlp.up_proj"), f, h, 0.0115, (0.15, 0.10), 25.0),
            norm(name("post_attention_layernorm"), h),
            linear(name("self_attn.k_proj"), kv, h, 0.0300, (0.40, 0.20), 8.0),
            linear(name("self_attn.o_proj"), h, h, 0.0110, (0.12, 0.30), 15.0),
            linear(name("self_attn.q_proj"), h, h, 0.0220, (0.40, 0.20), 8.0),
            linear(name("self_attn.v_proj"), kv, h, 0.0100, (0.15, 0.10), 25.0),
        ]);
    }
    tensors.push(norm("model.norm.weight".into(), h));
    tensors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        let check = |shapes: Shapes, n_tensors: usize, n_weights: u64| {
            let tensors = recipe(&shapes);
            assert_eq!(tensors.len(), n_tensors);
            let total: u64 = tensors.iter().map(|tensor| tensor.shape.iter().product::<u64>()).sum();
            assert_eq!(total, n_weights, "{shapes:?}");
        };
        check(Shapes::LLAMA_8B, 11, 251_670_528);
        check(Shapes::LLAMA_8B.with_layers(2), 20, 469_782_528);
        check(Shapes::SMALL, 11, 15_731_712);
        check(Shapes::TINY, 11, 393_600);
    }
}
