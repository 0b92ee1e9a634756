//! The forward pass: go in tokens and their places, come out logits. One function for all families.
//!
//! Every difference between families is a field of [`Spec`](crate::Spec) or is in the weights; the order here is that
//! of the reference models in transformers. Nothing allocates.

use crate::backend::{Attend, Backend, Experts, HeadNorms, Place, Rotation};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::spec::{Mlp, Routed};
use crate::weights::{Gated, LayerWeights, MlpWeights, Part};
use crate::workspace::{RoutedBuffers, Workspace};

/// Tokens of any number of sequences: chunks of prompts and single steps, mixed.
///
/// Tokens of one slot stand together, at consecutive positions; what comes before the first one is in the cache.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids.
    pub tokens: &'a [u32], // (n_tokens)
    /// Where each of them stands.
    pub places: &'a [Place], // (n_tokens)
    /// Indices of the tokens after which logits are wanted.
    pub logits_for: &'a [usize], // (n_logits)
}

impl<B: Backend> Model<B> {
    /// Runs a batch: extends the cache by its tokens and computes the logits it asks for.
    ///
    /// # Errors
    /// `InvalidArgument` where the batch does not fit the model, the workspace, the cache or `logits`, found before
    /// anything is computed; the backend's own.
    pub fn forward(
        &self,
        backend: &mut B,
        batch: &Batch,
        workspace: &mut Workspace<B>,
        cache: &mut B::Cache,
        logits: &mut [f32], // (n_logits, vocab)
    ) -> Result<()> {
        self.check(backend, batch, workspace, cache, logits.len())?;
        let (spec, n_rows) = (&self.spec, batch.tokens.len());
        if n_rows == 0 {
            return Ok(());
        }
        self.find_table_rows(batch, workspace);
        backend.embed(&self.weights.embed.linear, batch.tokens, &mut workspace.hidden);
        if let Some(factor) = spec.embed_scale {
            backend.scale(&mut workspace.hidden, n_rows, spec.hidden, factor);
        }
        for (layer_idx, (layer, weights)) in spec.layers.iter().zip(&self.weights.layers).enumerate() {
            let attend = Attend { layer_idx, attention: &layer.attention, places: batch.places };
            self.attention(backend, &attend, weights, workspace, cache);
            self.mlp(backend, n_rows, &layer.mlp, weights, workspace)?;
        }
        self.logits(backend, batch.logits_for, workspace, logits)
    }

    /// `hidden += o(attend(rope(norm(qkv(norm(hidden))))))`
    fn attention(
        &self,
        backend: &mut B,
        attend: &Attend,
        weights: &LayerWeights<B::Linear, B::Vector>,
        workspace: &mut Workspace<B>,
        cache: &mut B::Cache,
    ) {
        let (attention, eps, n_rows) = (attend.attention, self.spec.norm_eps, attend.places.len());
        let Workspace { hidden, normed, delta, qkv, mixed, table_rows, .. } = workspace;
        backend.rms_norm(hidden, n_rows, &weights.before_attention, eps, normed);
        backend.linear(normed, n_rows, &weights.qkv, qkv);
        let norms = weights.qk_norms.as_ref().map(|[q, k]| HeadNorms { q, k, eps });
        let (rope_idx, table) = (attention.rope_idx, &self.rope_tables[attention.rope_idx]);
        let rotary_dim = self.spec.ropes[rope_idx].rotary_dim;
        let rotation = Rotation { rotary_dim, table, table_rows: &table_rows[rope_idx] };
        backend.attention(qkv, attend, norms, rotation, cache, mixed);
        match &weights.after_attention {
            None => backend.linear_add(mixed, n_rows, &weights.o, self.spec.hidden, delta, hidden),
            Some(norm) => {
                backend.linear(mixed, n_rows, std::slice::from_ref(&weights.o), delta);
                self.add_norm(backend, n_rows, norm, delta, normed, hidden);
            }
        }
    }

    /// `hidden += mlp(norm(hidden))`
    fn mlp(
        &self,
        backend: &mut B,
        n_rows: usize,
        mlp: &Mlp,
        weights: &LayerWeights<B::Linear, B::Vector>,
        workspace: &mut Workspace<B>,
    ) -> Result<()> {
        let Workspace { hidden, normed, delta, gate_up, gated, routed, .. } = workspace;
        backend.rms_norm(hidden, n_rows, &weights.before_mlp, self.spec.norm_eps, normed);
        match (mlp, &weights.mlp, routed) {
            (Mlp::Dense { width, activation, .. }, MlpWeights::Dense(dense), _) => {
                backend.gated_linear(normed, n_rows, &dense.gate_up, (*activation, *width), gate_up, gated);
                if weights.after_mlp.is_none() {
                    backend.linear_add(gated, n_rows, &dense.down, self.spec.hidden, delta, hidden);
                    return Ok(());
                }
                backend.linear(gated, n_rows, std::slice::from_ref(&dense.down), delta);
            }
            (Mlp::Experts(declared), MlpWeights::Experts { router, experts }, Some(buffers)) => {
                self.experts(backend, n_rows, declared, (router, experts), normed, [gate_up, gated, delta], buffers)?;
            }
            _ => unreachable!("weights and workspace are made from the same declaration"),
        }
        match &weights.after_mlp {
            None => backend.add(delta, n_rows, self.spec.hidden, hidden),
            Some(norm) => self.add_norm(backend, n_rows, norm, delta, normed, hidden),
        }
        Ok(())
    }

