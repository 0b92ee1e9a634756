//! The kernels: arithmetic over slices that cannot fail and allocates nothing, one table row for each
//! instruction set. `scalar` is the definition; a test holds every other row to its bytes.
//!
//! Which row runs is decided once, by what the CPU can do. The environment variable `NETWEIGHT_ISA`
//! (`scalar`, `avx2`, `avx512`, `neon`) picks a slower one for measuring.

use crate::{rans8, rans12};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod portable;
#[cfg(target_arch = "x86_64")]
mod wide;

/// One spelling of every kernel.
pub(crate) struct Kernels {
    pub name: &'static str,
    pub available: fn() -> bool,
    pub rans8_decode: rans8::DecodeSteps,
    pub rans8_join: rans8::JoinSteps,
    pub rans8_encode: rans8::EncodeSteps,
    pub rans12_decode: rans12::DecodeSteps,
    pub rans12_encode: rans12::EncodeSteps,
    pub pack: Pack,
    pub unpack: Unpack,
    pub window: Window,
    pub widen: Widen,
    pub split_half: SplitHalf,
    pub join_half: JoinHalf,
    pub split_bytes: SplitBytes,
    pub join_bytes: JoinBytes,
    pub split_sign: SplitSign,
    pub join_sign: JoinSign,
    pub prefetch: Prefetch,
}

/// `(bits, values, packed)`: eight values of `bits` <= 8 bits make `bits` bytes, the first value lowest.
/// `values.len()` is a multiple of 8 and `packed` has `values.len() / 8 * bits` bytes.
pub(crate) type Pack = fn(u32, &[u8], &mut [u8]);
/// `(bits, packed, values)`: the reverse of [`Pack`].
pub(crate) type Unpack = fn(u32, &[u8], &mut [u8]);
/// `(values, range, symbols, escapes)`: values to symbols; values outside the range get `range.escape` and are
/// appended, in order, to `escapes`, which has room for all and [`crate::escapes::SLACK`] more. Returns how
/// many escapes there were.
pub(crate) type Window = fn(&[u16], Range, &mut [u8], &mut [u16]) -> usize;
/// `(symbols, base, escape, escapes, values)`: `values[i] = symbols[i] + base`, wrapping, or the next of `escapes`
/// where the symbol is `escape`. Returns how many escapes it wanted, 0 standing in for any that were not there.
pub(crate) type Widen = fn(&[u8], u16, Option<u8>, &[u16], &mut [u16]) -> usize;
/// `(element_bytes, k, raw, low, field)`: the top 16 bits of each element (docs/format.md section 4).
pub(crate) type SplitHalf = fn(usize, u32, &[u8], &mut [u8], &mut [u16]);
/// `(k, planes, low, field, raw)`: the reverse of [`SplitHalf`], with the elements' other bytes in `planes`.
pub(crate) type JoinHalf = fn(u32, &[&[u8]], &[u8], &[u16], &mut [u8]);
/// `(element_bytes, idx, raw, plane)`: byte `idx` of each element.
pub(crate) type SplitBytes = fn(usize, usize, &[u8], &mut [u8]);
/// `(planes, raw)`: element `i` is byte `i` of each plane.
pub(crate) type JoinBytes = fn(&[&[u8]], &mut [u8]);
/// `(raw, sign, rest)`: the top bit and the other seven of each byte.
pub(crate) type SplitSign = fn(&[u8], &mut [u8], &mut [u8]);
/// `(sign, rest, raw)`: the reverse of [`SplitSign`].
pub(crate) type JoinSign = fn(&[u8], &[u8], &mut [u8]);

/// Asks for memory that will be read soon.
pub(crate) type Prefetch = fn(&[u8]);

/// The values that [`Window`] gives symbols: `base..base + n_symbols`.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub base: u16,
    pub n_symbols: u16,
    pub escape: u8,
}

static SCALAR: Kernels = Kernels {
    name: "scalar",
    available: || true,
    rans8_decode: rans8::scalar::decode_steps,
    rans8_join: |_, _, _, _, _| 0,
    rans8_encode: rans8::scalar::encode_steps,
    rans12_decode: rans12::scalar::decode_steps,
    rans12_encode: rans12::scalar::encode_steps,
    pack: portable::pack,
    unpack: portable::unpack,
    window: portable::window,
    widen: portable::widen,
    split_half: portable::split_half,
    join_half: portable::join_half,
    split_bytes: portable::split_bytes,
    join_bytes: portable::join_bytes,
    split_sign: portable::split_sign,
    join_sign: portable::join_sign,
    prefetch: |_| (),
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    name: "avx2",
    available: rans8::avx2::available,
    rans8_decode: rans8::avx2::decode_steps,
    rans8_join: rans8::avx2::join_steps,
    rans8_encode: rans8::avx2::encode_steps,
    rans12_decode: rans12::avx2::decode_steps,
    rans12_encode: rans12::avx2::encode_steps,
    pack: avx2::pack,
    unpack: avx2::unpack,
    window: wide::avx2::window,
    widen: wide::avx2::widen,
    split_half: wide::avx2::split_half,
    join_half: wide::avx2::join_half,
    split_bytes: wide::avx2::split_bytes,
    join_bytes: wide::avx2::join_bytes,
    split_sign: wide::avx2::split_sign,
    join_sign: wide::avx2::join_sign,
    prefetch: avx2::prefetch,
};

#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels {
    name: "avx512",
    available: rans8::avx512::available,
    rans8_decode: rans8::avx512::decode_steps,
    rans8_join: rans8::avx512::join_steps,
    rans8_encode: rans8::avx512::encode_steps,
    rans12_decode: rans12::avx512::decode_steps,
    rans12_encode: rans12::avx512::encode_steps,
    pack: avx512::pack,
    unpack: avx512::unpack,
    window: avx512::window,
    widen: wide::avx512::widen,
    split_half: wide::avx512::split_half,
    join_half: wide::avx512::join_half,
    split_bytes: wide::avx512::split_bytes,
    join_bytes: wide::avx512::join_bytes,
    split_sign: wide::avx512::split_sign,
    join_sign: wide::avx512::join_sign,
    prefetch: avx2::prefetch,
};

#[cfg(target_arch = "aarch64")]
static NEON: Kernels = Kernels {
    name: "neon",
    available: rans8::neon::available,
    rans8_decode: rans8::neon::decode_steps,
    rans8_join: rans8::neon::join_steps,
    rans8_encode: rans8::neon::encode_steps,
    rans12_decode: rans12::neon::decode_steps,
    ..SCALAR
};

/// Every row, slowest first.
static ALL: &[&Kernels] = &[
    &SCALAR,
    #[cfg(target_arch = "x86_64")]
    &AVX2,
    #[cfg(target_arch = "x86_64")]
    &AVX512,
    #[cfg(target_arch = "aarch64")]
    &NEON,
];

/// The rows that this CPU can run, slowest first.
pub(crate) fn available() -> impl Iterator<Item = &'static Kernels> {
    ALL.iter().copied().filter(|kernels| (kernels.available)())
}

/// The fastest row that this CPU can run, or the one that `NETWEIGHT_ISA` names.
pub(crate) fn best() -> &'static Kernels {
    static BEST: OnceLock<&'static Kernels> = OnceLock::new();
    BEST.get_or_init(|| {
        let wanted = std::env::var("NETWEIGHT_ISA").ok();
        let named = available().find(|kernels| Some(kernels.name) == wanted.as_deref());
        named.or_else(|| available().last()).unwrap_or(&SCALAR)
    })
}
