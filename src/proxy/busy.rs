//! How many exchanges a connection carries. One decision: each holds a token from its head to the end of its body, so that a
//! connection nobody uses can be told from one that only waits. Knows nothing of protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// A connection's exchanges.
#[derive(Clone, Debug, Default)]
pub struct Busy(Arc<State>);

#[derive(Debug, Default)]
struct State {
    count: AtomicUsize,
    begun: AtomicUsize,
    taken: AtomicUsize,
    changed: Notify,
}

/// One of them.
#[derive(Debug)]
pub struct Exchange(Arc<State>);

impl Busy {
    /// One begins.
    pub fn begin(&self) -> Exchange {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.changed.notify_one();
        Exchange(self.0.clone())
    }

    /// Whether there is no more than one.
    pub(super) fn is_alone(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) <= 1
    }

    /// Somebody took a piece of a request's body.
    pub(super) fn taken(&self) {
        self.0.taken.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that is another one when something began, or was taken, since.
    pub fn moves(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed).wrapping_add(self.0.taken.load(Ordering::Relaxed))
    }

    /// Waits until one ended and no other was there for so long, or up to twice as long: it looks from time to time and costs
    /// an exchange nothing.
    pub async fn unused_for(&self, limit: Duration) {
        let mut seen = None;
        loop {
            tokio::time::sleep(limit).await;
            let begun = self.0.begun.load(Ordering::Relaxed);
            let now = (begun > 0 && self.0.count.load(Ordering::Relaxed) == 0).then_some(begun);
            if now.is_some() && now == seen {
                return;
            }
            seen = now;
        }
    }

    /// Waits until one begins or ends.
    pub async fn changes(&self) {
        self.0.changed.notified().await;
    }

    /// Waits until there is none.
    pub async fn over(&self) {
        while self.0.count.load(Ordering::Relaxed) > 0 {
            self.changes().await;
        }
    }

    /// Waits until there was none for so long.
    pub async fn idle_for(&self, limit: Duration) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.count.load(Ordering::Relaxed) > 0 {
                changed.await;
            } else if tokio::time::timeout(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::Relaxed);
        self.0.changed.notify_one();
    }
}
