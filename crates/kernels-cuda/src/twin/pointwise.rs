//! Element by element.

use super::math;
use crate::launch::Activation;

/// `x * factor`
pub fn scale(x: f32, factor: f32) -> f32 {
    x * factor
}

/// `out + x`
pub fn add(out: f32, x: f32) -> f32 {
    out + x
}

/// `cap * tanh(x / cap)`
pub fn softcap(x: f32, cap: f32) -> f32 {
    cap * math::tanh(x / cap)
}

/// `activation(gate) * up`
pub fn gate(activation: Activation, gate: f32, up: f32) -> f32 {
    let activated = match activation {
        Activation::Silu => math::silu(gate),
        Activation::GeluTanh => math::gelu_tanh(gate),
        Activation::GeluErf => math::gelu_erf(gate),
    };
    activated * up
}

/// `out + weight * x`, product and sum rounded each.
pub fn add_scaled(out: f32, weight: f32, x: f32) -> f32 {
    out + weight * x
}
