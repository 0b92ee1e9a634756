//! A GPU as a [`Backend`]: goes in what a forward pass asks for, comes out launches of `netweight-kernels-cuda`.
//!
//! Operations return before they are done; the first error waits for [`Backend::read`]. In [`Mode::Replay`] operations only
//! say what changes from step to step: a captured graph does the rest. Next in the flow: decoder.rs.

use netweight_kernels_cuda as kernels;
use netweight_kernels_cuda::launch::{self, AttendScratch, Buffer, Epilogue, Places, Prefill};
use netweight_kernels_cuda::layout::Shape;
use netweight_kernels_cuda::{Device, Memory, PagedCache, Pinned, View};
use netweight_model::{Activation, Attend, Backend, Experts, HeadNorms, Heads, Part, Place, Room, Rotation};

use super::experts::ExpertTables;
use super::graphs;
use super::inputs::Inputs;
use super::linear::{CudaLinear, Streamed};
use crate::Interrupt;
use crate::decoder::{Choice, Draw};

/// What becomes of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They are issued.
    Eager,
    /// They are issued while the device captures them.
    Capture,
    /// They are in the graph already.
    Replay,
}

/// What a forward pass gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// Logits.
    Logits,
    /// The likeliest token.
    Likeliest,
    /// A token that is drawn.
    Drawn,
}

/// Keys of [`Inputs`] that stay within a step.
const SLOTS: usize = 0;
const POSITIONS: usize = 1;

/// A GPU: scratch memory, and what changes from step to step.
pub struct Cuda {
    pub(super) device: Device,
    mode: Mode,
    interrupt: Interrupt,
    gemm_from: usize, // tokens of a batch from which on the vendor's GEMM takes over
    n_spans: usize,
    /// Where logits, and routers', come back to.
    pub(super) logits: Pinned<f32>, // (n_logits, vocab)
    /// Where a token comes back to, if one is to be chosen and no logits are wanted.
    pub(super) token: Pinned<u32>, // (1)
    choice: Option<Choice>,
    waits_inside: bool, // the host routes, so that no pass can be captured
    vocab: usize,
    chosen: Memory<u32>, // (1)
    failed: Option<kernels::Error>,
    numbers: Inputs<u32>,
    floats: Inputs<f32>,
    draws: Inputs<Draw>,
    tiles: Inputs<[u32; 2]>,
    streamed: Option<Streamed>,
    prefill: Prefill,
    scratch: AttendScratch,
    experts: ExpertTables,
}

/// What a [`Cuda`] has memory for.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Tokens of a batch.
    pub max_tokens: usize,
    /// Rows of logits that come back at once.
    pub n_logits: usize,
    /// Vocabulary.
    pub vocab: usize,
    /// Spans of all rows' attention at once, at most.
    pub n_spans: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Dimensions of a head.
    pub head_dim: usize,
}

