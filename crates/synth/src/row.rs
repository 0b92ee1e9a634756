//! The weights of one row in f32, from a random generator that is seeded for that row. Next in the flow:
//! tensor.rs, which rounds them.

use rand::SeedableRng;
use rand_distr::{Distribution as _, Gamma, StandardNormal};
use rand_xoshiro::Xoshiro256PlusPlus;

use crate::recipe::{Distribution, TensorRecipe};

/// Row index that the column scales are drawn under; no tensor has that many rows.
const COLUMN_SCALES: u64 = u64::MAX;

/// Makes the rows of one tensor.
pub(crate) struct Rows<'a> {
    recipe: &'a TensorRecipe,
    seed: u64,
    column_scales: Vec<f32>, // (n_columns,), empty for norms
}

impl<'a> Rows<'a> {
    /// Draws the column scales.
    pub(crate) fn new(recipe: &'a TensorRecipe, seed: u64) -> Rows<'a> {
        let column_scales = match recipe.distribution {
            Distribution::Norm => Vec::new(),
            Distribution::Linear { column_spread, .. } => {
                let mut rng = generator(seed, &recipe.name, COLUMN_SCALES);
                let n_columns = recipe.rows_and_columns().1;
                (0..n_columns).map(|_| (column_spread * normal(&mut rng)).exp()).collect()
            }
        };
        Rows { recipe, seed, column_scales }
    }

    /// Fills `row`, (n_columns,), with the weights of row `row_idx`.
    pub(crate) fn fill(&self, row_idx: u64, row: &mut [f32]) {
        let mut rng = generator(self.seed, &self.recipe.name, row_idx);
        match self.recipe.distribution {
            Distribution::Norm => row.fill_with(|| 0.45 + 0.08 * normal(&mut rng)),
            Distribution::Linear { sigma, row_spread, nu, .. } => {
                let row_scale = sigma * (row_spread * normal(&mut rng)).exp();
                let gamma = Gamma::new(nu / 2.0, 1.0f32).expect("nu is positive");
                // t has variance nu / (nu - 2); the root of the inverse, times the root of nu / 2 that turns a
                // gamma variable into a chi-squared one per degree of freedom.
                let scale = row_scale * ((nu - 2.0) / 2.0).sqrt();
                for (weight, column_scale) in row.iter_mut().zip(&self.column_scales) {
                    *weight = normal(&mut rng) * (scale * column_scale) / gamma.sample(&mut rng).sqrt();
                }
            }
        }
    }
}

fn normal(rng: &mut Xoshiro256PlusPlus) -> f32 {
    StandardNormal.sample(rng)
}

/// A generator whose stream is a function of the three arguments: FNV-1a over them seeds it.
fn generator(seed: u64, name: &str, row_idx: u64) -> Xoshiro256PlusPlus {
    let bytes = seed.to_le_bytes().into_iter().chain(row_idx.to_le_bytes()).chain(name.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    Xoshiro256PlusPlus::seed_from_u64(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments() {
        let recipe = TensorRecipe {
            name: "t".into(),
            shape: vec![64, 4096],
            distribution: Distribution::Linear { sigma: 0.01, row_spread: 0.0, column_spread: 0.0, nu: 8.0 },
        };
        let rows = Rows::new(&recipe, 1);
        let mut row = vec![0.0; 4096];
        let (mut second, mut fourth) = (0.0, 0.0);
        for row_idx in 0..64 {
            rows.fill(row_idx, &mut row);
            second += row.iter().map(|&w| f64::from(w / 0.01).powi(2)).sum::<f64>() / row.len() as f64 / 64.0;
            fourth += row.iter().map(|&w| f64::from(w / 0.01).powi(4)).sum::<f64>() / row.len() as f64 / 64.0;
        }
        assert!((second - 1.0).abs() < 0.02, "variance {second}");
        // A t variable with nu = 8 has kurtosis 3 + 6 / (nu - 4) = 4.5.
        assert!((3.9..5.4).contains(&(fourth / second / second)), "kurtosis {}", fourth / second / second);
    }

    #[test]
    fn streams_differ_by_seed_name_and_row() {
        let recipe = |name: &str| TensorRecipe { name: name.into(), shape: vec![8], distribution: Distribution::Norm };
        let check = |seed: u64, name: &str, row_idx: u64| {
            let mut row = [0.0f32; 8];
            Rows::new(&recipe(name), seed).fill(row_idx, &mut row);
            row.map(f32::to_bits)
        };
        let base = check(1, "a", 0);
        assert_eq!(base, check(1, "a", 0));
        for other in [check(2, "a", 0), check(1, "b", 0), check(1, "a", 1)] {
            assert_ne!(base, other);
        }
    }
}
