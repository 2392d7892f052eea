//! A number that only grows. One decision: rooms count in plain atomics of their own, so that whoever exports them needs no lock
//! and no library where requests pass. Knows nothing of who reads it.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number, from zero at the start of the process.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add(&self) {
        self.add_many(1);
    }

    /// So many more.
    pub fn add_many(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