impl Cuda {
    /// Allocates all but weights and cache.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    pub fn new(
        device: &Device,
        sizes: Sizes,
        shapes: impl Iterator<Item = Shape>,
        gemm_from: usize,
    ) -> kernels::Result<Cuda> {
        Ok(Cuda {
            mode: Mode::Eager,
            interrupt: Interrupt::new(),
            gemm_from,
            n_spans: 1,
            logits: device.pinned(sizes.n_logits * sizes.vocab)?,
            token: device.pinned(1)?,
            choice: None,
            waits_inside: false,
            vocab: sizes.vocab,
            chosen: device.zeroed(1)?,
            failed: None,
            numbers: Inputs::new(device, sizes.max_tokens),
            floats: Inputs::new(device, sizes.max_tokens),
            draws: Inputs::new(device, 1),
            tiles: Inputs::new(device, sizes.max_tokens),
            streamed: None,
            prefill: Prefill::new(device, shapes)?,
            scratch: AttendScratch::new(device, sizes.n_spans, sizes.n_heads, sizes.head_dim)?,
            experts: ExpertTables::new(device, sizes.max_tokens),
            device: device.clone(),
        })
    }

    /// Takes the matrices that stream in.
    pub fn set_streamed(&mut self, streamed: Option<Streamed>) {
        self.streamed = streamed;
    }

    /// Whether forward passes like the one before may be captured: all weights stay where they are, and the host waited
    /// for nothing on the way.
    pub fn can_capture(&self) -> bool {
        self.streamed.is_none() && !self.waits_inside
    }

    /// Begins a forward pass, of which the one before is done; no position's attention is longer than `n_spans`. It ends
    /// with logits, or with a token.
    pub fn begin(&mut self, mode: Mode, interrupt: &Interrupt, n_spans: usize, choice: Option<Choice>) {
        (self.mode, self.interrupt, self.n_spans) = (mode, interrupt.clone(), n_spans);
        self.choice = choice;
        self.numbers.begin();
        self.floats.begin();
        self.draws.begin();
        self.tiles.begin();
    }

    /// The first error since the last time.
    ///
    /// # Errors
    /// It.
    pub fn check(&mut self) -> kernels::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// Runs `work`, unless something failed before, a graph has it, or nobody waits for it any more.
    fn issue(&mut self, work: impl FnOnce(&mut Cuda) -> kernels::Result<()>) {
        let is_interrupted = self.mode == Mode::Eager && self.interrupt.is_set();
        if self.mode == Mode::Replay || self.failed.is_some() || is_interrupted {
            return;
        }
        if let Err(error) = work(self) {
            self.failed = Some(error);
        }
    }

    /// Brings numbers that change from step to step to the GPU; `None` where something failed.
    fn put(&mut self, key: Option<usize>, values: impl ExactSizeIterator<Item = u32>) -> Option<usize> {
        if self.failed.is_some() {
            return None;
        }
        let put = self.numbers.put(key, values, self.mode != Mode::Replay);
        put.map_err(|error| self.failed = Some(error)).ok()
    }

    /// Brings places to the GPU, once a step: slots, positions.
    fn put_places(&mut self, attend: &Attend) -> Option<[usize; 2]> {
        let slots = self.put(Some(SLOTS), attend.places.iter().map(|place| place.slot as u32))?;
        let positions = self.put(Some(POSITIONS), attend.places.iter().map(|place| place.position as u32))?;
        Some([slots, positions])
    }

    fn places(&self, [slots, positions]: [usize; 2]) -> Places<'_> {
        Places { slots: self.numbers.get(slots), positions: self.numbers.get(positions) }
    }

    /// Brings the token that is chosen by the first row of logits to [`Cuda::token`].
    fn choose(&mut self, logits: &Buffer, choice: &Choice) {
        let width = self.vocab;
        match choice {
            Choice::Likeliest => self.issue(|cuda| launch::likeliest(logits, 1, width, &mut cuda.chosen)),
            Choice::Drawn(_) if self.failed.is_some() => return,
            Choice::Drawn(how) => {
                let put = self.draws.put(None, [*how].into_iter(), self.mode != Mode::Replay);
                let Some(idx) = put.map_err(|error| self.failed = Some(error)).ok() else { return };
                self.issue(|cuda| launch::draw(logits, 1, width, cuda.draws.get(idx), &mut cuda.chosen));
            }
        }
        self.issue(|cuda| cuda.chosen.copy_to(0, &mut cuda.token, 1));
    }

    /// Attends with rows whose keys and values are in the cache.
    fn attend_entered(
        &mut self,
        qkv: &Buffer,
        attend: &Attend,
        how: &launch::Attend,
        [slots, positions]: [usize; 2],
        cache: &PagedCache,
        out: &mut Buffer,
    ) -> kernels::Result<()> {
        let n_rows = attend.places.len();
        let places = Places { slots: self.numbers.get(slots), positions: self.numbers.get(positions) };
        match launch::tile_rows(how, cache.shape()).filter(|_| n_rows > graphs::MAX_TOKENS) {
            Some(tile_rows) => {
                let tile = |at: &Place| (at.slot as u32, at.position as u32);
                let (slots, positions): (Vec<u32>, Vec<u32>) = attend.places.iter().map(tile).unzip();
                let tiles = launch::cut_tiles(&slots, &positions, tile_rows);
                let n_tiles = tiles.len();
                let idx = self.tiles.put(Some(tile_rows), tiles.into_iter(), true)?;
                launch::attend_tiles(qkv, n_rows, self.tiles.get(idx), n_tiles, how, places, cache, out)
            }
            None => launch::attend_steps(qkv, 0..n_rows, how, places, cache, self.n_spans, &mut self.scratch, out),
        }
    }

    /// Experts that stream in, or whose layouts differ: routed as all are, so that their weights have the same bits, and
    /// then run by those of this trait, each on its own.
    fn experts_one_by_one(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        experts: &Experts<CudaLinear>,
        [gate_up, gated]: [&mut Buffer; 2],
        out: &mut Buffer,
    ) -> kernels::Result<()> {
        let (routed, hidden) = (experts.routed, x.width);
        let mut apart = self.experts.apart(routed, hidden)?;
        // Our own kernels alone, as where experts run at once.
        let gemm_from = std::mem::replace(&mut self.gemm_from, usize::MAX);
        self.linear(x, n_rows, std::slice::from_ref(experts.router), &mut apart.router);
        self.check()?;
        let sent = apart.route(routed, n_rows)?;
        self.zero(out, n_rows, hidden);
        for (expert_idx, expert) in experts.experts.iter().enumerate() {
            let range = sent.starts[expert_idx] as usize..sent.starts[expert_idx + 1] as usize;
            if range.is_empty() {
                continue;
            }
            let (rows, weights) = (&sent.rows[range.clone()], &sent.weights[range]);
            self.gather(x, rows, hidden, &mut apart.input);
            let how = (routed.activation, routed.width);
            self.gated_linear(&apart.input, rows.len(), &expert.gate_up, how, gate_up, gated);
            self.linear(gated, rows.len(), std::slice::from_ref(&expert.down), &mut apart.output);
            self.scatter_add(&apart.output, rows, weights, hidden, out);
        }
        self.experts.put_back(apart);
        self.gemm_from = gemm_from;
        self.check()
    }

    /// `out[.., out_col..] (+)= W x` for each part, wherever its matrix is.
    fn multiply(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        parts: &[Part<CudaLinear>],
        epilogue: Epilogue,
        out: &mut Buffer,
    ) -> kernels::Result<()> {
        let indices = parts.iter().filter_map(|part| part.linear.streamed_idx());
        if let Some(streamed) = &mut self.streamed {
            streamed.fetch(indices.clone())?;
        }
        let streamed = self.streamed.as_ref();
        let mut fused = Vec::with_capacity(parts.len());
        for Part { linear, out_col } in parts {
            match linear {
                CudaLinear::Wide(matrix) => matrix.linear(x, n_rows, *out_col, epilogue == Epilogue::Add, out)?,
                _ => fused.push((linear.view(streamed)?, *out_col)),
            }
        }
        let mut fused = &fused[..];
        while let Some(&(first, out_col)) = fused.first() {
            let adds = epilogue == Epilogue::Add;
            if n_rows >= self.gemm_from && self.prefill.linear(x, n_rows, (first, out_col), adds, out)? {
                fused = &fused[1..];
                continue;
            }
            let is_like = |(view, _): &&(View<'_>, usize)| view.is_like(&first);
            let n_alike = fused.iter().take(launch::MAX_PARTS).take_while(is_like).count();
            let (alike, rest) = fused.split_at(n_alike);
            let parts = alike.iter().map(|&(matrix, out_col)| launch::Part { matrix, out_col });
            launch::linear(x, n_rows, &parts.collect::<Vec<_>>(), epilogue, out)?;
            fused = rest;
        }
        if let Some(streamed) = &mut self.streamed {
            streamed.used(indices)?;
        }
        Ok(())
    }
}

