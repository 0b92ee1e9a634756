//! A tuned matrix: small integers times a step for each row and one for each column. Goes in: a [`Grid`], or one row of
//! it. Comes out: bf16 values, and back. Every other spelling of these values is held to the functions here.

/// The largest step.
pub const MAX_STEP: f32 = (1u64 << 60) as f32;
/// The least step, 0 aside.
pub const MIN_STEP: f32 = 1.0 / MAX_STEP;

/// A matrix whose weights are `row_steps[i] * (col_steps[j] * indices[i][j])`, rounded to bf16.
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// The integers.
    pub indices: Vec<i8>, // (rows, cols)
    /// Steps that [`is_step`] allows.
    pub row_steps: Vec<f32>, // (rows)
    /// Steps that [`is_step`] allows.
    pub col_steps: Vec<f32>, // (cols)
}

/// Why a grid was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GridError {
    /// No rows or columns, or more than memory has.
    Shape,
    /// As many indices or steps as the shape does not have.
    Lengths,
    /// A step that [`is_step`] does not allow: the row's, by its index.
    RowStep(usize),
    /// A step that [`is_step`] does not allow: the column's, by its index.
    ColStep(usize),
}

impl std::fmt::Display for GridError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let what = "is no step: a value of bf16 precision, 0 or from 2^-60 to 2^60";
        match self {
            GridError::Shape => write!(f, "a grid without rows or columns"),
            GridError::Lengths => write!(f, "a grid of other indices or steps than its shape has"),
            GridError::RowStep(row) => write!(f, "the step of row {row} {what}"),
            GridError::ColStep(col) => write!(f, "the step of column {col} {what}"),
        }
    }
}

impl std::error::Error for GridError {}

/// Whether a grid may have that step: 0, or from 2^-60 to 2^60, and of bf16 precision. So no value overflows and none is
/// subnormal.
pub fn is_step(step: f32) -> bool {
    let is_in_range = step.to_bits() == 0 || (MIN_STEP..=MAX_STEP).contains(&step);
    is_in_range && step.to_bits() & 0xffff == 0
}

impl Grid {
    /// Checks lengths and steps; any index will do.
    ///
    /// # Errors
    /// What is wrong first.
    pub fn check(&self) -> Result<(), GridError> {
        let n_indices = self.rows.checked_mul(self.cols).filter(|&n| n > 0).ok_or(GridError::Shape)?;
        if (self.indices.len(), self.row_steps.len(), self.col_steps.len()) != (n_indices, self.rows, self.cols) {
            return Err(GridError::Lengths);
        }
        let bad = |steps: &[f32]| steps.iter().position(|&step| !is_step(step));
        if let Some(row) = bad(&self.row_steps) {
            return Err(GridError::RowStep(row));
        }
        bad(&self.col_steps).map_or(Ok(()), |col| Err(GridError::ColStep(col)))
    }

    /// The value of a weight, as bf16 bits.
    ///
    /// # Panics
    /// Where there is no such weight.
    pub fn value(&self, row: usize, col: usize) -> u16 {
        value_of(self.row_steps[row], self.col_steps[col], self.indices[row * self.cols + col])
    }

    /// All values, as bf16 bits, (rows, cols).
    pub fn dequantize(&self) -> Vec<u16> {
        let mut values = vec![0; self.indices.len()];
        let rows = values.chunks_exact_mut(self.cols).zip(self.indices.chunks_exact(self.cols));
        for ((values, indices), &row_step) in rows.zip(&self.row_steps) {
            for ((value, &index), &col_step) in values.iter_mut().zip(indices).zip(&self.col_steps) {
                *value = value_of(row_step, col_step, index);
            }
        }
        values
    }

    /// The grid with these steps whose values are nearest to `weights`, (rows, cols): round-to-nearest. Indices are -127
    /// to 127; where a step is 0 they are 0.
    ///
    /// # Panics
    /// Where the lengths do not fit each other.
    pub fn nearest(weights: &[f32], row_steps: Vec<f32>, col_steps: Vec<f32>) -> Grid {
        let (rows, cols) = (row_steps.len(), col_steps.len());
        assert_eq!(weights.len(), rows * cols);
        let mut indices = Vec::with_capacity(weights.len());
        for (weights, row_step) in weights.chunks_exact(cols.max(1)).zip(&row_steps) {
            indices
                .extend(weights.iter().zip(&col_steps).map(|(weight, col_step)| nearest(*weight, row_step * col_step)));
        }
        Grid { rows, cols, indices, row_steps, col_steps }
    }
}

fn nearest(weight: f32, step: f32) -> i8 {
    if step == 0.0 { 0 } else { (weight / step).round_ties_even().clamp(-127.0, 127.0) as i8 }
}

