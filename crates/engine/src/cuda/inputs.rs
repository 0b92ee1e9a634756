//! What changes from step to step, on its way to the GPU: tokens, places, rows. A value that stands in the same place of
//! the same sequence of operations always takes the same memory, so that a captured graph finds the next step's there.
//! Next in the flow: backend.rs.

use bytemuck::Pod;
use netweight_kernels_cuda::{Device, Memory, Pinned, Result};

/// Lists of up to `max_len` values, in pinned memory and on the GPU.
pub struct Inputs<T> {
    device: Device,
    max_len: usize,
    lists: Vec<List<T>>,
    n_used: usize,
}

struct List<T> {
    host: Pinned<T>,
    memory: Memory<T>,
    key: Option<usize>,
}

impl<T: Pod> Inputs<T> {
    /// None yet.
    pub fn new(device: &Device, max_len: usize) -> Inputs<T> {
        Inputs { device: device.clone(), max_len, lists: Vec::new(), n_used: 0 }
    }

    /// Begins a step. Copies of the step before must be done.
    pub fn begin(&mut self) {
        self.n_used = 0;
    }

    /// Index of the next list, which gets `values`. With a `key` that this step has had already, it is the list of then,
    /// whose values are the same. `copies` is false where a graph is to copy them.
    ///
    /// # Errors
    /// `OutOfMemory`, the driver's.
    ///
    /// # Panics
    /// Where there are more than `max_len`.
    pub fn put(&mut self, key: Option<usize>, values: impl ExactSizeIterator<Item = T>, copies: bool) -> Result<usize> {
        let known = key.and_then(|key| self.lists[..self.n_used].iter().position(|list| list.key == Some(key)));
        if let Some(idx) = known {
            return Ok(idx);
        }
        if self.n_used == self.lists.len() {
            let (host, memory) = (self.device.pinned(self.max_len)?, self.device.zeroed(self.max_len)?);
            self.lists.push(List { host, memory, key });
        }
        let (idx, n_values) = (self.n_used, values.len());
        let list = &mut self.lists[idx];
        list.key = key;
        self.n_used += 1;
        list.host.as_mut_slice()[..n_values].iter_mut().zip(values).for_each(|(to, value)| *to = value);
        if copies {
            list.memory.copy_from(0, &list.host, 0, n_values)?;
        }
        Ok(idx)
    }

    /// A list on the GPU.
    ///
    /// # Panics
    /// Where this step has not put it.
    pub fn get(&self, idx: usize) -> &Memory<T> {
        assert!(idx < self.n_used);
        &self.lists[idx].memory
    }
}