fn how_of(attend: &Attend) -> launch::Attend {
    let declared = attend.attention;
    launch::Attend {
        layer: attend.layer_idx,
        n_heads: declared.n_heads,
        scale: declared.scale,
        softcap: declared.softcap,
        window: declared.window,
    }
}

fn activation_of(activation: Activation) -> launch::Activation {
    match activation {
        Activation::Silu => launch::Activation::Silu,
        Activation::GeluTanh => launch::Activation::GeluTanh,
        Activation::GeluErf => launch::Activation::GeluErf,
    }
}

fn heads_of(heads: Heads) -> launch::Heads {
    launch::Heads { col: heads.col, n_heads: heads.n_heads, head_dim: heads.head_dim }
}

fn model_error(error: kernels::Error) -> netweight_model::Error {
    netweight_model::Error::Backend(Box::new(error))
}

impl Backend for Cuda {
    type Linear = CudaLinear;
    type Vector = Memory<f32>;
    type Buffer = Buffer;
    type Cache = PagedCache;

    fn buffer(&self, n_rows: usize, width: usize) -> netweight_model::Result<Buffer> {
        Buffer::new(&self.device, n_rows, width).map_err(model_error)
    }

    fn vector(&self, values: &[f32]) -> netweight_model::Result<Memory<f32>> {
        self.device.upload(values).map_err(model_error)
    }

    fn room(&self, cache: &PagedCache) -> Room {
        Room { n_slots: cache.shape().n_slots, n_positions: cache.shape().max_positions }
    }

