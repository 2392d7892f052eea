//! A bound on standing still. One decision: the time runs only while somebody is waited for, and starts anew with every step;
//! so a slow line is no stalled one. Knows nothing of what moves.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// A limit on one wait. Without one it is never reached.
pub struct Stall {
    limit: Option<Duration>,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    /// A bound of this length.
    pub fn new(limit: Option<Duration>) -> Stall {
        Stall { limit, waiting: None }
    }

    /// Another length from the next step on.
    pub fn set(&mut self, limit: Option<Duration>) {
        *self = Stall::new(limit);
    }

    /// Something moved.
    pub fn moved(&mut self) {
        self.waiting = None;
    }

    /// Nothing does: ready when it has taken too long.
    pub fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = self.limit else { return Poll::Pending };
        self.waiting.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(cx)
    }
}
