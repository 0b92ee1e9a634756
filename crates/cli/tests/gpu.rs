//! The verbs that run a model on a GPU: the program as it is, over a library that stands in for NVIDIA's driver and runs
//! the kernels on the CPU. And what it says where there is no GPU, or none that will do.
#![cfg(target_os = "linux")]

#[macro_use]
mod common;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Ran, bookworm, finish, program, scratch};
use netweight_cuda_emulator::Stub;

const PROMPT: &str = "It was a dark night, and the";
const STORY: &str = "sun was a long time. The sun was a long time";

/// The program, where libraries of these folders are found, and nothing else chooses a device.
fn with_libraries(stubs: &[Stub]) -> Command {
    let folders = stubs.iter().map(|stub| stub.folder().expect("built on Linux"));
    let mut command = program();
    command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).expect("paths")).env_remove("NETWEIGHT_DEVICE");
    command.env("NETWEIGHT_CUDA_CHOICE", "off"); // an emulated GPU has no speed that could be measured
    command
}

fn on_gpu(args: &[OsString]) -> Ran {
    finish(with_libraries(&[Stub::Driver]).args(args))
}

fn text() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/text/heldout.txt")
}

#[test]
fn the_story_is_the_same() {
    let work = scratch();
    let archive = work.path().join("coded");
    common::run(args!["compress", bookworm(), "-o", archive]).ok();
    let ran = on_gpu(args!["run", archive, "--raw", PROMPT, "-n", "12", "--temperature", "0"]);
    assert_eq!(ran.stdout.trim(), STORY, "{ran:?}");
    assert!(ran.stderr.contains("as exact12") && ran.stderr.contains("stub GPU 0"), "auto takes the GPU: {ran:?}");
    let ran = on_gpu(args![
        "--json",
        "run",
        archive,
        "--raw",
        PROMPT,
        "-n",
        "2",
        "--device",
        "cuda",
        "--layout",
        "bf16",
        "--gpu-memory",
        "13MB"
    ]);
    let found = ran.ok().json();
    assert_eq!(found["load"]["layouts"][0]["layout"], "bf16");
    assert!(found["load"]["streamed_bytes"].as_u64().is_some_and(|n_bytes| n_bytes > 0), "{found}");
    let ran = on_gpu(args!["run", archive, "--raw", PROMPT, "-n", "2", "--device", "cpu"]);
    assert!(ran.stderr.contains(" with ") && ran.stderr.contains("thread"), "{ran:?}");
}

#[test]
fn logits_and_perplexity() {
    let ran = on_gpu(args!["--json", "verify", bookworm(), "--logits", "It was a dark night", "--device", "cuda"]);
    let found = ran.ok().json();
    assert_eq!((found["is_identical"].as_bool(), found["logits"].as_array().map(Vec::len)), (Some(true), Some(6)));
    let eval = args!["--json", "eval", bookworm(), "--text", text(), "--tokens", "65", "--window", "32"];
    let [gpu, cpu] = [on_gpu(eval), common::run(eval)].map(|ran| ran.ok().json());
    let [gpu, cpu] = [gpu, cpu].map(|found| found["mean_nll"].as_f64().expect("a number"));
    assert!((gpu - cpu).abs() < 0.01, "{gpu} on the GPU, {cpu} on the CPU");
}

#[test]
fn what_cannot_be_is_said() {
    let check = |stubs: &[Stub], environment: &[(&str, &str)], device: &str, code: i32, says: &str| {
        let mut command = with_libraries(stubs);
        command.envs(environment.iter().copied());
        command.args(args!["run", bookworm(), "--raw", PROMPT, "-n", "1", "--device", device]);
        let ran = finish(&mut command).code(code);
        assert!(ran.stderr.contains(says), "{says:?} expected: {ran:?}");
        assert!(ran.stderr.contains("--device cpu"), "says what to do: {ran:?}");
    };
    check(&[], &[], "cuda", 2, "no NVIDIA driver");
    check(&[Stub::Driver], &[("NETWEIGHT_STUB_DEVICES", "0")], "cuda", 2, "GPU");
    check(&[Stub::Driver], &[], "cuda:3", 2, "no GPU 3");
    check(&[Stub::Driver], &[("NETWEIGHT_STUB_DRIVER_VERSION", "11040")], "cuda", 2, "Update the driver");
    check(&[Stub::Driver], &[("NETWEIGHT_STUB_CAPABILITY", "7.5")], "cuda", 2, "compute capability 7.5");
    check(&[Stub::IncompleteDriver], &[], "cuda", 2, "driver");
    check(&[Stub::Driver], &[("NETWEIGHT_CUDA_IMAGE", "nope")], "cuda", 2, "there are sm_80.cubin, ");
    check(&[Stub::Driver], &[("NETWEIGHT_STUB_MEMORY", "9000000")], "cuda", 4, "GPU memory");
    check(&[Stub::Driver], &[("NETWEIGHT_STUB_MEMORY", "9000000")], "auto", 4, "GPU memory"); // nothing falls back
    let ran = finish(with_libraries(&[Stub::Driver]).args(args!["run", bookworm(), "x", "--device", "gpu"])).code(2);
    assert!(ran.stderr.contains("auto, cpu, cuda or cuda:N"), "{ran:?}");
    let bench = |how: &[&str]| finish(with_libraries(&[Stub::Driver]).args(args!["bench", bookworm()]).args(how));
    let ran = bench(&["--device", "cuda", "--layout", "f32"]).code(2);
    assert!(ran.stderr.contains("a GPU has no layout f32"), "{ran:?}");
    let ran = finish(with_libraries(&[]).env("NETWEIGHT_DEVICE", "gpu").args(args!["bench", bookworm()])).code(2);
    assert!(ran.stderr.contains("NETWEIGHT_DEVICE is gpu: a device is auto, cpu,"), "{ran:?}");
}

/// Where auto finds no GPU that will do, it is the CPU.
#[test]
fn auto_is_the_cpu_without_a_gpu() {
    let too_old = [("NETWEIGHT_STUB_CAPABILITY", "7.5")];
    for (stubs, environment) in [(&[][..], &[][..]), (&[Stub::Driver], &too_old), (&[Stub::IncompleteDriver], &[])] {
        let mut command = with_libraries(stubs);
        command.envs(environment.iter().copied()).args(args!["run", bookworm(), "--raw", PROMPT, "-n", "1"]);
        let ran = finish(&mut command).code(0);
        assert!(ran.stderr.contains("thread"), "{ran:?}");
        assert_eq!(ran.stderr.contains("no GPU is used"), !stubs.is_empty(), "says why, if there is one: {ran:?}");
    }
}
