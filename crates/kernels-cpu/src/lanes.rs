//! Sixteen f32 side by side. Goes in: a [`Body`], arithmetic written once over [`Lanes`]. Comes out: that body compiled
//! for each instruction set, and [`Isa::dispatch`], which runs the one for an [`Isa`]. Next: `lanes/math.rs`.
//!
//! Every operation rounds each lane as IEEE 754 says, and nothing is reordered, so all sets give the same bits, those
//! of [`Scalar`]. (NaNs stay NaNs; which of the many is not promised.)

use half::{bf16, f16};

use crate::isa::{Isa, Kind};

pub(crate) mod math;
#[cfg(target_arch = "aarch64")]
#[allow(unsafe_code)]
mod neon;
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
mod x86;

/// Lanes of a vector.
pub(crate) const N_LANES: usize = 16;

/// An instruction set's way to compute with vectors of 16 lanes. A value of a type with this trait exists only inside
/// a function that has the type's features.
pub(crate) trait Lanes: Copy {
    /// 16 lanes of f32.
    type F: Copy;
    /// 16 lanes of i32.
    type I: Copy;
    /// Vectors that fit into registers at once: what a blocked loop plans with.
    const N_REGISTERS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; N_LANES]) -> Self::F;
    /// Widens 16 numbers in IEEE half precision.
    fn load_f16(self, x: &[u16; N_LANES]) -> Self::F;
    /// Widens 16 numbers in bfloat16.
    fn load_bf16(self, x: &[u16; N_LANES]) -> Self::F;
    /// Asks for the cache line at an address, which may be anything: nothing is read.
    fn prefetch<T>(self, _address: *const T) {}
    fn store(self, x: Self::F, to: &mut [f32; N_LANES]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`, so that a NaN in `b` stays.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`, so that a NaN in `b` stays.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if x < limit { 0.0 } else { value }`.
    fn zero_below(self, x: Self::F, limit: Self::F, value: Self::F) -> Self::F;

    fn splat_int(self, x: i32) -> Self::I;
    fn bits(self, x: Self::F) -> Self::I;
    fn floats(self, x: Self::I) -> Self::F;
    /// Wrapping.
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Wrapping.
    fn sub_int(self, a: Self::I, b: Self::I) -> Self::I;
    /// Half, rounded down.
    fn half_int(self, x: Self::I) -> Self::I;
    /// The float whose exponent field is `x`: `x << 23` as bits.
    fn exponent(self, x: Self::I) -> Self::F;
}

/// Arithmetic to be compiled for every instruction set. `run` must be `#[inline(always)]`, and so must what it calls
/// with `lanes`: only then is it compiled with the features of the set.
pub(crate) trait Body {
    /// What comes out.
    type Output;
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

impl Isa {
    /// Runs a body as it was compiled for this instruction set.
    #[inline]
    #[cfg_attr(target_arch = "x86_64", allow(unsafe_code))]
    #[cfg_attr(target_arch = "aarch64", allow(unsafe_code))]
    pub(crate) fn dispatch<B: Body>(self, body: B) -> B::Output {
        match self.kind() {
            // SAFETY: the machine has the features of an `Isa` that exists.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 | Kind::Amx => unsafe { x86::run_avx512(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => unsafe { x86::run_avx2(body) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Kind::Neon => unsafe { neon::run(body) },
            _ => body.run(Scalar),
        }
    }
}

/// The definition.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type Floats = [f32; N_LANES];
type Ints = [i32; N_LANES];

#[inline(always)]
fn zip<T: Copy, U>(a: [T; N_LANES], b: [T; N_LANES], f: impl Fn(T, T) -> U) -> [U; N_LANES] {
    std::array::from_fn(|lane| f(a[lane], b[lane]))
}

impl Lanes for Scalar {
    type F = Floats;
    type I = Ints;
    const N_REGISTERS: usize = 8;

    #[inline(always)]
    fn splat(self, x: f32) -> Floats {
        [x; N_LANES]
    }

    #[inline(always)]
    fn load(self, x: &Floats) -> Floats {
        *x
    }

    #[inline(always)]
    fn load_f16(self, x: &[u16; N_LANES]) -> Floats {
        x.map(|bits| f16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; N_LANES]) -> Floats {
        x.map(|bits| bf16::from_bits(bits).to_f32())
    }

    #[inline(always)]
    fn store(self, x: Floats, to: &mut Floats) {
        *to = x;
    }

    #[inline(always)]
    fn add(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a + b)
    }

    #[inline(always)]
    fn sub(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a - b)
    }

    #[inline(always)]
    fn mul(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a * b)
    }

    #[inline(always)]
    fn div(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| a / b)
    }

    #[inline(always)]
    fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }

    #[inline(always)]
    fn max(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a > b { a } else { b })
    }

    #[inline(always)]
    fn min(self, a: Floats, b: Floats) -> Floats {
        zip(a, b, |a, b| if a < b { a } else { b })
    }

    #[inline(always)]
    fn zero_below(self, x: Floats, limit: Floats, value: Floats) -> Floats {
        std::array::from_fn(|lane| if x[lane] < limit[lane] { 0.0 } else { value[lane] })
    }

    #[inline(always)]
    fn splat_int(self, x: i32) -> Ints {
        [x; N_LANES]
    }

    #[inline(always)]
    fn bits(self, x: Floats) -> Ints {
        x.map(|x| x.to_bits() as i32)
    }

    #[inline(always)]
    fn floats(self, x: Ints) -> Floats {
        x.map(|x| f32::from_bits(x as u32))
    }

    #[inline(always)]
    fn add_int(self, a: Ints, b: Ints) -> Ints {
        zip(a, b, i32::wrapping_add)
    }

    #[inline(always)]
    fn sub_int(self, a: Ints, b: Ints) -> Ints {
        zip(a, b, i32::wrapping_sub)
    }

    #[inline(always)]
    fn half_int(self, x: Ints) -> Ints {
        x.map(|x| x >> 1)
    }

    #[inline(always)]
    fn exponent(self, x: Ints) -> Floats {
        x.map(|x| f32::from_bits((x as u32) << 23))
    }
}

#[cfg(test)]
mod tests;