/// The value of an index, as bf16 bits. The product of two steps and an index has at most 23 significant bits: it is
/// exact in f32, and rounded once, to the nearest, ties to even. There is no -0.
#[inline]
pub fn value_of(row_step: f32, col_step: f32, index: i8) -> u16 {
    let bits = (row_step * (col_step * f32::from(index)) + 0.0).to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// The index of a value, as bf16 bits: the reverse of [`value_of`], which no rounding hides, since values are wrong by at
/// most a 256th. 0 where the steps' product is 0. What no index has as its value gives some other index.
#[inline]
pub fn index_of(row_step: f32, col_step: f32, value: u16) -> i8 {
    let step = row_step * col_step;
    let index = (f32::from_bits(u32::from(value) << 16) / step).round_ties_even();
    // 0 / 0 is not a number, which becomes 0.
    index as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(value: f32) -> f32 {
        f32::from_bits(value.to_bits() & 0xffff_0000)
    }

    #[test]
    fn values() {
        let check = |row_step: f32, col_step: f32, index: i8, expected: f32| {
            let found = f32::from_bits(u32::from(value_of(row_step, col_step, index)) << 16);
            assert_eq!(found.to_bits(), expected.to_bits(), "{row_step} {col_step} {index}: {found}");
        };
        check(0.5, 2.0, 3, 3.0);
        check(0.5, 2.0, -128, -128.0);
        check(1.0, 1.0, 0, 0.0);
        check(0.0, 1.0, -5, 0.0);
        // 1.0078125 * 127 = 127.9921875 lies nearest to 128; 1.0078125 * 65 = 65.5078125 to 65.5.
        check(1.0078125, 1.0, 127, 128.0);
        check(1.0, 1.0078125, 65, 65.5);
        // A tie goes to the even one: 1.5 * 87 = 130.5 to 130, 1.5 * 89 = 133.5 to 134.
        check(1.5, 1.0, 87, 130.0);
        check(1.5, 1.0, 89, 134.0);
        check(MAX_STEP, MAX_STEP, -128, -(2f32.powi(127)));
        check(MIN_STEP, MIN_STEP, 1, 2f32.powi(-120));
    }

    /// Steps of every mantissa and far exponents, and every index.
    #[test]
    fn indices_come_back() {
        for mantissas in 0..1u32 << 14 {
            for exponents in [(127, 127), (67, 67), (186, 186), (120, 90)] {
                let step = |exponent: u32, mantissa: u32| f32::from_bits(exponent << 23 | (mantissa & 0x7f) << 16);
                let (row_step, col_step) = (step(exponents.0, mantissas), step(exponents.1, mantissas >> 7));
                assert!(is_step(row_step) && is_step(col_step));
                for index in [-128, -127, -126, -113, -64, -63, -3, -1, 0, 1, 2, 31, 63, 64, 65, 100, 126, 127] {
                    assert_eq!(index_of(row_step, col_step, value_of(row_step, col_step, index)), index);
                }
            }
        }
        for index in -128..=127 {
            assert_eq!(index_of(0.25, 1.5, value_of(0.25, 1.5, index)), index);
        }
        assert_eq!(index_of(0.0, 1.0, value_of(0.0, 1.0, 5)), 0);
    }

    #[test]
    fn steps() {
        for step in [0.0, 1.0, 0.0078125, MIN_STEP, MAX_STEP] {
            assert!(is_step(step), "{step}");
        }
        let more = [-0.0, -1.0, MIN_STEP / 2.0, MAX_STEP * 2.0, f32::INFINITY, f32::NAN, 0.1, 1e-40];
        assert!(more.into_iter().all(|step| !is_step(step)));
    }

    #[test]
    fn grids_are_checked() {
        let grid = Grid { rows: 2, cols: 3, indices: vec![1; 6], row_steps: vec![1.0; 2], col_steps: vec![0.5; 3] };
        assert_eq!(grid.check(), Ok(()));
        let check = |change: fn(&mut Grid), expected: GridError| {
            let mut changed = grid.clone();
            change(&mut changed);
            assert_eq!(changed.check(), Err(expected));
        };
        check(|grid| grid.rows = 0, GridError::Shape);
        check(|grid| grid.rows = usize::MAX, GridError::Shape);
        check(|grid| grid.rows = 3, GridError::Lengths);
        check(|grid| _ = grid.indices.pop(), GridError::Lengths);
        check(|grid| _ = grid.row_steps.pop(), GridError::Lengths);
        check(|grid| grid.row_steps[1] = -1.0, GridError::RowStep(1));
        check(|grid| grid.col_steps[2] = f32::NAN, GridError::ColStep(2));
    }

    #[test]
    fn nearest_values() {
        let weights: Vec<f32> = (0..40 * 70).map(|idx| ((idx * 7919 % 1000) as f32 / 500.0 - 1.0) * 0.1).collect();
        let row_steps: Vec<f32> = (0..40).map(|row| bf16(0.1 / 127.0 * (1.0 + row as f32 / 40.0))).collect();
        let col_steps: Vec<f32> =
            (0..70).map(|col| if col == 7 { 0.0 } else { bf16(1.0 + col as f32 / 70.0) }).collect();
        let grid = Grid::nearest(&weights, row_steps, col_steps);
        grid.check().unwrap();
        let values = grid.dequantize();
        for row in 0..40 {
            for col in 0..70 {
                let value = grid.value(row, col);
                assert_eq!(values[row * 70 + col], value);
                let (value, step) = (f32::from_bits(u32::from(value) << 16), grid.row_steps[row] * grid.col_steps[col]);
                let weight = weights[row * 70 + col];
                // Half a step, and the rounding of the value.
                assert!((value - weight).abs() <= 0.501 * step + weight.abs() / 250.0 || col == 7, "{value} {weight}");
            }
        }
    }
}
