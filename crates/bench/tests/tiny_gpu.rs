//! Benchmarks of GPUs on an emulated one, so that they cannot rot. Their figures mean nothing.

use std::sync::Arc;

use netweight_bench::{GpuModel, GpuModelOptions, KernelOptions, MatrixShape, run_gpu_model, run_kernels};
use netweight_cuda_emulator::{Emulator, Options};
use netweight_kernels_cuda::{Device, Layout};

fn device(has_gemm: bool) -> Device {
    Device::new(Arc::new(Emulator::new(Options { has_gemm, memory_bytes: 1 << 30, ..Options::default() })))
}

#[test]
fn kernels() {
    let matrix =
        |name: &str, rows, takes_prompts| MatrixShape { name: name.to_owned(), rows, cols: 256, takes_prompts };
    let options = KernelOptions {
        matrices: vec![matrix("one", 256, true), matrix("other", 1024, false)],
        tokens: vec![1, 3],
        prompt: 5,
        rounds: 1,
        memory_bytes: Some(1 << 16),
    };
    for has_gemm in [true, false] {
        let report = run_kernels(&device(has_gemm), &options).unwrap();
        let n_exact = Layout::ALL.len() - 1;
        assert_eq!(report.linear.len(), 2 * 2 * (1 + n_exact + usize::from(has_gemm)));
        assert_eq!((report.has_vendor, report.decode.len()), (has_gemm, 2 * n_exact));
        assert_eq!(report.prefill.len(), if has_gemm { n_exact } else { 0 });
        for row in &report.linear {
            assert!(row.gigabytes_per_second > 0.0 && row.of_read > 0.0, "{row:?}");
            assert_eq!(row.of_raw.is_some(), row.way.starts_with("exact"));
        }
        let text = report.to_string();
        for part in ["emulated GPU", "one 256x256", "other 1024x256", "exact12 us", "decode to bf16"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 120), "{text}");
        assert_eq!(text.contains("prompt, decoded first"), has_gemm);
        assert!(serde_json::to_value(&report).unwrap()["memory"]["read"]["median"].is_number());
    }
}

#[test]
fn models() {
    let bookworm = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/bookworm");
    let models = [GpuModel::random("llama-tiny", 1).unwrap(), GpuModel::Files(bookworm)];
    for (model, is_random) in models.into_iter().zip([true, false]) {
        let options = GpuModelOptions {
            prompt: if is_random { 70 } else { 3 },
            generate: if is_random { 3 } else { 1 },
            context: (!is_random).then_some(6),
            batches: if is_random { vec![1, 3] } else { vec![1] },
            rounds: 1,
            memory_bytes: Some(1 << 16),
            measures: false,
            ..GpuModelOptions::new(model)
        };
        let report = run_gpu_model(&device(true), &options).unwrap();
        let layouts: Vec<&str> = report.rows.iter().map(|row| row.layout.as_str()).collect();
        assert!(layouts[0] == "bf16" && layouts.len() == Layout::ALL.len() && report.took_turns, "{layouts:?}");
        assert_eq!((report.check.n_contenders, report.check.prompt_is_same), (Layout::ALL.len(), true));
        for row in &report.rows {
            assert_eq!(row.decode.len(), options.batches.len());
            assert_eq!(row.prefill_of_raw.is_some(), row.layout != "bf16");
            for batch in &row.decode {
                assert!(batch.step_ms.is_some_and(|step| step.median > 0.0) && batch.of_read.is_some(), "{row:?}");
                assert_eq!(batch.of_raw.is_some(), row.layout != "bf16");
            }
        }
        let text = report.to_string();
        for part in ["same bits", "after the prompt the same", "step ms", "prefill"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.len() <= 120 || line.contains("bookworm")), "{text}");
        assert!(serde_json::to_value(&report).unwrap()["rows"][1]["decode"][0]["of_raw"].is_number());
    }
    assert!(GpuModel::random("no-such-model", 1).is_err());
}
