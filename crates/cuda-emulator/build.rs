//! Compiles the kernels and the emulator for this machine, as one unit.

fn main() {
    let (kernels, emulator) = ("../kernels-cuda/cu", "cpp");
    println!("cargo::rerun-if-changed={kernels}");
    println!("cargo::rerun-if-changed={emulator}");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .file(format!("{emulator}/emulator.cpp"))
        .include(kernels)
        .include(emulator)
        .define("NETWEIGHT_EMULATOR", None)
        .flag("-ffp-contract=off") // a fused multiply-add only where a kernel says so, as on the GPU
        .flag("-Wno-unused-function")
        .flag("-Wno-unknown-pragmas") // `unroll`
        .opt_level(2)
        .warnings_into_errors(true)
        .compile("netweight-emulator");
}