    /// Each expert takes its own rows; a row sums its experts' outputs in ascending order of experts.
    #[allow(clippy::too_many_arguments)] // buffers are borrowed one by one from the workspace
    fn experts(
        &self,
        backend: &mut B,
        n_rows: usize,
        declared: &Routed,
        (router, experts): (&Part<B::Linear>, &[Gated<B::Linear>]),
        normed: &B::Buffer,
        [gate_up, gated, delta]: [&mut B::Buffer; 3],
        buffers: &mut RoutedBuffers<B>,
    ) -> Result<()> {
        let (hidden, n_experts) = (self.spec.hidden, declared.n_experts);
        let call = Experts { routed: declared, router, experts };
        if backend.experts(normed, n_rows, &call, [&mut *gate_up, &mut *gated], delta) {
            return Ok(());
        }
        let RoutedBuffers { router: router_logits, input, output, routing } = buffers;
        backend.linear(normed, n_rows, std::slice::from_ref(router), router_logits);
        backend.read(router_logits, n_rows, n_experts, &mut routing.logits[..n_rows * n_experts])?;
        routing.route(declared, n_rows);
        backend.zero(delta, n_rows, hidden);
        for (expert_idx, expert) in experts.iter().enumerate() {
            let (rows, row_weights) = routing.of_expert(expert_idx);
            if rows.is_empty() {
                continue;
            }
            backend.gather(normed, rows, hidden, input);
            let (activation, width) = (declared.activation, declared.width);
            backend.gated_linear(input, rows.len(), &expert.gate_up, (activation, width), gate_up, gated);
            backend.linear(gated, rows.len(), std::slice::from_ref(&expert.down), output);
            backend.scatter_add(output, rows, row_weights, hidden, delta);
        }
        Ok(())
    }

    /// `hidden += norm(delta)`
    fn add_norm(
        &self,
        backend: &mut B,
        n_rows: usize,
        norm: &B::Vector,
        delta: &B::Buffer,
        normed: &mut B::Buffer,
        hidden: &mut B::Buffer,
    ) {
        backend.rms_norm(delta, n_rows, norm, self.spec.norm_eps, normed);
        backend.add(normed, n_rows, self.spec.hidden, hidden);
    }

    /// Logits after the wanted tokens only, a workspace full at a time.
    fn logits(
        &self,
        backend: &mut B,
        logits_for: &[usize],
        workspace: &mut Workspace<B>,
        logits: &mut [f32], // (n_logits, vocab)
    ) -> Result<()> {
        let (spec, head) = (&self.spec, self.weights.head.as_ref().unwrap_or(&self.weights.embed));
        let Workspace { hidden, normed, last, logits: logits_buffer, logit_rows, max_logits, .. } = workspace;
        for (wanted, logits) in logits_for.chunks(*max_logits).zip(logits.chunks_mut(*max_logits * spec.vocab)) {
            let n_rows = wanted.len();
            logit_rows.clear();
            logit_rows.extend(wanted.iter().map(|row| *row as u32));
            backend.gather(hidden, logit_rows, spec.hidden, last);
            backend.rms_norm(last, n_rows, &self.weights.norm, spec.norm_eps, normed);
            backend.linear(normed, n_rows, std::slice::from_ref(head), logits_buffer);
            if let Some(cap) = spec.final_softcap {
                backend.softcap(logits_buffer, n_rows, spec.vocab, cap);
            }
            backend.read(logits_buffer, n_rows, spec.vocab, logits)?;
        }
        Ok(())
    }

    /// Which row of each rotation table each token takes.
    fn find_table_rows(&self, batch: &Batch, workspace: &mut Workspace<B>) {
        for (rope, table_rows) in self.spec.ropes.iter().zip(&mut workspace.table_rows) {
            table_rows.clear();
            let row = |place: &Place| rope.row(self.context_len, place.position, place.sequence_len) as u32;
            table_rows.extend(batch.places.iter().map(row));
        }
    }

    fn check(
        &self,
        backend: &B,
        batch: &Batch,
        workspace: &Workspace<B>,
        cache: &B::Cache,
        n_logits: usize, // elements
    ) -> Result<()> {
        let fail = |what: String| Err(Error::InvalidArgument(what));
        let (n_tokens, room) = (batch.tokens.len(), backend.room(cache));
        if n_tokens != batch.places.len() || n_tokens > workspace.max_tokens {
            let (n_places, max) = (batch.places.len(), workspace.max_tokens);
            return fail(format!("{n_tokens} tokens at {n_places} places in a workspace for {max}"));
        }
        if let Some(token) = batch.tokens.iter().find(|token| **token as usize >= self.spec.vocab) {
            return fail(format!("token {token} of a vocabulary of {}", self.spec.vocab));
        }
        if let Some(row) = batch.logits_for.iter().find(|row| **row >= n_tokens) {
            return fail(format!("logits after token {row} of {n_tokens}"));
        }
        if Some(n_logits) != batch.logits_for.len().checked_mul(self.spec.vocab) {
            return fail(format!("{n_logits} logits for {} tokens", batch.logits_for.len()));
        }
        let n_positions = room.n_positions.min(self.context_len);
        if let Some(place) = batch.places.iter().find(|at| at.position >= n_positions || at.slot >= room.n_slots) {
            return fail(format!("{place:?} in {} slots of {n_positions} positions", room.n_slots));
        }
        check_runs(batch.places)
    }
}

/// Rows of one slot stand together, at consecutive positions.
fn check_runs(places: &[Place]) -> Result<()> {
    for (idx, pair) in places.windows(2).enumerate() {
        let [before, place] = [pair[0], pair[1]];
        let is_wrong = if before.slot == place.slot {
            place.position != before.position + 1
        } else {
            places[..=idx].iter().any(|earlier| earlier.slot == place.slot)
        };
        if is_wrong {
            return Err(Error::InvalidArgument(format!("{place:?} follows {before:?}")));
        }
    }
    Ok(())
}
