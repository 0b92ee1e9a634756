//! The likeliest token.

/// The index of the greatest value, the lowest among equals; `None` where one is a NaN or +Inf, or all are -Inf.
pub fn likeliest(x: &[f32]) -> Option<u32> {
    if x.iter().any(|value| value.is_nan() || *value == f32::INFINITY) {
        return None;
    }
    let better = |best: usize, next: usize| if x[next] > x[best] { next } else { best };
    let best = (0..x.len()).reduce(better)?;
    (x[best] > f32::NEG_INFINITY).then_some(best as u32)
}
