//! The body is in the library.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| (netweight_fuzz::by_name("refinement_forged").run)(input));
