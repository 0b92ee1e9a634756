//! Captured steps: a step of the same kind as one before is replayed in one call. Next in the flow: decoder.rs.

use std::collections::HashMap;

use netweight_kernels_cuda::{Device, Graph, Result};

use super::backend::{Cuda, Ending, Mode};

/// Tokens of a step that is captured, at most.
pub const MAX_TOKENS: usize = 64;

/// What must be the same for a graph to be the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Tokens, with logits after each.
    pub n_tokens: usize,
    /// Spans of attention that no position is beyond.
    pub n_spans: usize,
    /// What it ends with.
    pub ending: Ending,
}

/// Steps that were seen.
pub struct Graphs {
    device: Device,
    is_on: bool, // until a capture fails
    kinds: HashMap<Kind, Option<Graph>>,
}

impl Graphs {
    /// None yet.
    pub fn new(device: &Device) -> Graphs {
        Graphs { device: device.clone(), is_on: true, kinds: HashMap::new() }
    }

    /// How to run a step: the first of its kind eagerly, so that all memory is there; the second is captured.
    pub fn mode(&self, kind: Option<Kind>) -> Mode {
        match kind.filter(|_| self.is_on).and_then(|kind| self.kinds.get(&kind)) {
            None => Mode::Eager,
            Some(None) => Mode::Capture,
            Some(Some(_)) => Mode::Replay,
        }
    }

    /// Seconds that the GPU takes for a captured step of `n_tokens` tokens, which is run again with the same inputs; `None`
    /// where there is none.
    ///
    /// # Errors
    /// The driver's.
    pub fn time(&self, n_tokens: usize) -> Result<Option<f64>> {
        let of_size = self.kinds.iter().filter(|(kind, _)| kind.n_tokens == n_tokens);
        let graph = of_size.max_by_key(|(kind, _)| kind.n_spans).and_then(|(_, graph)| graph.as_ref());
        graph.map(|graph| self.device.time(|| graph.replay())).transpose()
    }

    /// Runs a forward pass in a mode. What a graph computed is in [`Cuda::logits`] afterwards.
    ///
    /// # Errors
    /// Those of `forward`, and the driver's. After a failed capture nothing is captured any more.
    pub fn run<E: From<netweight_kernels_cuda::Error>>(
        &mut self,
        (mode, kind): (Mode, Option<Kind>),
        cuda: &mut Cuda,
        forward: impl FnOnce(&mut Cuda) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(kind) = kind else { return forward(cuda) };
        match mode {
            Mode::Eager => {
                forward(cuda)?;
                if cuda.can_capture() {
                    self.kinds.insert(kind, None);
                }
                Ok(())
            }
            Mode::Capture => {
                self.device.begin_capture()?;
                let done = forward(cuda);
                let graph = self.device.end_capture();
                done?; // An interrupt, or what would have failed in any mode: the next step is captured.
                self.is_on = matches!(graph, Ok(Some(_)));
                if let Some(graph) = graph? {
                    graph.replay()?;
                    self.kinds.insert(kind, Some(graph));
                }
                Ok(self.device.synchronize()?)
            }
            Mode::Replay => {
                forward(cuda)?;
                if let Some(Some(graph)) = self.kinds.get(&kind) {
                    graph.replay()?;
                }
                Ok(self.device.synchronize()?)
            }
        }
    }
}
