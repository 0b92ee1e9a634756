//! The greatest of a row.

/// The index of the greatest value, the lowest among equals; a NaN is less than everything. 0 of NaNs alone.
pub fn argmax(x: &[f32]) -> u32 {
    let mut best: Option<usize> = None;
    for (idx, value) in x.iter().enumerate().filter(|(_, value)| !value.is_nan()) {
        if best.is_none_or(|best| *value > x[best]) {
            best = Some(idx);
        }
    }
    best.unwrap_or(0) as u32
}
