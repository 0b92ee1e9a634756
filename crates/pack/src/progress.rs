//! How a verb says how far it is.

/// Told by a verb what it is doing. Called from one thread at a time, but not always the same one.
pub trait Progress: Sync {
    /// The work will pass over `total_bytes` bytes of originals.
    fn start(&self, total_bytes: u64);
    /// Another `bytes` bytes of originals are done.
    fn advance(&self, bytes: u64);
    /// Something a person may want to know, without a line feed.
    fn note(&self, text: &str);
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
}
