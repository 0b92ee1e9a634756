//! [`Lanes`] in NEON, four registers a vector. See `lanes.rs` for what goes in and out; next: `lanes/math.rs`.
//!
//! A value of [`Neon`] is made by `run` alone, whose contract says that the machine has the feature: that is why calling
//! an intrinsic beside it is sound.

use half::f16;
use std::arch::aarch64::*;

use super::{Body, Lanes, N_LANES};

/// Features of the row `neon`.
#[derive(Clone, Copy)]
pub(super) struct Neon(());

/// # Safety
/// The machine has NEON.
#[target_feature(enable = "neon")]
pub(super) unsafe fn run<B: Body>(body: B) -> B::Output {
    body.run(Neon(()))
}

/// Registers of a vector.
const N_PARTS: usize = 4;

type Floats = [float32x4_t; N_PARTS];
type Ints = [int32x4_t; N_PARTS];

/// An intrinsic, or an expression of several, beside a value of a type of this file.
macro_rules! with_features {
    ($expression:expr) => {
        // SAFETY: `self` proves that the machine has the feature; loads and stores are of four lanes of sixteen.
        unsafe { $expression }
    };
}

/// The pointer to four lanes of sixteen.
#[inline(always)]
fn part_at<T>(x: &[T; N_LANES], part: usize) -> *const T {
    x[4 * part..].as_ptr()
}

#[inline(always)]
fn each<T>(part: impl FnMut(usize) -> T) -> [T; N_PARTS] {
    std::array::from_fn(part)
}

impl Lanes for Neon {
    type F = Floats;
    type I = Ints;
    const N_REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        each(|_| with_features!(vdupq_n_f32(x)))
    }

    #[inline(always)]
    fn load(self, x: &[f32; N_LANES]) -> Floats {
        each(|part| with_features!(vld1q_f32(part_at(x, part))))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; N_LANES]) -> Floats {
        self.load(&x.map(|bits| f16::from_bits(bits).to_f32()))
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; N_LANES]) -> Floats {
        each(|part| with_features!(vreinterpretq_f32_u32(vshll_n_u16::<16>(vld1_u16(part_at(x, part))))))
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut [f32; N_LANES]) {
        for (part, lanes) in to.as_chunks_mut::<4>().0.iter_mut().enumerate() {
            with_features!(vst1q_f32(lanes.as_mut_ptr(), x[part]));
        }
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vaddq_f32(a[part], b[part])))
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vsubq_f32(a[part], b[part])))
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vmulq_f32(a[part], b[part])))
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vdivq_f32(a[part], b[part])))
    }

    #[inline(always)]
    fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
        each(|part| with_features!(vfmaq_f32(c[part], a[part], b[part])))
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vbslq_f32(vcgtq_f32(a[part], b[part]), a[part], b[part])))
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        each(|part| with_features!(vbslq_f32(vcltq_f32(a[part], b[part]), a[part], b[part])))
    }

    #[inline(always)]
    fn zero_below(self, x: Floats, limit: Floats, value: Floats) -> Floats {
        let zero = self.splat(0.0);
        each(|part| with_features!(vbslq_f32(vcltq_f32(x[part], limit[part]), zero[part], value[part])))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        each(|_| with_features!(vdupq_n_s32(x)))
    }

    #[inline(always)]
    fn bits(self, x: Floats) -> Ints {
        each(|part| with_features!(vreinterpretq_s32_f32(x[part])))
    }

    #[inline(always)]
    fn floats(self, x: Ints) -> Floats {
        each(|part| with_features!(vreinterpretq_f32_s32(x[part])))
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        each(|part| with_features!(vaddq_s32(a[part], b[part])))
    }

    #[inline(always)]
    fn sub_int(self, a: Ints, b: Ints) -> Ints {
        each(|part| with_features!(vsubq_s32(a[part], b[part])))
    }

    #[inline(always)]
    fn half_int(self, x: Ints) -> Ints {
        each(|part| with_features!(vshrq_n_s32::<1>(x[part])))
    }

    #[inline(always)]
    fn exponent(self, x: Ints) -> Floats {
        each(|part| with_features!(vreinterpretq_f32_s32(vshlq_n_s32::<23>(x[part]))))
    }
}
