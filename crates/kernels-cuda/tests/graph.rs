//! A captured decode step, replayed as the sequence grows: whatever changes from step to step is in device memory.

mod common;

use std::sync::Arc;

use netweight_cuda_emulator::{Emulator, Options};
use netweight_kernels_cuda::launch::{self, Attend, AttendScratch, Buffer, Places, Rotation};
use netweight_kernels_cuda::runtime::Runtime;
use netweight_kernels_cuda::{Device, KvType, Memory, PagedCache, PagedShape};

const N_HEADS: usize = 2;
const HEAD_DIM: usize = 16;
const WIDTH: usize = (N_HEADS + 2) * HEAD_DIM;
const LENS: [usize; 2] = [70, 300];
const SHAPE: PagedShape = PagedShape {
    n_layers: 1,
    n_kv_heads: 1,
    head_dim: HEAD_DIM,
    n_slots: 2,
    max_positions: 400,
    n_pages: 7,
    kv_type: KvType::F16,
};

/// All that a step of two sequences works on.
struct Step {
    cache: PagedCache,
    scratch: AttendScratch,
    qkv: Buffer,
    out: Buffer,
    slots: Memory<u32>,
    positions: Memory<u32>,
    table: Memory<f32>,
    best: Memory<u32>,
}

impl Step {
    fn new(device: &Device, table: &[f32]) -> Step {
        Step {
            cache: PagedCache::new(device, SHAPE).expect("a cache"),
            scratch: AttendScratch::new(device, 4, N_HEADS, HEAD_DIM).expect("memory"),
            qkv: Buffer::new(device, 2, WIDTH).expect("memory"),
            out: Buffer::new(device, 2, N_HEADS * HEAD_DIM).expect("memory"),
            slots: device.upload(&[1, 0]).expect("memory"),
            positions: device.upload(&[0, 0]).expect("memory"),
            table: device.upload(table).expect("memory"),
            best: device.upload(&[0, 0]).expect("memory"),
        }
    }

    /// What is new in a step.
    fn enter(&mut self, qkv: &[f32], positions: [u32; 2]) {
        self.qkv.floats.write(0, qkv).expect("a copy");
        self.positions.write(0, &positions).expect("a copy");
        self.cache.reserve(1, positions[0] as usize + 1).expect("pages");
        self.cache.reserve(0, positions[1] as usize + 1).expect("pages");
    }

    fn run(&mut self, n_spans: usize) {
        let Step { cache, scratch, qkv, out, slots, positions, table, best } = self;
        let places = Places { slots, positions };
        let attend = Attend { layer: 0, n_heads: N_HEADS, scale: 0.25, softcap: None, window: None };
        let rotation = Rotation { rotary_dim: HEAD_DIM, table, table_rows: positions };
        launch::enter_heads(qkv, 2, &attend, None, rotation, places, cache).expect("a launch");
        launch::attend_steps(qkv, 0..2, &attend, places, cache, n_spans, scratch, out).expect("a launch");
        launch::likeliest(out, 2, N_HEADS * HEAD_DIM, best).expect("a launch");
    }

    fn results(&self) -> (Vec<u32>, Vec<u32>) {
        (common::bits(&common::values(&self.out)), self.best.to_vec().expect("a copy"))
    }
}

#[test]
fn a_captured_step_is_replayed_for_other_positions() {
    let mut random = common::random();
    let table = common::normal(&mut random, SHAPE.max_positions * HEAD_DIM, 1.0);
    let emulator = Arc::new(Emulator::new(Options::default()));
    let device = Device::new(emulator.clone());
    let (mut captured, mut direct) = (Step::new(&device, &table), Step::new(&device, &table));
    emulator.begin_capture().expect("a capture");
    captured.run(2);
    let graph = emulator.end_capture().expect("a capture").expect("a graph");
    // What lies between is zero in both caches.
    for step in (0..250).step_by(17).chain(253..258) {
        // The first sequence ends early and stays where it is.
        let positions = LENS.map(|len| step.min(len - 1) as u32);
        let qkv = common::normal(&mut random, 2 * WIDTH, 1.0);
        captured.enter(&qkv, positions);
        // SAFETY: all that was captured is in `captured`, which is still there.
        unsafe { emulator.replay(graph) }.expect("a replay");
        direct.enter(&qkv, positions);
        direct.run(step / 256 + 1);
        assert_eq!(captured.results(), direct.results(), "step {step}");
    }
    emulator.drop_graph(graph);
}

#[test]
fn too_little_scratch_is_an_error() {
    let device = common::devices().remove(0);
    let mut step = Step::new(&device, &[0.0; HEAD_DIM]);
    step.scratch = AttendScratch::new(&device, 1, N_HEADS, HEAD_DIM).expect("memory");
    let attend = Attend { layer: 0, n_heads: N_HEADS, scale: 0.25, softcap: None, window: None };
    let places = Places { slots: &step.slots, positions: &step.positions };
    let mut run = |n_spans| {
        launch::attend_steps(&step.qkv, 0..2, &attend, places, &step.cache, n_spans, &mut step.scratch, &mut step.out)
    };
    run(1).expect("a row at a time");
    assert!(run(2).is_err());
}
