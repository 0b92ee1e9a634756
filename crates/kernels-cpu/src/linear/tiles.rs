//! Intel's tile registers, by inline assembly: stable Rust has no intrinsics for them. Goes in: addresses of 16 lines
//! of 64 bytes. Next in the flow: none. Names follow the Intel SDM, volume 2.
//!
//! Registers tmm0 to tmm5 have as many rows as there are tokens, up to 16: sums, and activations. tmm6 and tmm7 have
//! 16 rows, one for each pair of columns: weights. All rows are 64 bytes. The compiler never uses these registers
//! itself, so that what one function leaves in them is there for the next.

use crate::input::{Line, WORD_TOKENS};
use std::arch::asm;
use std::sync::OnceLock;

/// Tokens that a register has room for.
pub(crate) const WORD_TOKENS_PER_TILE: usize = WORD_TOKENS;

/// Tiles are configured while this lives, on this thread.
pub(crate) struct Config(());

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Palette([u8; 64]);

impl Config {
    /// Configures this thread's tiles for 1 to 16 tokens.
    pub(crate) fn load(n_tokens: usize) -> Config {
        assert!((1..=WORD_TOKENS).contains(&n_tokens) && is_ready());
        let mut palette = Palette([0; 64]);
        palette.0[0] = 1;
        for tmm in 0..8 {
            palette.0[16 + 2 * tmm] = 64;
            palette.0[48 + tmm] = if tmm < 6 { n_tokens as u8 } else { 16 };
        }
        // SAFETY: the CPU has tiles and the system lets us use them, checked above; 64 bytes are read.
        unsafe { asm!("ldtilecfg [{}]", in(reg) palette.0.as_ptr(), options(nostack, readonly)) };
        Config(())
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: tiles are configured. Nothing uses them after this; the system need not save them any more.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// `tmm = 0`.
///
/// # Safety
/// Tiles are configured, as for all that follow.
#[inline(always)]
pub(crate) unsafe fn zero<const TMM: usize>() {
    // SAFETY: as the caller says.
    unsafe { asm!("tilezero tmm{tmm}", tmm = const TMM, options(nostack, nomem, preserves_flags)) };
}

/// Reads the rows of a register, 64 bytes each, one after the other.
///
/// # Safety
/// There are as many bytes at `from`.
#[inline(always)]
pub(crate) unsafe fn load<const TMM: usize>(from: *const u8) {
    // SAFETY: as the caller says.
    unsafe {
        asm!("tileloadd tmm{tmm}, [{from} + {stride}]", tmm = const TMM, from = in(reg) from, stride = in(reg) 64usize,
            options(nostack, readonly, preserves_flags));
    }
}

/// Writes the rows of a register.
///
/// # Safety
/// There is room for as many bytes at `to`.
#[inline(always)]
pub(crate) unsafe fn store<const TMM: usize>(to: *mut u8) {
    // SAFETY: as the caller says.
    unsafe {
        asm!("tilestored [{to} + {stride}], tmm{tmm}", tmm = const TMM, to = in(reg) to, stride = in(reg) 64usize,
            options(nostack, preserves_flags));
    }
}

/// TDPBF16PS: adds to each (token, row) of `SUMS` the products of one cell, as scalar.rs defines it.
///
/// # Safety
/// See [`zero`].
#[inline(always)]
pub(crate) unsafe fn add_products<const SUMS: usize, const X: usize, const WEIGHTS: usize>() {
    // SAFETY: as the caller says.
    unsafe {
        asm!("tdpbf16ps tmm{sums}, tmm{x}, tmm{weights}", sums = const SUMS, x = const X, weights = const WEIGHTS,
            options(nostack, nomem, preserves_flags));
    }
}

/// TDPBSSD: adds to each (token, row) of `SUMS` the products of a run of 64 int8, summed exactly.
///
/// # Safety
/// See [`zero`].
#[inline(always)]
pub(crate) unsafe fn add_integer_products<const SUMS: usize, const X: usize, const WEIGHTS: usize>() {
    // SAFETY: as the caller says.
    unsafe {
        asm!("tdpbssd tmm{sums}, tmm{x}, tmm{weights}", sums = const SUMS, x = const X, weights = const WEIGHTS,
            options(nostack, nomem, preserves_flags));
    }
}

/// Whether this CPU has tiles of bf16, the system lets this process use them, and they compute what scalar.rs
/// defines: that is not in the manual word for word, so it is tried out, once in a process.
pub(crate) fn is_exact() -> bool {
    static IS_EXACT: OnceLock<bool> = OnceLock::new();
    *IS_EXACT.get_or_init(|| is_ready() && (0..N_TRIALS).all(is_cell_exact))
}

fn is_ready() -> bool {
    crate::isa::has_tiles()
}

/// Cells of 16 tokens: half a million sums, in a few milliseconds.
const N_TRIALS: u64 = 2048;

/// One cell of random weights and activations, of magnitudes that occur and of the extremes that are allowed.
fn is_cell_exact(trial: u64) -> bool {
    let mut state = (trial + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u32
    };
    // Exponents are those from 2^-lowest on; every fourth trial has the least and the greatest of them.
    let mut bf16 = |lowest: u32| -> u16 {
        let bits = random();
        let exponent = match trial % 4 {
            0 => 127 - lowest + bits % (2 * lowest),
            1 => 127 - bits % 4,
            2 => 120 - bits % 12,
            _ => 127 - lowest + bits % 24,
        };
        let is_zero = bits >> 8 & 15 == 0;
        (bits >> 16 & 0x807f) as u16 | if is_zero { 0 } else { (exponent << 7) as u16 }
    };
    let mut x = [Line([0u16; 32]); 16];
    let mut weights = [Line([0u16; 32]); 16];
    let mut sums = [Line([0f32; 16]); 16];
    x.iter_mut().flat_map(|line| &mut line.0).for_each(|x| *x = normal_or_zero(bf16(48)));
    weights.iter_mut().flat_map(|line| &mut line.0).for_each(|weight| *weight = normal_or_zero(bf16(62)));
    sums.iter_mut().flat_map(|line| &mut line.0).for_each(|sum| *sum = widen(normal_or_zero(bf16(60))));
    let expected = std::array::from_fn::<_, 256, _>(|idx| {
        let (token, row) = (idx / 16, idx % 16);
        let mut chains = [0.0f32; 2];
        for col in 0..32 {
            let weight = widen(weights[col / 2].0[2 * row + col % 2]);
            chains[col % 2] = weight.mul_add(widen(x[token].0[col]), chains[col % 2]);
        }
        sums[token].0[row] + (chains[0] + chains[1])
    });
    let _config = Config::load(16);
    // SAFETY: tiles are configured on the line above; all three have 16 lines.
    unsafe {
        load::<0>(sums.as_ptr().cast());
        load::<4>(x.as_ptr().cast());
        load::<6>(weights.as_ptr().cast());
        add_products::<0, 4, 6>();
        store::<0>(sums.as_mut_ptr().cast());
    }
    sums.iter().flat_map(|line| line.0).zip(expected).all(|(sum, expected)| sum.to_bits() == expected.to_bits())
}

/// 0 of either sign in place of a subnormal.
fn normal_or_zero(bits: u16) -> u16 {
    if bits & 0x7f80 == 0 { bits & 0x8000 } else { bits }
}

fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_compute_the_definition() {
        if !is_ready() {
            println!("skipped: no AMX");
            return;
        }
        for trial in 0..N_TRIALS {
            assert!(is_cell_exact(trial), "trial {trial}");
        }
    }
}
