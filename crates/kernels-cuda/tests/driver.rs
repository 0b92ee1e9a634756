//! The driver's side over libraries that stand in for NVIDIA's. Each check runs this very program again, with those
//! libraries in its path, for one of the CASES.

mod common;

use std::process::Command;
use std::sync::Arc;

use netweight_cuda_emulator::Stub;
use netweight_kernels_cuda::driver::{self, Driver};
use netweight_kernels_cuda::runtime::{Gemm, Grid, Runtime, Stream};
use netweight_kernels_cuda::{Device, Error, launch, twin};

/// What the cases do, on the real GPU of this machine.
#[test]
fn a_real_gpu_does_the_same() {
    if common::real().is_some() {
        for case in [list_devices, open_only, normalize, capture_and_replay, multiply, launch_wrongly, copy_beside] {
            case().expect("it ends well");
        }
    }
}

type Case = (&'static str, fn() -> Result<(), Error>);

/// What a child does. It prints; who started it reads.
const CASES: [Case; 10] = [
    ("devices", list_devices),
    ("open", open_only),
    ("open 5", || driver::open(5).map(drop)),
    ("rms_norm", normalize),
    ("graph", capture_and_replay),
    ("gemm", multiply),
    ("memory", fill_memory),
    ("launches", launch_wrongly),
    ("launch and wait", launch_and_wait),
    ("copies", copy_beside),
];

/// Run by the other tests; by hand it does nothing.
#[test]
#[ignore = "one of the cases, for a child process"]
fn child() {
    let Ok(wanted) = std::env::var("NETWEIGHT_TEST_CASE") else { return };
    let (_, case) = CASES.iter().find(|(name, _)| *name == wanted).expect("a case");
    match case() {
        Ok(()) => println!("case ended well"),
        Err(error) => println!("case ended with {error:?}: {error}"),
    }
}

/// What a child prints for a case; nothing may panic.
fn run(case: &str, stubs: &[Stub], environment: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().expect("a path"));
    command.args(["--exact", "child", "--ignored", "--nocapture", "--test-threads=1"]);
    let folders: Vec<_> = stubs.iter().filter_map(|stub| stub.folder()).collect();
    command.env("LD_LIBRARY_PATH", std::env::join_paths(folders).expect("paths"));
    command.env("NETWEIGHT_TEST_CASE", case).env("NETWEIGHT_STUB_LOG", "1").envs(environment.iter().copied());
    let output = command.output().expect("a child process");
    let text = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).join("\n");
    assert!(output.status.success() && text.contains("case ended"), "{case}: {:?}\n{text}", output.status);
    text
}

fn check(case: &str, environment: &[(&str, &str)], expected: &[&str]) -> String {
    let text = run(case, &[Stub::Driver, Stub::Blas], environment);
    for expected in expected {
        assert!(text.contains(expected), "{case} {environment:?}: no {expected:?} in\n{text}");
    }
    text
}

/// Whether stubs stand in for the driver on this system.
fn has_stubs() -> bool {
    let has = Stub::Driver.folder().is_some();
    if !has {
        println!("skipped: no stub driver on this system");
    }
    has
}

fn open() -> Result<(Arc<Driver>, Device), Error> {
    let driver = Arc::new(Driver::open(0)?);
    Ok((driver.clone(), Device::new(driver)))
}

fn list_devices() -> Result<(), Error> {
    driver::devices()?.iter().for_each(|properties| println!("{properties:?}"));
    Ok(())
}

fn open_only() -> Result<(), Error> {
    let driver = Driver::open(0)?;
    println!("artefact {}", driver.artefact());
    Ok(())
}

#[test]
fn devices_are_listed_with_their_properties() {
    if has_stubs() {
        let two = check(
            "devices",
            &[("NETWEIGHT_STUB_DEVICES", "2"), ("NETWEIGHT_STUB_CAPABILITY", "12.0")],
            &[
                "name: \"stub GPU 0\", compute_capability: [12, 0], n_multiprocessors: 4, memory_bytes: 1073741824",
                "l2_bytes: 1048576, max_shared_bytes: 101376, driver_version: [13, 0]",
                "name: \"stub GPU 1\"",
            ],
        );
        assert!(!two.contains("stub GPU 2"), "{two}");
        check("devices", &[("NETWEIGHT_STUB_CAPABILITY", "7.5")], &["compute_capability: [7, 5]", "ended well"]);
    }
}

