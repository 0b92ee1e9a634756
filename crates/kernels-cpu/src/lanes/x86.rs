//! [`Lanes`] in AVX2 with FMA and F16C, two registers a vector, and in AVX-512, one. See `lanes.rs` for what goes in
//! and out; next: `lanes/math.rs`.
//!
//! A value of [`Avx2`] or [`Avx512`] is made by `run_avx2` or `run_avx512` alone, which say in their contracts that the
//! machine has the features: that is why calling an intrinsic beside such a value is sound. The methods are inlined
//! into those functions, where the intrinsics are single instructions.

use std::arch::x86_64::*;

use super::{Body, Lanes, N_LANES};

/// Features of the row `avx512`.
#[derive(Clone, Copy)]
pub(super) struct Avx512(());

/// Features of the row `avx2`.
#[derive(Clone, Copy)]
pub(super) struct Avx2(());

/// # Safety
/// The machine has the features named below.
#[target_feature(enable = "avx2,fma,f16c,bmi2,popcnt,avx512f,avx512bw,avx512vl,avx512dq")]
pub(super) unsafe fn run_avx512<B: Body>(body: B) -> B::Output {
    body.run(Avx512(()))
}

/// # Safety
/// The machine has the features named below.
#[target_feature(enable = "avx2,fma,f16c,bmi2,popcnt")]
pub(super) unsafe fn run_avx2<B: Body>(body: B) -> B::Output {
    body.run(Avx2(()))
}

/// An intrinsic, or an expression of several, beside a value of a type of this file.
macro_rules! with_features {
    ($expression:expr) => {
        // SAFETY: `self` proves that the machine has the features; loads and stores are of references to 16 lanes;
        // a prefetch reads nothing.
        unsafe { $expression }
    };
}

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    const N_REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        with_features!(_mm512_set1_ps(x))
    }

    #[inline(always)]
    fn load(self, x: &[f32; N_LANES]) -> __m512 {
        with_features!(_mm512_loadu_ps(x.as_ptr()))
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; N_LANES]) -> __m512 {
        with_features!(_mm512_cvtph_ps(_mm256_loadu_si256(x.as_ptr().cast())))
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; N_LANES]) -> __m512 {
        with_features!({
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        })
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        with_features!(_mm_prefetch::<_MM_HINT_T0>(address.cast()))
    }

    #[inline(always)]
    fn store(self, x: __m512, to: &mut [f32; N_LANES]) {
        with_features!(_mm512_storeu_ps(to.as_mut_ptr(), x))
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_add_ps(a, b))
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_sub_ps(a, b))
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_mul_ps(a, b))
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_div_ps(a, b))
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        with_features!(_mm512_fmadd_ps(a, b, c))
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_max_ps(a, b))
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        with_features!(_mm512_min_ps(a, b))
    }

    #[inline(always)]
    fn zero_below(self, x: __m512, limit: __m512, value: __m512) -> __m512 {
        with_features!(_mm512_maskz_mov_ps(_mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, limit), value))
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> __m512i {
        with_features!(_mm512_set1_epi32(x))
    }

    #[inline(always)]
    fn bits(self, x: __m512) -> __m512i {
        with_features!(_mm512_castps_si512(x))
    }

    #[inline(always)]
    fn floats(self, x: __m512i) -> __m512 {
        with_features!(_mm512_castsi512_ps(x))
    }

    #[inline(always)]
    fn add_int(self, a: __m512i, b: __m512i) -> __m512i {
        with_features!(_mm512_add_epi32(a, b))
    }

    #[inline(always)]
    fn sub_int(self, a: __m512i, b: __m512i) -> __m512i {
        with_features!(_mm512_sub_epi32(a, b))
    }

    #[inline(always)]
    fn half_int(self, x: __m512i) -> __m512i {
        with_features!(_mm512_srai_epi32::<1>(x))
    }

    #[inline(always)]
    fn exponent(self, x: __m512i) -> __m512 {
        with_features!(_mm512_castsi512_ps(_mm512_slli_epi32::<23>(x)))
    }
}

type Floats = [__m256; 2];
type Ints = [__m256i; 2];

