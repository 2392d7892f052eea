//! How many connections to applications may be open, over all workers and upstreams. One decision: a client's connection is good for
//! one of them, and the other requests that it carries over HTTP/2 get no more than half of what there is: a hundred streams on each of a
//! few connections would take the descriptors of everybody else, and of the operator and the store (CWE-770). Knows nothing of who
//! connects where.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Those that may be open.
#[derive(Clone, Debug)]
pub struct Sockets {
    left: Arc<Semaphore>,
    all: usize,
}

/// One of them, until it is dropped.
pub(super) struct Descriptor(#[expect(dead_code, reason = "held, and dropped")] OwnedSemaphorePermit);

impl Sockets {
    /// So many.
    pub fn new(all: usize) -> Sockets {
        let all = all.min(Semaphore::MAX_PERMITS);
        Sockets { left: Arc::new(Semaphore::new(all)), all }
    }

    /// One, if there is one left for a request that is `alone` on its client's connection, or is not.
    pub(super) fn take(&self, alone: bool) -> Option<Descriptor> {
        if !alone && self.left.available_permits() <= self.all / 2 {
            return None;
        }
        self.left.clone().try_acquire_owned().ok().map(Descriptor)
    }
}

/// As many as anybody likes.
impl Default for Sockets {
    fn default() -> Sockets {
        Sockets::new(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::Sockets;

    #[test]
    fn what_is_not_alone_gets_half_and_everybody_has_it_back() {
        let sockets = Sockets::new(4);
        let crowd: Vec<_> = (0..4).map_while(|_| sockets.take(false)).collect();
        assert_eq!(crowd.len(), 2);
        let alone: Vec<_> = (0..4).map_while(|_| sockets.take(true)).collect();
        assert_eq!(alone.len(), 2);
        drop(crowd);
        assert!(sockets.take(false).is_none() && sockets.take(true).is_some(), "half are in use yet");
        drop(alone);
        assert!(sockets.take(false).is_some());
        assert!(Sockets::default().take(false).is_some());
    }
}