    fn embed(&mut self, table: &CudaLinear, tokens: &[u32], out: &mut Buffer) {
        let Some(idx) = self.put(None, tokens.iter().copied()) else { return };
        self.issue(|cuda| {
            if let (Some(streamed), Some(idx)) = (&mut cuda.streamed, table.streamed_idx()) {
                streamed.fetch([idx].into_iter())?;
            }
            let tokens_there = cuda.numbers.get(idx);
            match table {
                CudaLinear::Wide(matrix) => matrix.embed(tokens_there, tokens.len(), out)?,
                _ => launch::embed(table.view(cuda.streamed.as_ref())?, tokens_there, tokens.len(), out)?,
            }
            match (&mut cuda.streamed, table.streamed_idx()) {
                (Some(streamed), Some(idx)) => streamed.used([idx].into_iter()),
                _ => Ok(()),
            }
        });
    }

    fn scale(&mut self, x: &mut Buffer, n_rows: usize, width: usize, factor: f32) {
        self.issue(|_| launch::scale(x, n_rows, width, factor));
    }

    fn linear(&mut self, x: &Buffer, n_rows: usize, parts: &[Part<CudaLinear>], out: &mut Buffer) {
        self.issue(|cuda| cuda.multiply(x, n_rows, parts, Epilogue::Store, out));
    }

    fn linear_add(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        part: &Part<CudaLinear>,
        _width: usize,
        _scratch: &mut Buffer,
        out: &mut Buffer,
    ) {
        self.issue(|cuda| cuda.multiply(x, n_rows, std::slice::from_ref(part), Epilogue::Add, out));
    }

    /// In one kernel where gate and up stand side by side and the vendor's GEMM would not be faster.
    fn gated_linear(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        gate_up: &[Part<CudaLinear>],
        (activation, width): (Activation, usize),
        scratch: &mut Buffer,
        out: &mut Buffer,
    ) {
        let activation = activation_of(activation);
        self.issue(|cuda| {
            let indices = gate_up.iter().filter_map(|part| part.linear.streamed_idx());
            let is_wide = gate_up.iter().any(|part| matches!(part.linear, CudaLinear::Wide(_)));
            if n_rows < cuda.gemm_from && !is_wide {
                if let Some(streamed) = &mut cuda.streamed {
                    streamed.fetch(indices.clone())?;
                }
                let views = gate_up.iter().map(|part| part.linear.view(cuda.streamed.as_ref()));
                let views = views.collect::<kernels::Result<Vec<View<'_>>>>()?;
                if launch::is_gate_and_up(&views) {
                    launch::gated_linear(x, n_rows, &views, activation, out)?;
                    return cuda.streamed.as_mut().map_or(Ok(()), |streamed| streamed.used(indices));
                }
            }
            cuda.multiply(x, n_rows, gate_up, Epilogue::Store, scratch)?;
            launch::gate(activation, scratch, n_rows, width, out)
        });
    }

    fn experts(
        &mut self,
        x: &Buffer,
        n_rows: usize,
        experts: &Experts<CudaLinear>,
        scratch: [&mut Buffer; 2],
        out: &mut Buffer,
    ) -> bool {
        if self.mode == Mode::Replay {
            return true; // Where a graph is, no layer was left to the host.
        }
        if experts.experts.iter().flat_map(|gated| &gated.gate_up).any(|part| part.linear.is_wide()) {
            self.waits_inside = true;
            return false; // The model's own way does for all of these.
        }
        if self.experts.takes(experts) {
            let activation = activation_of(experts.routed.activation);
            self.issue(|cuda| cuda.experts.run(x, n_rows, experts, activation, out));
            return true;
        }
        self.waits_inside = true;
        if let Err(error) = self.experts_one_by_one(x, n_rows, experts, scratch, out) {
            self.failed.get_or_insert(error);
        }
        true
    }

    fn rms_norm(&mut self, x: &Buffer, n_rows: usize, weight: &Memory<f32>, eps: f32, out: &mut Buffer) {
        self.issue(|_| launch::rms_norm(x, n_rows, weight, eps, out));
    }

    fn head_norm(&mut self, x: &mut Buffer, n_rows: usize, heads: Heads, weight: &Memory<f32>, eps: f32) {
        self.issue(|_| launch::head_norm(x, n_rows, heads_of(heads), weight, eps));
    }

    fn rope(&mut self, x: &mut Buffer, heads: Heads, rotary_dim: usize, table: &Memory<f32>, table_rows: &[u32]) {
        // The same rows for all layers of a rope: where they stand on the host names them.
        let Some(idx) = self.put(Some(table_rows.as_ptr() as usize), table_rows.iter().copied()) else { return };
        let n_rows = table_rows.len();
        self.issue(|cuda| launch::rope(x, n_rows, heads_of(heads), rotary_dim, table, cuda.numbers.get(idx)));
    }