#[test]
fn each_kind_of_gpu_gets_its_artefact() {
    if !has_stubs() {
        return;
    }
    for (capability, artefact, loaded) in [
        ("8.0", "sm_80.cubin", "cubin 80"),
        ("8.6", "sm_86.cubin", "cubin 86"),
        ("8.7", "compute_80.ptx", "ptx 80"), // takes no cubins of cards
        ("8.9", "sm_89.cubin", "cubin 89"),
        ("9.0", "sm_90a.cubin", "cubin 90"),
        ("10.0", "sm_100.cubin", "cubin 100"),
        ("10.3", "sm_100.cubin", "cubin 100"),
        ("11.0", "compute_80.ptx", "ptx 80"),
        ("12.0", "sm_120.cubin", "cubin 120"),
        ("12.1", "sm_120.cubin", "cubin 120"),
        ("13.0", "compute_80.ptx", "ptx 80"),
    ] {
        let text = check("open", &[("NETWEIGHT_STUB_CAPABILITY", capability)], &["ended well"]);
        assert!(text.contains(&format!("artefact {artefact}\n")), "{capability}:\n{text}");
        let last = text.lines().rfind(|line| line.contains("cuModuleLoadData")).unwrap_or_default();
        assert_eq!(last, format!("stub: cuModuleLoadData {loaded}"), "{capability}");
    }
    check(
        "open",
        &[("NETWEIGHT_CUDA_IMAGE", "compute_80.ptx")],
        &["artefact compute_80.ptx", "cuModuleLoadData ptx 80"],
    );
}

#[test]
fn what_is_missing_or_too_old_is_said() {
    if !has_stubs() {
        return;
    }
    let text = run("open", &[], &[]);
    let has_a_driver = text.contains("ended well") || text.contains("finds no GPU");
    assert!(has_a_driver || text.contains("NoDevice(\"There is no NVIDIA driver here (libcuda.so.1"), "{text}");
    let text = run("open", &[Stub::IncompleteDriver], &[]);
    assert!(text.contains("Unsupported(\"The NVIDIA driver has no function cuGetErrorName: it is too old."), "{text}");
    for case in ["open", "devices"] {
        check(case, &[("NETWEIGHT_STUB_DEVICES", "0")], &["NoDevice(\"The NVIDIA driver finds no GPU."]);
        check(
            case,
            &[("NETWEIGHT_STUB_DRIVER_VERSION", "11040")],
            &["Unsupported(\"The NVIDIA driver is of CUDA 11.4; one of CUDA 12.0 or newer (version 525.60 or newer)"],
        );
        check(
            case,
            &[("NETWEIGHT_STUB_FAIL", "cuInit:803")],
            &[
                "cuInit: CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (803): system has unsupported",
                "Parts of the driver differ in version",
            ],
        );
        check(case, &[("NETWEIGHT_STUB_FAIL", "cuInit:987")], &["cuInit: unknown error (987): no text"]);
    }
    check("open 5", &[], &["NoDevice(\"There is no GPU 5: this machine has 1 GPU, number 0.\")"]);
    check(
        "open",
        &[("NETWEIGHT_STUB_CAPABILITY", "7.5")],
        &["Unsupported(\"stub GPU 0 has compute capability 7.5; GPUs from 8.0 on are supported"],
    );
    // PTX of a compiler newer than the driver, where there is no cubin.
    check(
        "open",
        &[("NETWEIGHT_STUB_CAPABILITY", "8.7"), ("NETWEIGHT_STUB_DRIVER_VERSION", "12060")],
        &[
            "Unsupported(\"There are no kernels compiled for stub GPU 0 (compute capability 8.7)",
            "of CUDA 12.6, does not compile them (CUDA_ERROR_UNSUPPORTED_PTX_VERSION (222)",
            "things that are left: 0",
        ],
    );
    check(
        "open",
        &[("NETWEIGHT_CUDA_IMAGE", "sm_70.cubin")],
        &["InvalidArgument(\"NETWEIGHT_CUDA_IMAGE is sm_70.cubin;"],
    );
}

