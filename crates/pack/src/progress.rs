//! How a verb says how far it is, and is told to stop.

use netweight_container::{Error, Result};

/// Told by a verb what it is doing. Called from one thread at a time, but not always the same one.
pub trait Progress: Sync {
    /// The work will pass over `total_bytes` bytes of originals.
    fn start(&self, total_bytes: u64);
    /// Another `bytes` bytes of originals are done.
    fn advance(&self, bytes: u64);
    /// Something a person may want to know, without a line feed.
    fn note(&self, text: &str);
    /// Whether to stop: the verb then leaves things as after any other error and gives
    /// [`Error::Interrupted`](crate::Error::Interrupted). Asked between batches, by the thread that called the verb.
    fn is_interrupted(&self) -> bool {
        false
    }
}

/// # Errors
/// `Interrupted` where `progress` says so.
pub(crate) fn check_interrupted(progress: &dyn Progress) -> Result<()> {
    if progress.is_interrupted() { Err(Error::interrupted()) } else { Ok(()) }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _total_bytes: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn note(&self, _text: &str) {}
}