    /// Heads enter in one kernel. Rows of a prompt attend in tiles, single steps each on its own, with the same bits.
    fn attention(
        &mut self,
        qkv: &mut Buffer,
        attend: &Attend,
        norms: Option<HeadNorms<Memory<f32>>>,
        rotation: Rotation<Memory<f32>>,
        cache: &mut PagedCache,
        out: &mut Buffer,
    ) {
        let (how, n_rows) = (how_of(attend), attend.places.len());
        // The same rows for all layers of a rope: where they stand on the host names them.
        let table_rows = rotation.table_rows;
        let Some(table_rows) = self.put(Some(table_rows.as_ptr() as usize), table_rows.iter().copied()) else { return };
        let Some(places) = self.put_places(attend) else { return };
        let norms = norms.map(|norms| launch::Norms { q: norms.q, k: norms.k, eps: norms.eps });
        self.issue(|cuda| {
            let (rotary_dim, table) = (rotation.rotary_dim, rotation.table);
            let rotation = launch::Rotation { rotary_dim, table, table_rows: cuda.numbers.get(table_rows) };
            launch::enter_heads(qkv, n_rows, &how, norms, rotation, cuda.places(places), cache)?;
            cuda.attend_entered(qkv, attend, &how, places, cache, out)
        });
    }

    fn attend(&mut self, qkv: &Buffer, attend: &Attend, cache: &mut PagedCache, out: &mut Buffer) {
        let how = how_of(attend);
        let Some(places) = self.put_places(attend) else { return };
        self.issue(|cuda| {
            launch::append(qkv, attend.places.len(), &how, cuda.places(places), cache)?;
            cuda.attend_entered(qkv, attend, &how, places, cache, out)
        });
    }

    fn gate(&mut self, activation: Activation, x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) {
        self.issue(|_| launch::gate(activation_of(activation), x, n_rows, width, out));
    }

    fn add(&mut self, x: &Buffer, n_rows: usize, width: usize, out: &mut Buffer) {
        self.issue(|_| launch::add(x, n_rows, width, out));
    }

    fn softcap(&mut self, x: &mut Buffer, n_rows: usize, width: usize, cap: f32) {
        self.issue(|_| launch::softcap(x, n_rows, width, cap));
    }

    fn zero(&mut self, x: &mut Buffer, n_rows: usize, width: usize) {
        self.issue(|_| launch::zero(x, n_rows, width));
    }

    fn gather(&mut self, x: &Buffer, rows: &[u32], width: usize, out: &mut Buffer) {
        let Some(idx) = self.put(None, rows.iter().copied()) else { return };
        self.issue(|cuda| launch::gather(x, cuda.numbers.get(idx), rows.len(), width, out));
    }

    fn scatter_add(&mut self, x: &Buffer, rows: &[u32], weights: &[f32], width: usize, out: &mut Buffer) {
        let Some(rows_idx) = self.put(None, rows.iter().copied()) else { return };
        let copies = self.mode != Mode::Replay;
        let put = self.floats.put(None, weights.iter().copied(), copies);
        let Some(weights_idx) = put.map_err(|error| self.failed = Some(error)).ok() else { return };
        self.issue(|cuda| {
            let (rows_there, weights_there) = (cuda.numbers.get(rows_idx), cuda.floats.get(weights_idx));
            launch::scatter_add(x, rows_there, weights_there, rows.len(), width, out)
        });
    }

    /// Waits, unless a graph is captured or replayed: then the rows go to [`Cuda::logits`], and no further.
    fn read(&mut self, x: &Buffer, n_rows: usize, width: usize, out: &mut [f32]) -> netweight_model::Result<()> {
        match self.choice.filter(|_| width == self.vocab && n_rows == 1) {
            Some(choice) => self.choose(x, &choice),
            None => self.issue(|cuda| x.copy_out(n_rows, &mut cuda.logits)),
        }
        if self.mode == Mode::Eager {
            let done = self.device.synchronize(); // Also when interrupted: inputs may be written again.
            self.failed = self.failed.take().or(done.err());
            let rows = self.logits.as_slice().chunks_exact(x.width);
            out.chunks_exact_mut(width)
                .take(n_rows)
                .zip(rows)
                .for_each(|(out, row)| out.copy_from_slice(&row[..width]));
        }
        self.check().map_err(model_error)?;
        self.interrupt.check().map_err(|error| netweight_model::Error::Backend(Box::new(error)))
    }
}
