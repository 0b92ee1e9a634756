//! Compiles the kernels and the emulator for this machine, as one unit; and, around the same unit, libraries that stand
//! in for those of NVIDIA.

use std::path::{Path, PathBuf};

const KERNELS: &str = "../kernels-cuda/cu";
const EMULATOR: &str = "cpp";

fn main() {
    println!("cargo::rerun-if-changed={KERNELS}");
    println!("cargo::rerun-if-changed={EMULATOR}");
    compiler()
        .file(format!("{EMULATOR}/emulator.cpp"))
        .include(KERNELS)
        .include(EMULATOR)
        .define("NETWEIGHT_EMULATOR", None)
        .flag("-Wno-unused-function")
        .flag("-Wno-unknown-pragmas") // `unroll`
        .opt_level(2)
        .compile("netweight-emulator");
    stubs(Path::new(&std::env::var_os("OUT_DIR").expect("cargo sets it")));
}

fn compiler() -> cc::Build {
    let mut build = cc::Build::new();
    // A fused multiply-add only where a kernel says so, as on the GPU.
    build.cpp(true).std("c++17").flag("-ffp-contract=off").pic(true).warnings_into_errors(true);
    build
}

/// Each in a folder of its own, so that a test can do without it.
fn stubs(out: &Path) {
    println!("cargo::rustc-env=NETWEIGHT_STUBS={}", out.join("stubs").display());
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let archive = out.join("libnetweight-emulator.a");
    let whole = ["-Wl,--whole-archive", archive.to_str().expect("a path in UTF-8"), "-Wl,--no-whole-archive"];
    let driver = stub(out, "driver", "libcuda.so.1", "cuda.cpp", &whole);
    stub(out, "blas", "libcublas.so.12", "cublas.cpp", &[driver.to_str().expect("a path in UTF-8")]);
    stub(out, "incomplete", "libcuda.so.1", "incomplete.cpp", &[]);
}

fn stub(out: &Path, folder: &str, library: &str, source: &str, link: &[&str]) -> PathBuf {
    let folder = out.join("stubs").join(folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join(library);
    let mut command = compiler().opt_level(1).get_compiler().to_command();
    command.args(["-shared", "-Wl,-Bsymbolic"]).arg(format!("-Wl,-soname,{library}")).arg("-o").arg(&path);
    command.arg(Path::new(EMULATOR).join("stub").join(source)).args(link).arg("-lpthread");
    let status = command.status().expect("the C++ compiler runs");
    assert!(status.success(), "{command:?}");
    // Under the name without a version, too, which is looked for first.
    let plain = folder.join(library.split_inclusive(".so").next().unwrap_or(library));
    let _ = std::fs::remove_file(&plain);
    std::fs::copy(&path, &plain).expect("a copy");
    path
}
