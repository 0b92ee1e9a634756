//! All memory of a forward pass but weights and cache, allocated once. Next in the flow: forward.rs.

use crate::backend::Backend;
use crate::error::{Error, Result};
use crate::model::Model;
use crate::routing::Routing;
use crate::spec::{Mlp, Spec};

/// Buffers for batches of up to `max_tokens` tokens.
pub struct Workspace<B: Backend> {
    pub(crate) max_tokens: usize,
    pub(crate) max_logits: usize,
    pub(crate) hidden: B::Buffer,  // (max_tokens, hidden): the residual stream
    pub(crate) normed: B::Buffer,  // (max_tokens, hidden)
    pub(crate) delta: B::Buffer,   // (max_tokens, hidden): what a part of a layer adds
    pub(crate) qkv: B::Buffer,     // (max_tokens, q | k | v)
    pub(crate) mixed: B::Buffer,   // (max_tokens, q columns): attention's output
    pub(crate) gate_up: B::Buffer, // (max_tokens, 2 * widest feed-forward)
    pub(crate) gated: B::Buffer,   // (max_tokens, widest feed-forward)
    pub(crate) last: B::Buffer,    // (max_logits, hidden)
    pub(crate) logits: B::Buffer,  // (max_logits, vocab)
    pub(crate) routed: Option<RoutedBuffers<B>>,
    pub(crate) table_rows: Vec<Vec<u32>>, // (ropes), each (max_tokens)
    pub(crate) logit_rows: Vec<u32>,      // (max_logits)
}

/// What layers with experts need besides.
pub(crate) struct RoutedBuffers<B: Backend> {
    pub router: B::Buffer, // (max_tokens, most experts)
    pub input: B::Buffer,  // (max_tokens, hidden): rows of one expert
    pub output: B::Buffer, // (max_tokens, hidden)
    pub routing: Routing,
}

impl<B: Backend> Workspace<B> {
    /// Allocates for batches of up to `max_tokens` tokens; logits are computed for up to `max_logits` rows at a time,
    /// which bounds memory and not how many may be asked for.
    ///
    /// # Errors
    /// `InvalidArgument` where either is zero; the backend's own.
    pub fn new(model: &Model<B>, backend: &B, max_tokens: usize, max_logits: usize) -> Result<Workspace<B>> {
        if max_tokens == 0 || max_logits == 0 {
            return Err(Error::InvalidArgument("a workspace for no tokens or no logits".to_owned()));
        }
        // A forward pass norms rows for logits in a buffer of `max_tokens` rows.
        let max_logits = max_logits.min(max_tokens);
        let spec = &model.spec;
        let widest = |width: fn(&crate::Layer) -> usize| spec.layers.iter().map(width).max().unwrap_or(0);
        let mlp_width = widest(|layer| match layer.mlp {
            Mlp::Dense { width, .. } => width,
            Mlp::Experts(routed) => routed.width,
        });
        let tokens = |width: usize| backend.buffer(max_tokens, width);
        Ok(Workspace {
            max_tokens,
            max_logits,
            hidden: tokens(spec.hidden)?,
            normed: tokens(spec.hidden)?,
            delta: tokens(spec.hidden)?,
            qkv: tokens(widest(|layer| layer.attention.qkv_width()))?,
            mixed: tokens(widest(|layer| layer.attention.q_width()))?,
            gate_up: tokens(2 * mlp_width)?,
            gated: tokens(mlp_width)?,
            last: backend.buffer(max_logits, spec.hidden)?,
            logits: backend.buffer(max_logits, spec.vocab)?,
            routed: RoutedBuffers::new(spec, backend, max_tokens)?,
            table_rows: spec.ropes.iter().map(|_| Vec::with_capacity(max_tokens)).collect(),
            logit_rows: Vec::with_capacity(max_logits),
        })
    }

    /// Tokens that a batch may have.
    pub fn max_tokens(&self) -> usize {
        self.max_tokens
    }
}

impl<B: Backend> RoutedBuffers<B> {
    fn new(spec: &Spec, backend: &B, max_tokens: usize) -> Result<Option<RoutedBuffers<B>>> {
        let Some(most) = spec.routed().map(|routed| routed.n_experts).max() else { return Ok(None) };
        Ok(Some(RoutedBuffers {
            router: backend.buffer(max_tokens, most)?,
            input: backend.buffer(max_tokens, spec.hidden)?,
            output: backend.buffer(max_tokens, spec.hidden)?,
            routing: Routing::new(max_tokens, most, spec.max_top_k()),
        }))
    }
}
