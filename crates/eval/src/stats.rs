//! Means with their standard errors, and quantiles. Goes in: a number per token. Comes out: a [`Summary`].

/// What a list of numbers looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// How many.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Standard error of the mean, from the means of blocks of neighbours; `NaN` with fewer than two blocks.
    pub standard_error: f64,
    /// Half are at most this.
    pub median: f64,
    /// Nine in ten are at most this.
    pub p90: f64,
    /// 99 in a hundred are at most this.
    pub p99: f64,
    /// 999 in a thousand are at most this.
    pub p999: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Summary {
    /// Of `values`, whose neighbours in blocks of `block` may depend on each other (tokens of one window do).
    /// `block` is at least 1; an empty list gives zeros and a standard error of `NaN`.
    pub fn of(values: &[f64], block: usize) -> Summary {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (mean, standard_error) = mean_and_error(values, block);
        Summary {
            n: values.len(),
            mean,
            standard_error,
            median: quantile(&sorted, 0.5),
            p90: quantile(&sorted, 0.9),
            p99: quantile(&sorted, 0.99),
            p999: quantile(&sorted, 0.999),
            min: sorted.first().copied().unwrap_or(0.0),
            max: sorted.last().copied().unwrap_or(0.0),
        }
    }
}

/// The mean, and its standard error by the ratio estimator over blocks (Cochran, Sampling Techniques, section 6.3):
/// with blocks of `m_i` values and sums `s_i`, var = B / (B - 1) * sum((s_i - mean * m_i)^2) / n^2.
pub fn mean_and_error(values: &[f64], block: usize) -> (f64, f64) {
    let n = values.len();
    if n == 0 {
        return (0.0, f64::NAN);
    }
    let mean = values.iter().sum::<f64>() / n as f64;
    let blocks = values.chunks(block.max(1));
    let n_blocks = blocks.len();
    if n_blocks < 2 {
        return (mean, f64::NAN);
    }
    let squares: f64 = blocks.map(|block| block.iter().map(|value| value - mean).sum::<f64>().powi(2)).sum();
    let factor = n_blocks as f64 / (n_blocks - 1) as f64;
    (mean, (factor * squares).sqrt() / n as f64)
}

/// The smallest value that at least a share `q` of the values does not exceed. `sorted` ascends.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn independent_values_give_the_textbook_error() {
        let values = [1.0, 2.0, 3.0, 4.0];
        let (mean, error) = mean_and_error(&values, 1);
        assert_eq!(mean, 2.5);
        assert!((error - (5.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-12, "{error}");
    }

    #[test]
    fn neighbours_that_agree_count_once() {
        let repeated: Vec<f64> = (0..40).map(|i| f64::from(i / 10)).collect();
        let (_, alone) = mean_and_error(&[0.0, 1.0, 2.0, 3.0], 1);
        let (_, in_blocks) = mean_and_error(&repeated, 10);
        assert!((alone - in_blocks).abs() < 1e-12);
        assert!(mean_and_error(&repeated, 1).1 < alone / 2.0);
    }

    #[test]
    fn quantiles_are_values_of_the_list() {
        let values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        let summary = Summary::of(&values, 1);
        assert_eq!((summary.median, summary.p90, summary.p99, summary.p999), (500.0, 900.0, 990.0, 999.0));
        assert_eq!((summary.min, summary.max), (1.0, 1000.0));
        assert!(Summary::of(&[], 1).standard_error.is_nan());
        assert!(Summary::of(&[3.0], 8).standard_error.is_nan());
    }
}
