//! Rotary position embedding.

/// Rotates one head: `x[j], x[j + h] = x[j] c[j] - x[j + h] s[j], x[j + h] c[j] + x[j] s[j]`, every operation rounded.
/// `angles` are `h` cosines `c`, then as many sines `s`; dimensions from `2 h` on stay.
pub fn rope(x: &mut [f32], angles: &[f32]) {
    let half = angles.len() / 2;
    for pair in 0..half {
        let (a, b, cosine, sine) = (x[pair], x[half + pair], angles[pair], angles[half + pair]);
        x[pair] = a * cosine - b * sine;
        x[half + pair] = b * cosine + a * sine;
    }
}
