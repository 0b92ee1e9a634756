//! The loops of `portable.rs`, compiled for wider registers: nothing is written by hand here, the compiler is
//! only told what the CPU can do.

macro_rules! compiled_for {
    ($module:ident, $available:path, $features:literal, $($name:ident($($arg:ident: $type:ty),*) $(-> $out:ty)?;)*) => {
        pub(super) mod $module {
            use crate::kernels::Range;
            use crate::kernels::portable;
            $(
                #[doc = concat!("`portable::", stringify!($name), "`.")]
                #[allow(dead_code)]
                pub(crate) fn $name($($arg: $type),*) $(-> $out)? {
                    #[target_feature(enable = $features)]
                    fn compiled($($arg: $type),*) $(-> $out)? {
                        portable::$name($($arg),*)
                    }
                    assert!($available());
                    // SAFETY: the CPU has the features, checked on the line above.
                    unsafe { compiled($($arg),*) }
                }
            )*
        }
    };
}

macro_rules! all_for {
    ($module:ident, $available:path, $features:literal) => {
        compiled_for! { $module, $available, $features,
            window(values: &[u16], range: Range, symbols: &mut [u8], escapes: &mut [u16]) -> usize;
            widen(symbols: &[u8], base: u16, escape: Option<u8>, escapes: &[u16], values: &mut [u16]) -> usize;
            split_half(element_bytes: usize, k: u32, raw: &[u8], low: &mut [u8], field: &mut [u16]);
            join_half(k: u32, planes: &[&[u8]], low: &[u8], field: &[u16], raw: &mut [u8]);
            split_bytes(element_bytes: usize, idx: usize, raw: &[u8], plane: &mut [u8]);
            join_bytes(planes: &[&[u8]], raw: &mut [u8]);
            split_sign(raw: &[u8], sign: &mut [u8], rest: &mut [u8]);
            join_sign(sign: &[u8], rest: &[u8], raw: &mut [u8]);
        }
    };
}

all_for!(avx2, crate::rans8::avx2::available, "avx2,bmi2");
all_for!(avx512, crate::rans8::avx512::available, "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,bmi2");