/// `rms_norm` on a device, from this thread; the twin's bits.
fn norm_is_right(device: &Device, n_rows: usize, width: usize) -> Result<(), Error> {
    let mut random = common::random();
    let x = common::normal(&mut random, n_rows * width, 3.0);
    let weight = common::normal(&mut random, width, 1.0);
    let mut out = common::buffer(device, width, &vec![f32::NAN; n_rows * width]);
    let (x_on_device, weight_on_device) = (common::buffer(device, width, &x), device.upload(&weight)?);
    launch::rms_norm(&x_on_device, n_rows, &weight_on_device, 1e-5, &mut out)?;
    let expected: Vec<f32> = x.chunks(width).flat_map(|x| twin::rms_norm(x, &weight, 1e-5)).collect();
    assert_eq!(common::bits(&common::values(&out)), common::bits(&expected), "{n_rows} x {width}");
    Ok(())
}

fn normalize() -> Result<(), Error> {
    let device = driver::open(0)?;
    for (n_rows, width) in [(1, 1), (3, 64), (2, 257)] {
        norm_is_right(&device, n_rows, width)?;
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..3).map(|idx| (idx, &device)).collect();
        let threads: Vec<_> =
            threads.into_iter().map(|(idx, device)| scope.spawn(move || norm_is_right(device, 2, 65 + idx))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let seconds = device.time(|| norm_is_right(&device, 4, 100))?;
    assert!(seconds > 0.0 && seconds < 60.0, "{seconds}");
    let free = device.free_bytes()?;
    let memory = device.zeroed::<u8>(1 << 20)?;
    assert_eq!(device.free_bytes()?, free - (1 << 20));
    drop(memory);
    assert_eq!(device.free_bytes()?, free);
    Ok(())
}

#[test]
fn kernels_run_from_every_thread_and_give_the_twins_bits() {
    if has_stubs() {
        let text = check("rms_norm", &[], &["ended well", "things that are left: 0"]);
        assert_eq!(text.matches("stub: cuModuleGetFunction rms_norm").count(), 1, "looked up once");
        // What is destroyed when: the context goes last, the module after the streams.
        let places = ["cuEventDestroy_v2", "cuStreamDestroy_v2", "cuModuleUnload", "cuDevicePrimaryCtxRelease_v2"]
            .map(|name| text.rfind(name).expect("it is called"));
        assert!(places.is_sorted(), "{text}");
    }
}

fn capture_and_replay() -> Result<(), Error> {
    let (driver, device) = open()?;
    let (width, n_rows) = (96, 2);
    let mut random = common::random();
    let weight = device.upload(&common::normal(&mut random, width, 1.0))?;
    let mut x = common::buffer(&device, width, &vec![0.0; n_rows * width]);
    let mut out = common::buffer(&device, width, &vec![0.0; n_rows * width]);
    let given_back = device.zeroed::<u32>(4)?;
    driver.begin_capture()?;
    launch::rms_norm(&x, n_rows, &weight, 1e-5, &mut out)?;
    drop(given_back); // is freed when the capture has ended
    let graph = driver.end_capture()?.expect("a graph");
    for _ in 0..3 {
        let values = common::normal(&mut random, n_rows * width, 2.0);
        x.floats.write(0, &values)?;
        // SAFETY: the graph's buffers are above.
        unsafe { driver.replay(graph) }?;
        let weight = weight.to_vec()?;
        let expected: Vec<f32> = values.chunks(width).flat_map(|x| twin::rms_norm(x, &weight, 1e-5)).collect();
        assert_eq!(common::bits(&common::values(&out)), common::bits(&expected));
    }
    driver.drop_graph(graph);
    // SAFETY: it is not there.
    let error = unsafe { driver.replay(graph) }.unwrap_err();
    assert_eq!(error.to_string(), "there is no graph 0");
    // Allocating within a capture breaks it; the next one is whole again.
    driver.begin_capture()?;
    let error = device.zeroed::<u8>(1).unwrap_err();
    println!("within a capture: {error}");
    println!("at its end: {}", driver.end_capture().err().map_or("a graph".to_owned(), |error| error.to_string()));
    driver.begin_capture()?;
    launch::rms_norm(&x, n_rows, &weight, 1e-5, &mut out)?;
    driver.end_capture()?.expect("a graph, which goes with the driver");
    Ok(())
}

#[test]
fn a_captured_graph_replays() {
    if has_stubs() {
        let text = check(
            "graph",
            &[],
            &[
                "ended well",
                "stub: cuGraphLaunch 1",
                "within a capture: cuMemAlloc_v2: CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED (900): operation not permitted",
                "at its end: cuStreamEndCapture: CUDA_ERROR_STREAM_CAPTURE_INVALIDATED (901)",
                "things that are left: 0",
            ],
        );
        assert!(text.find("cuStreamEndCapture") < text.find("cuMemFree_v2"), "{text}");
        check("graph", &[("NETWEIGHT_CUDA_SYNC", "1")], &["ended well"]);
        check(
            "graph",
            &[("NETWEIGHT_STUB_FAIL", "cuGraphInstantiateWithFlags:2")],
            &[
                "case ended with",
                "cuGraphInstantiateWithFlags: CUDA_ERROR_OUT_OF_MEMORY (2)",
                "things that are left: 0",
            ],
        );
    }
}

fn multiply() -> Result<(), Error> {
    let (driver, _device) = open()?;
    let (n_rows, rows, cols, out_stride) = (3, 5, 7, 6);
    let x_stride = 8;
    let mut random = common::random();
    let mut halves = |len: usize| -> Vec<u16> {
        common::normal(&mut random, len, 1.0).iter().map(|&value| half::bf16::from_f32(value).to_bits()).collect()
    };
    let (x, w) = (halves(n_rows * x_stride), halves(rows * cols));
    // What a device owns has no public address: memory that this test allocates itself.
    let address = |bytes: &[u8]| -> Result<u64, Error> {
        let memory = driver.allocate(bytes.len())?;
        // SAFETY: as many bytes were allocated, and are copied at once.
        unsafe { driver.copy_in(Stream::Compute, memory, bytes.as_ptr(), bytes.len()) }?;
        driver.synchronize(Stream::Compute)?;
        Ok(memory)
    };
    let ones = vec![1.0f32; n_rows * out_stride];
    let [x_dev, w_dev, out_dev] = [address(bytes_of(&x))?, address(bytes_of(&w))?, address(bytes_of(&ones))?];
    let gemm = Gemm {
        x: x_dev,
        x_stride,
        w: w_dev,
        w_stride: cols,
        out: out_dev,
        out_stride,
        n_rows,
        rows,
        cols,
        adds: false,
    };
    if driver.begin_capture().is_ok() {
        // SAFETY: nothing is multiplied.
        let first = unsafe { driver.gemm(gemm) };
        println!("first within a capture: {first:?}");
        let _ = driver.end_capture()?.map(|graph| driver.drop_graph(graph));
    }
    // SAFETY: all memory has the shapes that are said.
    if !unsafe { driver.gemm(gemm) }? {
        println!("there is no cuBLAS");
    } else {
        let read = |out: &mut [f32]| -> Result<(), Error> {
            // SAFETY: as many bytes, which are there when the stream is.
            unsafe { driver.copy_out(Stream::Compute, out.as_mut_ptr().cast(), out_dev, size_of_val(out)) }?;
            driver.synchronize(Stream::Compute)
        };
        let (mut once, mut added) = (ones.clone(), ones);
        read(&mut once)?;
        driver.begin_capture()?;
        // SAFETY: as above.
        unsafe { driver.gemm(Gemm { adds: true, ..gemm }) }?;
        let graph = driver.end_capture()?.expect("a graph");
        // SAFETY: as above.
        unsafe { driver.replay(graph) }?;
        read(&mut added)?;
        let value = |bits: u16| half::bf16::from_bits(bits).to_f64();
        for (idx, (once, added)) in once.iter().zip(&added).enumerate() {
            let (n, row) = (idx / out_stride, idx % out_stride);
            let products = (0..cols).map(|k| value(x[n * x_stride + k]) * value(w[(row.min(rows - 1)) * cols + k]));
            let expected = if row < rows { products.sum::<f64>() as f32 } else { 1.0 };
            assert!((once - expected).abs() < 1e-5, "{n} {row}: {once}, {expected}");
            let twice = if row < rows { 2.0 * expected } else { 1.0 };
            assert!((added - twice).abs() < 2e-5, "{n} {row}: {added}, {twice}");
        }
    }
    // SAFETY: allocated above, not used again.
    [x_dev, w_dev, out_dev].into_iter().for_each(|memory| unsafe { driver.free(memory) });
    Ok(())
}

fn bytes_of<T: bytemuck::NoUninit>(values: &[T]) -> &[u8] {
    bytemuck::cast_slice(values)
}

#[test]
fn cublas_is_loaded_with_the_first_product() {
    if !has_stubs() {
        return;
    }
    let text = check(
        "gemm",
        &[],
        &[
            "first within a capture: Err(InvalidArgument(\"the first product comes within a capture",
            "stub: cublasSetWorkspace_v2 8388608",
            "stub: cublasSetMathMode 16",
            "stub: cublasGemmEx 5 3 7",
            "ended well",
            "things that are left: 0",
        ],
    );
    assert!(text.find("cublasSetStream") < text.find("cublasSetWorkspace"), "{text}");
    assert!(text.find("cublasDestroy_v2") < text.rfind("cuStreamDestroy_v2"), "{text}");
    check("gemm", &[("NETWEIGHT_STUB_CAPABILITY", "9.0")], &["stub: cublasSetWorkspace_v2 33554432", "ended well"]);
    let absent = run("gemm", &[Stub::Driver], &[]);
    assert!(absent.contains("there is no cuBLAS\n") || absent.contains("case ended with"), "{absent}");
    for (fails, expected) in [
        ("cublasCreate_v2:1", "cublasCreate_v2: CUBLAS_STATUS_NOT_INITIALIZED (1)"),
        ("cublasCreate_v2:3", "there is no cuBLAS"), // too little memory for it: our own kernels do without
        ("cublasSetWorkspace_v2:7", "cublasSetWorkspace_v2: CUBLAS_STATUS_INVALID_VALUE (7)"),
        ("cublasGemmEx:15", "cublasGemmEx: CUBLAS_STATUS_NOT_SUPPORTED (15)"),
    ] {
        check("gemm", &[("NETWEIGHT_STUB_FAIL", fails)], &[expected]);
    }
}

fn fill_memory() -> Result<(), Error> {
    let device = driver::open(0)?;
    let _half = device.zeroed::<u8>(8 << 20)?;
    let _more = device.zeroed::<u8>(10 << 20)?;
    device.upload(&[1u8; 100])?;
    Ok(())
}

#[test]
fn memory_that_is_short_is_said_with_what_is_free() {
    if has_stubs() {
        check("memory", &[], &["ended well", "things that are left: 0"]);
        check(
            "memory",
            &[("NETWEIGHT_STUB_MEMORY", "16777216")],
            &["10485760 bytes of GPU memory are not to be had; 8388608 bytes are free", "things that are left: 0"],
        );
        check("memory", &[("NETWEIGHT_STUB_FAIL", "cuMemAlloc_v2:2:2")], &["10485760 bytes of GPU memory"]);
        check(
            "memory",
            &[("NETWEIGHT_STUB_FAIL", "cuMemHostAlloc:2")],
            &["100 bytes of pinned host memory are not to be had\n"],
        );
        check("memory", &[("NETWEIGHT_STUB_FAIL", "cuMemHostAlloc:1")], &["cuMemHostAlloc: CUDA_ERROR_INVALID_VALUE"]);
    }
}

fn launch_wrongly() -> Result<(), Error> {
    let (driver, device) = open()?;
    let try_launch = |kernel: &'static str, n_blocks: u32, shared_bytes: u32| {
        let grid = Grid { blocks: [n_blocks, 1, 1], threads: 32, shared_bytes };
        // SAFETY: of width 0, or without blocks, the kernel touches no memory.
        unsafe { driver.launch(Stream::Compute, kernel, grid, &[0; 256]) }.map_err(|error| error.to_string())
    };
    println!("no kernel: {:?}", try_launch("frobnicate", 1, 0));
    println!("too much shared memory: {:?}", try_launch("rms_norm", 1, 1 << 20));
    println!("more than usual: {:?}", try_launch("rms_norm", 1, 64 << 10));
    println!("as much again: {:?}", try_launch("rms_norm", 1, 64 << 10));
    device.synchronize()?;
    println!("no blocks: {:?}", try_launch("rms_norm", 0, 0));
    device.synchronize()
}