/// The pointer to eight lanes of sixteen.
#[inline(always)]
fn half_at<T>(x: &[T; N_LANES], half: usize) -> *const T {
    x[8 * half..].as_ptr()
}

/// Sixteen 16-bit numbers, eight and eight.
///
/// # Safety
/// The machine has SSE2, as every x86-64 has.
#[inline(always)]
unsafe fn load_halves(x: &[u16; N_LANES]) -> [__m128i; 2] {
    // SAFETY: each load reads 8 of the 16 numbers.
    unsafe { [_mm_loadu_si128(half_at(x, 0).cast()), _mm_loadu_si128(half_at(x, 1).cast())] }
}

impl Lanes for Avx2 {
    type F = Floats;
    type I = Ints;
    const N_REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        [with_features!(_mm256_set1_ps(x)); 2]
    }

    #[inline(always)]
    fn load(self, x: &[f32; N_LANES]) -> Floats {
        [with_features!(_mm256_loadu_ps(half_at(x, 0))), with_features!(_mm256_loadu_ps(half_at(x, 1)))]
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; N_LANES]) -> Floats {
        let [low, high] = with_features!(load_halves(x));
        [with_features!(_mm256_cvtph_ps(low)), with_features!(_mm256_cvtph_ps(high))]
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; N_LANES]) -> Floats {
        let [low, high] = with_features!(load_halves(x));
        self.floats([
            with_features!(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(low))),
            with_features!(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(high))),
        ])
    }

    #[inline(always)]
    fn prefetch<T>(self, address: *const T) {
        with_features!(_mm_prefetch::<_MM_HINT_T0>(address.cast()))
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut [f32; N_LANES]) {
        let (low, high) = to.split_at_mut(8);
        with_features!(_mm256_storeu_ps(low.as_mut_ptr(), x[0]));
        with_features!(_mm256_storeu_ps(high.as_mut_ptr(), x[1]));
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_add_ps(a[0], b[0])), with_features!(_mm256_add_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_sub_ps(a[0], b[0])), with_features!(_mm256_sub_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_mul_ps(a[0], b[0])), with_features!(_mm256_mul_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_div_ps(a[0], b[0])), with_features!(_mm256_div_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
        [with_features!(_mm256_fmadd_ps(a[0], b[0], c[0])), with_features!(_mm256_fmadd_ps(a[1], b[1], c[1]))]
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_max_ps(a[0], b[0])), with_features!(_mm256_max_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        [with_features!(_mm256_min_ps(a[0], b[0])), with_features!(_mm256_min_ps(a[1], b[1]))]
    }

    #[inline(always)]
    fn zero_below(self, x: Floats, limit: Floats, value: Floats) -> Floats {
        [
            with_features!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[0], limit[0]), value[0])),
            with_features!(_mm256_and_ps(_mm256_cmp_ps::<_CMP_NLT_UQ>(x[1], limit[1]), value[1])),
        ]
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        [with_features!(_mm256_set1_epi32(x)); 2]
    }

    #[inline(always)]
    fn bits(self, x: Floats) -> Ints {
        [with_features!(_mm256_castps_si256(x[0])), with_features!(_mm256_castps_si256(x[1]))]
    }

    #[inline(always)]
    fn floats(self, x: Ints) -> Floats {
        [with_features!(_mm256_castsi256_ps(x[0])), with_features!(_mm256_castsi256_ps(x[1]))]
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        [with_features!(_mm256_add_epi32(a[0], b[0])), with_features!(_mm256_add_epi32(a[1], b[1]))]
    }

    #[inline(always)]
    fn sub_int(self, a: Ints, b: Ints) -> Ints {
        [with_features!(_mm256_sub_epi32(a[0], b[0])), with_features!(_mm256_sub_epi32(a[1], b[1]))]
    }

    #[inline(always)]
    fn half_int(self, x: Ints) -> Ints {
        [with_features!(_mm256_srai_epi32::<1>(x[0])), with_features!(_mm256_srai_epi32::<1>(x[1]))]
    }

    #[inline(always)]
    fn exponent(self, x: Ints) -> Floats {
        self.floats([with_features!(_mm256_slli_epi32::<23>(x[0])), with_features!(_mm256_slli_epi32::<23>(x[1]))])
    }
}
