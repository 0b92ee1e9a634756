//! What to measure of a model. Next in the flow: run.rs.

use std::path::PathBuf;

use netweight_engine::{DeviceChoice, Layout, LoadOptions, Precision};

use crate::options::Error;

/// What to measure of a model.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Checkpoint or archive.
    pub model: PathBuf,
    /// Layouts of bf16 weights; none: bf16, and the exact one that this CPU runs fastest.
    pub layouts: Vec<Layout>,
    /// What activations are rounded to, each with every layout that has it; none: the engine's default.
    pub activations: Vec<Precision>,
    /// Numbers of threads, each at least 1. Peers run with the largest.
    pub threads: Vec<usize>,
    /// Tokens of the prompt, at least 1.
    pub prompt: usize,
    /// Tokens that each sequence of a batch goes on by, at least 1.
    pub generate: usize,
    /// Sequences that are decoded together, each at least 1.
    pub batches: Vec<usize>,
    /// How often everything is measured; at least 1.
    pub rounds: usize,
    /// Whether to measure other engines.
    pub peers: bool,
    /// Checkpoint that other engines run; `None`: the model itself, which must be one then.
    pub peers_of: Option<PathBuf>,
    /// Python interpreter that has the other engines.
    pub python: PathBuf,
    /// Folder for the files that llama.cpp reads; files in it that are newer than the model are used again. `None`: a
    /// temporary folder.
    pub gguf: Option<PathBuf>,
    /// Positions of a sequence; `None`: as many as the prompt and what follows need.
    pub context: Option<usize>,
    /// A `netweight` program that measures memory in a process of its own; `None`: memory is not measured.
    pub program: Option<PathBuf>,
}

impl ModelOptions {
    /// The defaults, for a model.
    pub fn new(model: PathBuf) -> ModelOptions {
        let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
        ModelOptions {
            model,
            layouts: Vec::new(),
            activations: Vec::new(),
            threads: if n_cores == 1 { vec![1] } else { vec![1, n_cores] },
            prompt: 128,
            generate: 32,
            batches: vec![1, 8],
            rounds: 5,
            peers: true,
            peers_of: None,
            python: "python3".into(),
            gguf: None,
            context: None,
            program: None,
        }
    }

    /// The same with every count at least 1, and lists without repetitions, ascending.
    pub(crate) fn sound(&self) -> ModelOptions {
        let counts = |list: &[usize]| {
            let mut counts: Vec<usize> = list.iter().map(|&count| count.max(1)).collect();
            counts.sort_unstable();
            counts.dedup();
            if counts.is_empty() { vec![1] } else { counts }
        };
        ModelOptions {
            threads: counts(&self.threads),
            batches: counts(&self.batches),
            prompt: self.prompt.max(1),
            generate: self.generate.max(1),
            rounds: self.rounds.max(1),
            ..self.clone()
        }
    }

    /// Refuses a context that is too short for what is to be measured.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let needed = self.prompt + self.generate;
        match self.context {
            Some(context) if context < needed => {
                let what = format!("a context of {context} tokens; prompt and what follows need {needed}");
                Err(netweight_engine::Error::invalid(what).into())
            }
            _ => Ok(()),
        }
    }

    /// Layouts and activations to ask the engine for; no layout is the fastest one, no activations are the default.
    pub(crate) fn wanted(&self) -> Vec<Wanted> {
        let layouts = match self.layouts.as_slice() {
            [] => vec![Some(Layout::Bf16), None],
            layouts => layouts.iter().copied().map(Some).collect(),
        };
        let activations = match self.activations.as_slice() {
            [] => vec![None],
            activations => activations.iter().copied().map(Some).collect(),
        };
        let all = layouts.iter().flat_map(|&layout| activations.iter().map(move |&precision| (layout, precision)));
        // Integers are multiplied with indices alone.
        all.filter(|&(layout, precision)| {
            precision != Some(Precision::Int8) || layout.is_none_or(|layout| layout.is_index())
        })
        .map(|(layout, precision)| Wanted { layout, precision })
        .collect()
    }

    pub(crate) fn max_threads(&self) -> usize {
        self.threads.iter().copied().max().unwrap_or(1)
    }

    pub(crate) fn max_batch(&self) -> usize {
        self.batches.iter().copied().max().unwrap_or(1)
    }

    /// Options of the engine for one layout.
    pub(crate) fn engine(&self, Wanted { layout, precision }: Wanted) -> LoadOptions {
        /// Longer prompts run in pieces of this many tokens.
        const MAX_PREFILL: usize = 512;
        LoadOptions {
            device: DeviceChoice::Cpu,
            n_threads: self.max_threads(),
            layout,
            precision,
            max_positions: Some(self.context.unwrap_or(self.prompt + self.generate)),
            n_slots: self.max_batch(),
            max_batch_tokens: Some(self.prompt.min(MAX_PREFILL).max(self.max_batch())),
            ..LoadOptions::default()
        }
    }
}

/// What to ask the engine for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) layout: Option<Layout>,
    pub(crate) precision: Option<Precision>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_sound() {
        let options =
            ModelOptions { threads: vec![4, 0, 1, 4], batches: Vec::new(), rounds: 0, ..ModelOptions::new("x".into()) };
        let sound = options.sound();
        assert_eq!((sound.threads.as_slice(), sound.batches.as_slice(), sound.rounds), (&[1, 4][..], &[1][..], 1));
        assert_eq!((sound.max_threads(), sound.max_batch()), (4, 1));
    }

    #[test]
    fn integers_are_multiplied_with_indices() {
        let activations = vec![Precision::Bf16, Precision::Int8];
        let layouts = vec![Layout::Exact11, Layout::Index4];
        let options = ModelOptions { layouts, activations, ..ModelOptions::new("x".into()) };
        let wanted: Vec<_> = options.wanted().iter().map(|wanted| (wanted.layout, wanted.precision)).collect();
        let [exact, index] = [Some(Layout::Exact11), Some(Layout::Index4)];
        let expected = [(exact, Some(Precision::Bf16)), (index, Some(Precision::Bf16)), (index, Some(Precision::Int8))];
        assert_eq!(wanted, expected);
    }
}
