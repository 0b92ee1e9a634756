//! The kernels: encoding and decoding of whole cells, one table row for each instruction set. The scalar files are the definition; a
//! test holds every other row to their bytes.
//!
//! Which row runs is decided once, by what the CPU can do. The environment variable `NETWEIGHT_ISA` (`scalar`, `avx2`,
//! `avx512`; `amx` means `avx512` here) picks a slower one for measuring.

use crate::escapes::ReadNibbles;
use crate::exact::{DecodeExact, EncodeExact};
use crate::plain::EncodePlain;
use crate::wide::Extremes;
use crate::{escapes, exact11, exact12, plain, wide};
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_decode;

/// One spelling of every kernel.
pub(crate) struct Kernels {
    pub(crate) name: &'static str,
    pub(crate) available: fn() -> bool,
    pub(crate) f32: EncodePlain,
    pub(crate) f16: EncodePlain,
    pub(crate) bf16: EncodePlain,
    pub(crate) exact11: EncodeExact,
    pub(crate) exact12: EncodeExact,
    pub(crate) decode_exact11: DecodeExact,
    pub(crate) decode_exact12: DecodeExact,
    pub(crate) read_nibbles: ReadNibbles,
    pub(crate) extremes: Extremes,
}

static SCALAR: Kernels = Kernels {
    name: "scalar",
    available: || true,
    f32: plain::encode_f32,
    f16: plain::encode_f16,
    bf16: plain::encode_bf16,
    exact11: exact11::encode,
    exact12: exact12::encode,
    decode_exact11: exact11::decode,
    decode_exact12: exact12::decode,
    read_nibbles: escapes::read_nibbles,
    extremes: wide::extremes,
};

#[cfg(target_arch = "x86_64")]
static AVX2: Kernels = Kernels {
    name: "avx2",
    available: avx2::available,
    f32: avx2::encode_f32,
    f16: avx2::encode_f16,
    bf16: avx2::encode_bf16,
    exact11: avx2::encode_exact11,
    exact12: avx2::encode_exact12,
    decode_exact11: exact11::decode,
    decode_exact12: exact12::decode,
    read_nibbles: escapes::read_nibbles,
    extremes: avx2::extremes,
};

#[cfg(target_arch = "x86_64")]
static AVX512: Kernels = Kernels {
    name: "avx512",
    available: avx512::available,
    f32: avx512::encode_f32,
    f16: avx512::encode_f16,
    bf16: avx512::encode_bf16,
    exact11: avx512::encode_exact11,
    exact12: avx512::encode_exact12,
    decode_exact11: avx512_decode::decode_exact11,
    decode_exact12: avx512_decode::decode_exact12,
    read_nibbles: avx512_decode::read_nibbles,
    extremes: avx512::extremes,
};

/// Every row, slowest first.
static ALL: &[&Kernels] = &[
    &SCALAR,
    #[cfg(target_arch = "x86_64")]
    &AVX2,
    #[cfg(target_arch = "x86_64")]
    &AVX512,
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
        let wanted = wanted.as_deref().map(|name| if name == "amx" { "avx512" } else { name });
        let named = available().find(|kernels| Some(kernels.name) == wanted);
        named.or_else(|| available().last()).unwrap_or(&SCALAR)
    })
}