fn launch_and_wait() -> Result<(), Error> {
    let device = driver::open(0)?;
    let (x, mut out) = (launch::Buffer::new(&device, 1, 64)?, launch::Buffer::new(&device, 1, 64)?);
    launch::rms_norm(&x, 1, &device.zeroed(64)?, 1e-5, &mut out)?;
    device.synchronize()
}

#[test]
fn launches_that_fail_say_which_and_what_to_do() {
    if !has_stubs() {
        return;
    }
    let text = check(
        "launches",
        &[],
        &[
            "no kernel: Err(\"there is no kernel frobnicate in sm_80.cubin\")",
            "too much shared memory: Err(\"rms_norm wants 1048576 bytes of shared memory; this GPU has 100352 for it\")",
            "more than usual: Ok(())",
            "as much again: Ok(())",
            "stub: cuFuncSetAttribute 8 = 65536",
            "no blocks: Err(\"cuLaunchKernel: rms_norm: CUDA_ERROR_INVALID_VALUE (1): invalid argument\")",
            "ended well",
        ],
    );
    assert_eq!(text.matches("stub: cuFuncSetAttribute").count(), 1, "{text}");
    // Without waiting, whoever waits next learns of the error; with it, it has the kernel's name.
    let wait = ("NETWEIGHT_STUB_FAIL", "cuStreamSynchronize:700");
    check(
        "launch and wait",
        &[wait],
        &["with Driver", ": cuStreamSynchronize: CUDA_ERROR_ILLEGAL_ADDRESS (700)", "is lost"],
    );
    let named = "cuStreamSynchronize: rms_norm: CUDA_ERROR_ILLEGAL_ADDRESS (700)";
    check("launch and wait", &[wait, ("NETWEIGHT_CUDA_SYNC", "1")], &[named]);
    let launch = ("NETWEIGHT_STUB_FAIL", "cuLaunchKernel:700");
    for environment in [vec![launch], vec![launch, ("NETWEIGHT_CUDA_SYNC", "1")]] {
        check("launch and wait", &environment, &["cuLaunchKernel: rms_norm: CUDA_ERROR_ILLEGAL_ADDRESS (700)"]);
    }
}

