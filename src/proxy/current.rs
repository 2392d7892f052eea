//! The runtime of this moment, and each worker's place in it. One decision: what begins takes what stands here and keeps it to its
//! end, so that no request is half of one configuration and half of another; what is open asks what stands here now before it
//! goes on. Knows nothing of where a runtime comes from.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::{Runtime, Worker};

/// The runtime of this moment.
pub struct Current {
    runtime: ArcSwap<Runtime>,
    /// Its number: all that is looked at while nothing changed.
    number: AtomicU64,
}

impl Current {
    /// The first one.
    pub fn new(runtime: Arc<Runtime>) -> Arc<Current> {
        let number = AtomicU64::new(runtime.number);
        Arc::new(Current { runtime: ArcSwap::new(runtime), number })
    }

    /// The runtime.
    pub fn load(&self) -> Arc<Runtime> {
        self.runtime.load_full()
    }

    /// Its number. Never ahead of what [`Current::load`] answers afterwards.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Put another in its place.
    pub fn replace(&self, runtime: Arc<Runtime>) {
        let number = runtime.number;
        self.runtime.store(runtime);
        self.number.store(number, Ordering::Release);
    }
}

/// Where requests find the worker that they begin with.
pub struct Place(ArcSwap<Worker>);

impl Place {
    /// With this worker.
    pub fn new(worker: Worker) -> Arc<Place> {
        Arc::new(Place(ArcSwap::from_pointee(worker)))
    }

    /// Who stands here now.
    pub fn worker(&self) -> Arc<Worker> {
        self.0.load_full()
    }

    /// Let the same worker go on under another runtime. What it remembered of callers stays behind: their roles are bits whose
    /// meaning is the old file's.
    pub fn renew(&self, runtime: &Arc<Runtime>) {
        let old = self.worker();
        let new = Arc::new(old.renewed(runtime));
        self.0.store(new.clone());
        old.retire(&new);
    }
}
