//! How often the configuration was read again, counted. One decision: a file that was refused is counted whatever was wrong with it,
//! so that whoever watches learns that what stands in the file is not what runs. Knows nothing of files.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Timestamp;
use crate::counter::Counter;

/// The counts.
#[derive(Debug)]
pub struct Reloads {
    done: Counter,
    refused: Counter,
    last: AtomicU64,
}

impl Reloads {
    /// None, of a gateway that started now.
    pub fn new(now: Timestamp) -> Reloads {
        Reloads { done: Counter::default(), refused: Counter::default(), last: AtomicU64::new(now.seconds()) }
    }

    /// What stands in the file is what runs.
    pub fn done(&self, now: Timestamp) {
        self.done.add();
        self.last.store(now.seconds(), Ordering::Relaxed);
    }

    /// It is not.
    pub fn refused(&self) {
        self.refused.add();
    }

    /// Each outcome by its name.
    pub(super) fn all(&self) -> [(&'static str, u64); 2] {
        [("done", self.done.get()), ("refused", self.refused.get())]
    }

    /// When what runs was read, in seconds since the Unix epoch.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}
