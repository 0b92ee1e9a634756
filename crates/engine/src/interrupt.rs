//! A flag that stops a running model: set by Ctrl-C or by another thread, read between steps and inside a long forward
//! pass. Next in the flow: decoder.rs, whose forward pass reads it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that stops a running model. Clones share it.
///
/// ```
/// let interrupt = netweight_engine::Interrupt::new();
/// let in_handler = interrupt.clone();
/// assert!(!interrupt.is_set());
/// in_handler.set();
/// assert!(interrupt.is_set());
/// ```
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    flag: Arc<AtomicBool>,
}

impl Interrupt {
    /// A flag that is not set.
    pub fn new() -> Interrupt {
        Interrupt::default()
    }

    /// The same flag as one that a signal handler already sets.
    pub fn from_flag(flag: Arc<AtomicBool>) -> Interrupt {
        Interrupt { flag }
    }

    /// Asks the model to stop. Async-signal-safe: one atomic store.
    pub fn set(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }

    /// Makes the flag ready for the next run.
    pub fn clear(&self) {
        self.flag.store(false, Ordering::Relaxed);
    }

    /// Whether to stop. Cheap enough to ask in every layer: one relaxed load.
    pub fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// [`Error::Interrupted`](crate::Error::Interrupted) if set, for `?` between the layers of a forward pass.
    ///
    /// # Errors
    /// `Interrupted`.
    pub fn check(&self) -> crate::Result<()> {
        if self.is_set() { Err(crate::Error::Interrupted) } else { Ok(()) }
    }
}