fn copy_beside() -> Result<(), Error> {
    let (driver, _device) = open()?;
    let from = driver.allocate_pinned(64)?;
    let to = driver.allocate_pinned(64)?;
    let memory = driver.allocate(64)?;
    // SAFETY: 64 bytes each, which nobody touches until the streams are done; freed once, at the end.
    unsafe {
        from.write_bytes(7, 64);
        driver.copy_in(Stream::Copy, memory, from, 64)?;
        let [copied, begin] = [driver.event()?, driver.event()?];
        driver.record(Stream::Copy, copied)?;
        driver.wait(Stream::Compute, copied)?;
        driver.record(Stream::Compute, begin)?;
        driver.fill(Stream::Compute, memory, 9, 32)?;
        driver.copy_out(Stream::Compute, to, memory, 64)?;
        driver.synchronize(Stream::Compute)?;
        assert_eq!(std::slice::from_raw_parts(to, 64), [[9u8; 32], [7; 32]].concat());
        assert!(driver.seconds_between(copied, begin)? >= 0.0);
        if driver.properties().name.starts_with("stub") {
            println!("past the end: {}", driver.fill(Stream::Compute, memory, 0, 65).unwrap_err());
        }
        driver.free_pinned(from, 64);
        driver.free_pinned(to, 64);
        driver.free(memory);
    }
    Ok(())
}

#[test]
fn copies_wait_for_events() {
    if has_stubs() {
        check(
            "copies",
            &[],
            &[
                "past the end: cuMemsetD8Async: CUDA_ERROR_INVALID_VALUE (1): invalid argument\n",
                "ended well",
                "things that are left: 0",
            ],
        );
    }
}
